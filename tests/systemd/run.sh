#!/bin/sh
# The Debian package and its units under a real systemd: boots a Debian in a container, with no network but its own loopback, and
# runs inside.sh there as a service.
#
#   make deb && sudo make systemd-test
#
# Needs root, debootstrap and systemd-nspawn, and a mirror of Debian for the first run; SYSTEMD_TEST_ROOT keeps the tree for
# the next ones. The host need not run systemd.
set -eu
cd "$(dirname "$0")/../.."
: "${DIST_DIR:=$(pwd)/dist}" "${SUITE:=bookworm}"
skip() {
    echo "SKIPPED: $1"
    exit 0
}
[ "$(id -u)" -eq 0 ] || skip "systemd-test needs root"
for tool in debootstrap systemd-nspawn dpkg-deb; do
    command -v "$tool" >/dev/null || skip "systemd-test needs $tool (Debian: apt-get install debootstrap systemd-container)"
done
deb=$(find "$DIST_DIR" -name "mesync_*_$(dpkg --print-architecture).deb" | sort | tail -n 1)
[ -n "$deb" ] || {
    echo "systemd-test: no package in $DIST_DIR: make deb" >&2
    exit 1
}

scratch=$(mktemp -d "${TMPDIR:-/tmp}/mesync-systemd.XXXXXX")
trap 'umount "$scratch/root" 2>/dev/null; rm -rf "$scratch"' EXIT
base=${SYSTEMD_TEST_ROOT:-$scratch/base}
if [ ! -e "$base/etc/debian_version" ]; then
    echo "making a Debian $SUITE in $base"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,libpam-systemd,procps "$SUITE" "$base" >"$scratch/log" || {
        tail -n 20 "$scratch/log" >&2
        exit 1
    }
fi
root=$scratch/root
mkdir "$root" "$scratch/upper" "$scratch/work"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
mkdir "$root/test"
cp "$deb" "$root/test/mesync.deb"
cp tests/systemd/inside.sh "$root/test/inside.sh"

# the same package as the next version, for the upgrade
dpkg-deb -R "$deb" "$scratch/next"
sed -i 's/^Version: .*/&.next/' "$scratch/next/DEBIAN/control"
dpkg-deb -b "$scratch/next" "$root/test/next.deb" >/dev/null

cat >"$root/etc/systemd/system/mesync-test.service" <<'UNIT'
[Unit]
After=multi-user.target dbus.service systemd-logind.service

[Service]
Type=oneshot
ExecStart=/bin/sh /test/inside.sh
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=append:/test/log
StandardError=append:/test/log
TimeoutStartSec=10min
UNIT
ln -s ../mesync-test.service "$root/etc/systemd/system/multi-user.target.wants/mesync-test.service"
rm -f "$root/etc/machine-id"
echo alpha >"$root/etc/hostname"
# there is no network to wait for
ln -sf /dev/null "$root/etc/systemd/system/systemd-networkd-wait-online.service"

timeout -k 10 900 systemd-nspawn -q -D "$root" --register=no --keep-unit --private-network --boot \
    </dev/null >"$scratch/console" 2>&1 || true
cat "$root/test/log" 2>/dev/null || cat "$scratch/console"
[ -e "$root/test/passed" ] || {
    journalctl -D "$root/var/log/journal" -u 'mesync*' --no-pager 2>/dev/null | tail -n 60
    echo "systemd-test: failed" >&2
    exit 1
}
echo "systemd-test: passed"
