#!/bin/sh
# Builds dist/mesync_VERSION_ARCHITECTURE.deb from the tarball of TARGET, which contrib/dist.sh makes if it is not there.
#
#   make deb; make deb DEB_TARGET=aarch64-unknown-linux-musl
set -eu
cd "$(dirname "$0")/../.."
root=$(pwd)
target=${1:-x86_64-unknown-linux-musl}
: "${DIST_DIR:=$root/dist}"
case $target in
x86_64-*) architecture=amd64 ;;
aarch64-*) architecture=arm64 ;;
armv7-*hf) architecture=armhf ;;
*)
    echo "make deb: no Debian architecture is known for $target" >&2
    exit 2
    ;;
esac
for tool in dpkg-buildpackage dh; do
    command -v "$tool" >/dev/null || {
        echo "make deb needs $tool (Debian: apt-get install dpkg-dev debhelper)" >&2
        exit 1
    }
done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name=mesync-$version-${target%%-*}-linux
[ -e "$DIST_DIR/$name.tar.gz" ] || contrib/dist.sh "$target"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/mesync-deb.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
tar -C "$scratch" -xzf "$DIST_DIR/$name.tar.gz"
cp -R contrib/debian "$scratch/$name/debian"
rm "$scratch/$name/debian/build.sh"
# -d: the compiler of a foreign architecture is not needed
(cd "$scratch/$name" && dpkg-buildpackage --build=binary --unsigned-changes -d --host-arch "$architecture" >"$scratch/log" 2>&1) || {
    tail -n 30 "$scratch/log" >&2
    exit 1
}
cp "$scratch/mesync_$version"-*_"$architecture.deb" "$DIST_DIR"
if command -v lintian >/dev/null; then
    lintian --fail-on error,warning --tag-display-limit 0 "$scratch"/mesync_*_"$architecture.changes"
fi
ls -l "$DIST_DIR"/mesync_*_"$architecture.deb"
