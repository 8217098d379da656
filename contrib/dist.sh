#!/bin/sh
# Builds one tarball a target into dist/, with SHA256SUMS: binary, man pages, completions, units, examples, and the Makefile
# that installs them.
#
#   make dist                                          x86_64 and aarch64
#   make dist DIST_TARGETS=armv7-unknown-linux-musleabihf     any other target for which rustup has a library
#   DIST_DIR=/tmp/again contrib/dist.sh TARGET…        elsewhere, to compare
#
# The same commit gives the same bytes in any directory, with the same rustc and clang. clang compiles the TLS library's C and
# assembly for every target without its headers, and rust-lld links against the C library that rustc has for it: so no toolchain
# of the target is needed. For mips, rustc has no library and redb needs 64-bit atomics that it lacks: such a router cannot run
# mesync, but a script on it can write to the hub with curl (mesync-protocol(7)).
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
[ $# -gt 0 ] || set -- x86_64-unknown-linux-musl aarch64-unknown-linux-musl
: "${DIST_DIR:=$root/dist}" "${CARGO:=cargo}" "${DIST_CC:=clang}"
: "${DIST_BUILD:=$root/target/dist}"

command -v "$DIST_CC" >/dev/null || {
    echo "make dist needs clang, which compiles C for every target (Debian: apt-get install clang)" >&2
    exit 1
}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
fi
export SOURCE_DATE_EPOCH
sysroot=$(rustc --print sysroot)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
umask 022

# build TARGET: the binary, without a path of this machine
build() {
    variable=$(printf %s "$1" | tr - _)
    # the flags are separated by a unit separator, since a path may have spaces
    separator=$(printf '\037')
    flags="--remap-path-prefix=$root=/mesync${separator}--remap-path-prefix=$cargo_home=/cargo"
    flags="$flags${separator}-Clinker=rust-lld${separator}-Clink-self-contained=yes"
    # equal functions once, short relocations
    flags="$flags${separator}-Clink-arg=--icf=all${separator}-Clink-arg=--pack-dyn-relocs=relr"
    # the last one keeps clang's <immintrin.h> from including <stdlib.h> for an allocator that nothing uses
    c_flags="-nostdlibinc -DRING_CORE_NOSTDLIBINC=1 -D__MM_MALLOC_H"
    c_flags="$c_flags -ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$DIST_BUILD=/build"
    [ -d "$sysroot/lib/rustlib/$1/lib" ] || rustup target add "$1"
    env "CC_$variable=$DIST_CC" "CFLAGS_$variable=$c_flags" \
        CARGO_ENCODED_RUSTFLAGS="$flags" \
        "$CARGO" build --release --locked --target "$1" --target-dir "$DIST_BUILD"
}

# pack TARGET: the tree of the tarball, then the tarball
pack() {
    name=mesync-$version-${1%%-*}-linux
    tree=$DIST_DIR/$name
    rm -rf "$tree"
    mkdir -p "$tree"
    cp "$DIST_BUILD/$1/release/mesync" README.md CHANGELOG.md SECURITY.md LICENSE Makefile "$tree"
    cp -R man contrib "$tree"
    rm -rf "$tree/contrib/debian" "$tree/contrib/docker" "$tree/contrib/dist.sh"
    # "make install" of the tarball takes the binary beside it
    sed -i 's|^BINARY = .*|BINARY = mesync|' "$tree/Makefile"
    tar --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$SOURCE_DATE_EPOCH" \
        -C "$DIST_DIR" -cf - "$name" | gzip -9n >"$DIST_DIR/$name.tar.gz"
    rm -rf "$tree"
}

mkdir -p "$DIST_DIR"
rm -f "$DIST_DIR/SHA256SUMS"
for target; do
    build "$target"
    pack "$target"
done
cd "$DIST_DIR"
sha256sum mesync-"$version"-*.tar.gz >SHA256SUMS
cat SHA256SUMS
