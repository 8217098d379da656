# mesync
#
#   make            build the release binary: target/release/mesync
#   make demo       build it, then show three machines and a hub on this one (a few seconds)
#   make test       all tests
#   make lint       format, clippy, build without TLS, documentation, man pages, shell scripts
#   make check      lint, then test: what must hold before a change goes in
#   make mutants    break each rule of the sync engine in a copy of it; the simulation must catch each (some minutes)
#   make fuzz       feed each parser of foreign bytes with inputs made for it, FUZZ_SECONDS each, up to the first crash
#   make install    into DESTDIR and PREFIX (/usr/local): binary, man pages, systemd units, completions
#   make uninstall  removes what install put there; data and settings stay
#   make attacks    static, then all attacks of tests/attacks/ on it, also with 64 MB of memory (as root: 8 minutes)
#   make bench      costs of mesync beside those of programs that do the same (Debian packages; minutes): ROWS=, PEERS=, RUNS=
#   make static     one binary without any shared library, for routers: target/$(STATIC_TARGET)/release/mesync
#   make clean      removes target/
#
# Variables: PREFIX, DESTDIR, CARGO, LINKS (other names for the binary, "s3ec"; LINKS= for none),
# STATIC_TARGET (x86_64-unknown-linux-musl), BINARY (what install installs; "make install" does not build it anew
# if it is there), MUTANTS (a part of their names; all of tests/mutants/), FUZZ_SECONDS (600),
# FUZZ_TARGETS (all of tests/fuzz/fuzz_targets/).

PREFIX = /usr/local
DESTDIR =
CARGO = cargo
LINKS = s3ec
STATIC_TARGET = x86_64-unknown-linux-musl
BINARY = target/release/mesync
FUZZ_SECONDS = 600
S3EC = target/interop/bin/s3ec
FUZZ_TARGETS = head gate sse message batch settings token names form files

bindir = $(PREFIX)/bin
mandir = $(PREFIX)/share/man
unitdir = $(PREFIX)/lib/systemd/system
userunitdir = $(PREFIX)/lib/systemd/user
bashdir = $(PREFIX)/share/bash-completion/completions
zshdir = $(PREFIX)/share/zsh/site-functions
fishdir = $(PREFIX)/share/fish/vendor_completions.d

INSTALL = install
UNITS = mesync.service mesync-hub.service
MAN_PAGES = $(wildcard man/*.[1-9])

# shell scripts by their own first line, and those whose first line names something that shellcheck does not know
SCRIPTS = .ci/run $(wildcard contrib/*.sh contrib/hooks/* tests/*.sh tests/*/*.sh)
SH_SCRIPTS = contrib/openwrt/mesync.init contrib/openrc/mesync

.PHONY: all demo test lint check mutants fuzz install uninstall static attacks bench clean help

all:
	$(CARGO) build --release --locked

demo: all
	MESYNC='$(BINARY)' sh contrib/demo.sh

test: $(S3EC)
	$(CARGO) test --locked --no-fail-fast

# the published client that the hub must serve, for tests/it/s3em/; not optimised much, since it runs a minute
$(S3EC):
	CARGO_PROFILE_RELEASE_OPT_LEVEL=1 $(CARGO) install s3ec --version 0.2.3 --locked --root target/interop

# what costs least comes first
lint:
	@missing=; \
	for tool in mandoc shellcheck; do \
		command -v "$$tool" >/dev/null || missing="$$missing $$tool"; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "make lint needs:$$missing (Debian: apt-get install$$missing)" >&2; exit 1; \
	fi
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml
	mandoc -T lint -W warning man/*.[1-9]
	shellcheck $(SCRIPTS)
	shellcheck -s sh $(SH_SCRIPTS)
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) check --locked --all-targets --no-default-features
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

check: lint test

# MUTANTS=WORD chooses those whose name has this word
mutants:
	$(CARGO) test --locked --test mutants -- --ignored --nocapture

# without a sanitizer the stable compiler is enough; all that one could find is in the few lines with unsafe, which parse
# nothing. A crash is left in tests/fuzz/artifacts/: "cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none TARGET FILE" repeats it
fuzz:
	@command -v cargo-fuzz >/dev/null || { echo "make fuzz needs cargo-fuzz: cargo install cargo-fuzz" >&2; exit 1; }
	for target in $(FUZZ_TARGETS); do \
		mkdir -p "tests/fuzz/corpus/$$target" && \
		$(CARGO) fuzz run --fuzz-dir tests/fuzz --sanitizer none "$$target" "tests/fuzz/corpus/$$target" "tests/fuzz/seeds/$$target" -- \
			-dict="tests/fuzz/dict/$$target" -max_total_time=$(FUZZ_SECONDS) -max_len=20000 -timeout=10 -rss_limit_mb=512 \
			-print_final_stats=1 || exit 1; \
	done

$(BINARY):
	$(CARGO) build --release --locked

install: $(BINARY)
	$(INSTALL) -d '$(DESTDIR)$(bindir)' '$(DESTDIR)$(mandir)/man1' '$(DESTDIR)$(mandir)/man5' '$(DESTDIR)$(mandir)/man7'
	$(INSTALL) -d '$(DESTDIR)$(unitdir)' '$(DESTDIR)$(userunitdir)'
	$(INSTALL) -d '$(DESTDIR)$(bashdir)' '$(DESTDIR)$(zshdir)' '$(DESTDIR)$(fishdir)'
	$(INSTALL) -m 755 '$(BINARY)' '$(DESTDIR)$(bindir)/mesync'
	for name in $(LINKS); do \
		link='$(DESTDIR)$(bindir)'/"$$name"; \
		if [ -e "$$link" ] && [ "$$(readlink "$$link")" != mesync ]; then \
			echo "$$link is another program: left as it is" >&2; \
		else \
			ln -sf mesync "$$link" || exit 1; \
		fi; \
	done
	for page in $(MAN_PAGES); do \
		$(INSTALL) -m 644 "$$page" '$(DESTDIR)$(mandir)'/"man$${page##*.}/$${page##*/}" || exit 1; \
	done
	for unit in $(UNITS); do \
		sed 's|@bindir@|$(bindir)|g' "contrib/systemd/$$unit" >'$(DESTDIR)$(unitdir)'/"$$unit" && \
		sed 's|@bindir@|$(bindir)|g' "contrib/systemd/user/$$unit" >'$(DESTDIR)$(userunitdir)'/"$$unit" && \
		chmod 644 '$(DESTDIR)$(unitdir)'/"$$unit" '$(DESTDIR)$(userunitdir)'/"$$unit" || exit 1; \
	done
	'$(BINARY)' completions bash >'$(DESTDIR)$(bashdir)/mesync'
	'$(BINARY)' completions zsh >'$(DESTDIR)$(zshdir)/_mesync'
	'$(BINARY)' completions fish >'$(DESTDIR)$(fishdir)/mesync.fish'

uninstall:
	for name in $(LINKS); do \
		link='$(DESTDIR)$(bindir)'/"$$name"; \
		if [ "$$(readlink "$$link")" = mesync ]; then rm -f "$$link"; fi; \
	done
	rm -f '$(DESTDIR)$(bindir)/mesync'
	for page in $(MAN_PAGES); do rm -f '$(DESTDIR)$(mandir)'/"man$${page##*.}/$${page##*/}"; done
	for unit in $(UNITS); do rm -f '$(DESTDIR)$(unitdir)'/"$$unit" '$(DESTDIR)$(userunitdir)'/"$$unit"; done
	rm -f '$(DESTDIR)$(bashdir)/mesync' '$(DESTDIR)$(zshdir)/_mesync' '$(DESTDIR)$(fishdir)/mesync.fish'

static:
	@command -v musl-gcc >/dev/null || { \
		echo "make static needs musl-gcc for the TLS library (Debian: apt-get install musl-tools)" >&2; exit 1; }
	@[ -d "$$(rustc --print sysroot)/lib/rustlib/$(STATIC_TARGET)/lib" ] || rustup target add $(STATIC_TARGET)
	$(CARGO) build --release --locked --target $(STATIC_TARGET)
	@binary='target/$(STATIC_TARGET)/release/mesync'; \
	if command -v file >/dev/null; then file "$$binary"; fi; \
	if ldd "$$binary" 2>/dev/null | grep -q '=>'; then \
		echo "$$binary is not static:" >&2; ldd "$$binary" >&2; exit 1; \
	fi; \
	echo "static: $$binary, $$(wc -c <"$$binary") bytes"

attacks: static
	MESYNC_TEST_BINARY='$(CURDIR)/target/$(STATIC_TARGET)/release/mesync' $(CARGO) test --locked --test attacks -- --nocapture

# ROWS, PEERS, RUNS, FILES, BIG_MIB and SYNCS pass through the environment: see tests/bench/bench.py
bench: $(BINARY)
	BINARY='$(BINARY)' PYTHONDONTWRITEBYTECODE=1 python3 tests/bench/bench.py

clean:
	$(CARGO) clean

help:
	@sed -n '/^#   make/s/^#   //p' Makefile
