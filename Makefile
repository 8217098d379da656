# mesync
#
#   make            build the release binary: target/release/mesync
#   make demo       build it quickly, then show three machines and a hub on this one (a few seconds)
#   make test       all tests
#   make page-test  the hub's page in headless Chromium (a minute); leaves pictures in target/page/
#   make bucket-test  three hubs on one bucket of SeaweedFS (`weed`), which are killed in turn (a minute or two); ROUNDS=40 for longer
#   make lint       format, clippy, build without TLS, documentation, man pages, shell scripts
#   make check      lint, test, then page-test: what must hold before a change goes in
#   make mutants    break each rule of the sync engine in a copy of it; the simulation must catch each (some minutes)
#   make fuzz       feed each parser of foreign bytes with inputs made for it, FUZZ_SECONDS each, up to the first crash
#   make install    into DESTDIR and PREFIX (/usr/local): binary, man pages, systemd units, completions
#   make uninstall  removes what install put there; data and settings stay
#   make dist       reproducible tarballs for DIST_TARGETS, with SHA256SUMS: dist/
#   make dist-test  runs the demo with the binary of each tarball, foreign ones under qemu-user
#   make deb        a Debian package of the binary of DEB_TARGET: dist/
#   make systemd-test  installs, runs, upgrades and removes that package under a real systemd (as root: a minute or two)
#   make attacks    static, then all attacks of tests/attacks/ on it, also with TLS and with 64 MB of memory (as root: 12 minutes)
#   make bench      costs of mesync beside those of programs that do the same (Debian packages; minutes): ROWS=, PEERS=, RUNS=
#   make static     one binary without any shared library, for routers: target/$(STATIC_TARGET)/release/mesync
#   make small      the same without TLS: target/$(STATIC_TARGET)/release/mesync-small
#   make completions  writes contrib/completions/ anew, after a change of commands or flags
#   make clean      removes target/ and dist/
#
# Variables: PREFIX, DESTDIR, CARGO, LINKS (other names for the binary, "s3ec"; LINKS= for none),
# STATIC_TARGET (x86_64-unknown-linux-musl), BINARY (what install installs; "make install" does not build it anew
# if it is there, and does not run it), DIST_TARGETS (x86_64 and aarch64 with musl), DEB_TARGET (x86_64),
# MUTANTS (a part of their names; all of tests/mutants/), FUZZ_SECONDS (600), FUZZ_TARGETS (all of
# tests/fuzz/fuzz_targets/).

PREFIX = /usr/local
DESTDIR =
CARGO = cargo
LINKS = s3ec
STATIC_TARGET = x86_64-unknown-linux-musl
BINARY = target/release/mesync
DIST_TARGETS = x86_64-unknown-linux-musl aarch64-unknown-linux-musl
DEB_TARGET = x86_64-unknown-linux-musl
# equal functions once, short relocations: 250 KB less
STATIC_FLAGS = -Clinker=rust-lld -Clink-self-contained=yes -Clink-arg=--icf=all -Clink-arg=--pack-dyn-relocs=relr
FUZZ_SECONDS = 600
S3EC = target/interop/bin/s3ec
# the last commit whose client and hub know neither TLS on the hub's port nor joining, for tests/it/hub/older.rs
OLDER_COMMIT = 1c1db3b37aeb9c30df1ac31db44dda3a5526a9e2
OLDER = target/interop/bin/mesync-0.1
FUZZ_TARGETS = head gate sse message batch settings token names form files

bindir = $(PREFIX)/bin
mandir = $(PREFIX)/share/man
unitdir = $(PREFIX)/lib/systemd/system
userunitdir = $(PREFIX)/lib/systemd/user
sysusersdir = $(PREFIX)/lib/sysusers.d
tmpfilesdir = $(PREFIX)/lib/tmpfiles.d
bashdir = $(PREFIX)/share/bash-completion/completions
zshdir = $(PREFIX)/share/zsh/site-functions
fishdir = $(PREFIX)/share/fish/vendor_completions.d

INSTALL = install
UNITS = mesync.service mesync-hub.service mesync-pass.service mesync-pass.timer
USER_UNITS = mesync.service mesync-hub.service
MAN_PAGES = $(wildcard man/*.[1-9])

# shell scripts by their own first line, and those whose first line names something that shellcheck does not know
SCRIPTS = .ci/run $(wildcard contrib/*.sh contrib/*/*.sh contrib/hooks/* tests/*.sh tests/*/*.sh)
SH_SCRIPTS = contrib/openwrt/mesync.init contrib/openrc/mesync

.PHONY: all demo test lint check mutants fuzz install uninstall static small attacks bench dist dist-test deb systemd-test page-test bucket-test completions clean help

all:
	$(CARGO) build --release --locked

demo:
	$(CARGO) build --profile quick --locked
	MESYNC=target/quick/mesync sh contrib/demo.sh

# most tests wait for the programs that they start: three at a time on each processor take a third of the time
test: $(S3EC) $(OLDER)
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((3 * $$(nproc)))} $(CARGO) test --locked --no-fail-fast

# the published client that the hub must serve, for tests/it/s3em/; not optimised much, since it runs a minute
$(S3EC):
	CARGO_PROFILE_RELEASE_OPT_LEVEL=1 $(CARGO) install s3ec --version 0.2.3 --locked --root target/interop

# a shallow clone does not have the commit and asks its origin for it; a tarball leaves those tests out
$(OLDER):
	@if git cat-file -e $(OLDER_COMMIT) 2>/dev/null || git fetch --quiet --depth 1 origin $(OLDER_COMMIT); then \
		at=target/interop/older && rm -rf $$at && mkdir -p $$at target/interop/bin && \
		git archive $(OLDER_COMMIT) Cargo.toml Cargo.lock src tests/bench tests/fuzz/checks.rs | tar -xf - -C $$at && \
		CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) build --locked --bin mesync --manifest-path $$at/Cargo.toml --target-dir $$at/target && \
		mv $$at/target/debug/mesync $@ && rm -rf $$at || exit 1; \
	else \
		echo "no commit $(OLDER_COMMIT) here: the tests beside version 0.1 are left out" >&2; \
	fi

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
	$(CARGO) clippy --locked --all-targets --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

check: lint test page-test

# skipped, with a line that says so, where there is no Chromium
page-test:
	$(CARGO) build --locked
	BINARY=target/debug/mesync PYTHONDONTWRITEBYTECODE=1 python3 tests/page/page.py

# skipped, with a line that says so, where there is no weed
bucket-test:
	$(CARGO) build --locked
	BINARY=target/debug/mesync PYTHONDONTWRITEBYTECODE=1 python3 tests/bucket/bucket.py

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
	$(INSTALL) -d '$(DESTDIR)$(unitdir)' '$(DESTDIR)$(userunitdir)' '$(DESTDIR)$(sysusersdir)' '$(DESTDIR)$(tmpfilesdir)'
	$(INSTALL) -d '$(DESTDIR)$(bashdir)' '$(DESTDIR)$(zshdir)' '$(DESTDIR)$(fishdir)'
	$(INSTALL) -m 755 '$(BINARY)' '$(DESTDIR)$(bindir)/mesync'
	for page in $(MAN_PAGES); do \
		$(INSTALL) -m 644 "$$page" '$(DESTDIR)$(mandir)'/"man$${page##*.}/$${page##*/}" || exit 1; \
	done
	for unit in $(UNITS:%=system/%) $(USER_UNITS:%=user/%); do \
		case $$unit in system/*) dir='$(DESTDIR)$(unitdir)' ;; *) dir='$(DESTDIR)$(userunitdir)' ;; esac; \
		sed 's|@bindir@|$(bindir)|g' "contrib/systemd/$${unit#system/}" >"$$dir/$${unit#*/}" && \
		chmod 644 "$$dir/$${unit#*/}" || exit 1; \
	done
	$(INSTALL) -m 644 contrib/systemd/sysusers.conf '$(DESTDIR)$(sysusersdir)/mesync.conf'
	$(INSTALL) -m 644 contrib/systemd/tmpfiles.conf '$(DESTDIR)$(tmpfilesdir)/mesync.conf'
	$(INSTALL) -m 644 contrib/completions/mesync.bash '$(DESTDIR)$(bashdir)/mesync'
	$(INSTALL) -m 644 contrib/completions/_mesync '$(DESTDIR)$(zshdir)/_mesync'
	$(INSTALL) -m 644 contrib/completions/mesync.fish '$(DESTDIR)$(fishdir)/mesync.fish'
	for name in $(LINKS); do \
		link='$(DESTDIR)$(bindir)'/"$$name"; \
		if { [ -e "$$link" ] || [ -L "$$link" ]; } && [ "$$(readlink "$$link")" != mesync ]; then \
			echo "$$link is another program: left as it is" >&2; \
		else \
			ln -sf mesync "$$link" && \
			ln -sf mesync.1 '$(DESTDIR)$(mandir)/man1'/"$$name.1" && \
			ln -sf mesync '$(DESTDIR)$(bashdir)'/"$$name" && \
			ln -sf mesync.fish '$(DESTDIR)$(fishdir)'/"$$name.fish" || exit 1; \
		fi; \
	done

uninstall:
	for name in $(LINKS); do \
		link='$(DESTDIR)$(bindir)'/"$$name"; \
		if [ "$$(readlink "$$link")" = mesync ]; then \
			rm -f "$$link" '$(DESTDIR)$(mandir)/man1'/"$$name.1" '$(DESTDIR)$(bashdir)'/"$$name" '$(DESTDIR)$(fishdir)'/"$$name.fish"; \
		fi; \
	done
	rm -f '$(DESTDIR)$(bindir)/mesync'
	for page in $(MAN_PAGES); do rm -f '$(DESTDIR)$(mandir)'/"man$${page##*.}/$${page##*/}"; done
	for unit in $(UNITS); do rm -f '$(DESTDIR)$(unitdir)'/"$$unit"; done
	for unit in $(USER_UNITS); do rm -f '$(DESTDIR)$(userunitdir)'/"$$unit"; done
	rm -f '$(DESTDIR)$(sysusersdir)/mesync.conf' '$(DESTDIR)$(tmpfilesdir)/mesync.conf'
	rm -f '$(DESTDIR)$(bashdir)/mesync' '$(DESTDIR)$(zshdir)/_mesync' '$(DESTDIR)$(fishdir)/mesync.fish'

static:
	@command -v musl-gcc >/dev/null || { \
		echo "make static needs musl-gcc for the TLS library (Debian: apt-get install musl-tools)" >&2; exit 1; }
	@[ -d "$$(rustc --print sysroot)/lib/rustlib/$(STATIC_TARGET)/lib" ] || rustup target add $(STATIC_TARGET)
	RUSTFLAGS='$(STATIC_FLAGS)' $(CARGO) build --release --locked --target $(STATIC_TARGET) $(STATIC_FEATURES)
	@binary='target/$(STATIC_TARGET)/release/mesync'; \
	if command -v file >/dev/null; then file "$$binary"; fi; \
	if ldd "$$binary" 2>/dev/null | grep -q '=>'; then \
		echo "$$binary is not static:" >&2; ldd "$$binary" >&2; exit 1; \
	fi; \
	echo "static: $$binary, $$(wc -c <"$$binary") bytes"

small:
	$(MAKE) static STATIC_FEATURES=--no-default-features
	cp target/$(STATIC_TARGET)/release/mesync target/$(STATIC_TARGET)/release/mesync-small

attacks: static
	MESYNC_TEST_BINARY='$(CURDIR)/target/$(STATIC_TARGET)/release/mesync' $(CARGO) test --locked --test attacks -- --nocapture

# ROWS, PEERS, RUNS, FILES, BIG_MIB and SYNCS pass through the environment: see tests/bench/bench.py. What a file costs among many,
# a listing and event streams have scripts of their own beside it.
bench: $(BINARY)
	BINARY='$(BINARY)' PYTHONDONTWRITEBYTECODE=1 python3 tests/bench/bench.py

dist:
	CARGO='$(CARGO)' contrib/dist.sh $(DIST_TARGETS)

dist-test:
	contrib/dist-test.sh

deb:
	CARGO='$(CARGO)' contrib/debian/build.sh $(DEB_TARGET)

# DEB_TARGET must be of this machine
systemd-test:
	tests/systemd/run.sh

# the binary of another machine cannot print them while it is installed; tests/it/cli/install.rs compares them
completions:
	mkdir -p contrib/completions
	$(CARGO) run --locked --quiet -- completions bash >contrib/completions/mesync.bash
	$(CARGO) run --locked --quiet -- completions zsh >contrib/completions/_mesync
	$(CARGO) run --locked --quiet -- completions fish >contrib/completions/mesync.fish

clean:
	$(CARGO) clean
	rm -rf dist

help:
	@sed -n '/^#   make/s/^#   //p' Makefile
