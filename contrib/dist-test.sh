#!/bin/sh
# Tries the tarballs of dist/: the checksums, "make install" from each, and the demo (a hub, three machines, messages, files, a
# synced directory) with each binary, under qemu-user where it is another machine's.
set -eu
cd "$(dirname "$0")/.."
: "${DIST_DIR:=$(pwd)/dist}"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/mesync-dist.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

(cd "$DIST_DIR" && sha256sum -c SHA256SUMS)
skipped=
for tarball in "$DIST_DIR"/mesync-*.tar.gz; do
    name=$(basename "$tarball" .tar.gz)
    machine=${name#mesync-*-}
    machine=${machine%-linux}
    tar -C "$scratch" -xzf "$tarball"
    make --silent -C "$scratch/$name" install DESTDIR="$scratch/root-$machine" PREFIX=/usr
    binary=$scratch/root-$machine/usr/bin/mesync
    if [ "$machine" != "$(uname -m)" ]; then
        emulator=$(command -v "qemu-$machine-static" || command -v "qemu-$machine" || true)
        if [ -z "$emulator" ]; then
            echo "SKIPPED: $name needs qemu-$machine to run here (Debian: apt-get install qemu-user-static)"
            skipped=1
            continue
        fi
        mv "$binary" "$binary.foreign"
        printf '#!/bin/sh\nexec %s %s.foreign "$@"\n' "$emulator" "$binary" >"$binary"
        chmod 755 "$binary"
    fi
    "$binary" --version
    MESYNC=$binary sh contrib/demo.sh
    echo "$name: works"
done
[ -z "$skipped" ] || echo "not all tarballs were tried"
