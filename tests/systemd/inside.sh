#!/bin/sh
# Runs as root in the container of run.sh, under its systemd. Each step says what holds; the first that does not ends the test.
set -eu
export DEBIAN_FRONTEND=noninteractive

say() { echo "ok: $*"; }
fail() {
    echo "FAILED: $*"
    systemctl --no-pager --full status 'mesync*' || true
    journalctl --no-pager -n 60 -u 'mesync*' || true
    exit 1
}
# wait_for COMMAND…: until it succeeds
wait_for() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "never true: $*"
        sleep 0.2
    done
}
equals() { [ "$2" = "$3" ] || fail "$1: \"$2\", not \"$3\""; }
property() { systemctl show -p "$2" --value "$1"; }
drop_in() {
    mkdir -p "/etc/systemd/system/$1.d"
    cat >"/etc/systemd/system/$1.d/$2.conf"
    systemctl daemon-reload
}
client() { MESYNC_BASE_DIR=/var/lib/mesync MESYNC_API_KEY_FILE=/etc/mesync/key mesync "$@"; }
ann() { su ann -c "XDG_RUNTIME_DIR=/run/user/$(id -u ann) $*"; }
bob() { su bob -c "XDG_RUNTIME_DIR=/run/user/$(id -u bob) $*"; }
has_another_pid() { pid=$(property "$1" MainPID) && [ "$pid" != 0 ] && [ "$pid" != "$2" ] && systemctl -q is-active "$1"; }

# install
dpkg -i /test/mesync.deb
for unit in mesync mesync-hub mesync-pass.timer; do
    equals "$unit is enabled" "$(systemctl is-enabled "$unit")" disabled
    equals "$unit is active" "$(systemctl is-active "$unit")" inactive
done
getent passwd mesync >/dev/null || fail "no user mesync"
equals "mode of /etc/mesync" "$(stat -c %a:%U /etc/mesync)" 700:root
systemd-analyze verify --man=no /lib/systemd/system/mesync*.service /lib/systemd/system/mesync-pass.timer
sed -n 's/^\([a-z_.]*\) = .*/\1/p' /usr/share/doc/mesync/examples/systemd/sysctl.conf >/test/limits
[ -s /test/limits ] || fail "no limits in sysctl.conf"
while read -r limit; do
    [ -e "/proc/sys/$(echo "$limit" | tr . /)" ] || fail "the kernel has no $limit"
done </test/limits
say "install: the units are valid, and neither enabled nor started"

# the hub, a key for each client as a credential
systemctl enable --now mesync-hub
(umask 077 && mesync key add alpha --data /var/lib/mesync-hub >/etc/mesync/key)
(umask 077 && mesync key add beta --data /var/lib/mesync-hub >/test/beta.key)
[ -s /etc/mesync/key ] || fail "no key"
mkdir -p /srv/share
drop_in mesync.service test <<'UNIT'
[Service]
LoadCredential=api-key:/etc/mesync/key
WatchdogSec=3
UNIT
mkdir -m 700 /var/lib/mesync
printf 'server_url = "http://127.0.0.1:8080"\n[[watch]]\npath = "/srv/share"\nremote = "share"\n' >/var/lib/mesync/config.toml
systemctl start mesync
wait_for client status
say "start: the hub, and a client whose key is a credential"

# a client of a person
useradd -m ann
mkdir -m 700 ~ann/.daemon
cp /test/beta.key ~ann/.daemon/key
cat >~ann/.daemon/config.toml <<'TOML'
server_url = "http://127.0.0.1:8080"
host_id = "beta"
api_key_file = "/home/ann/.daemon/key"
[[watch]]
path = "/home/ann/share"
remote = "share"
TOML
mkdir ~ann/share
chown -R ann: ~ann/.daemon ~ann/share
loginctl enable-linger ann
wait_for ann systemctl --user is-system-running
ann systemctl --user start mesync
wait_for ann mesync status
say "a user's client"

# messages both ways, a hook, a file
client send hello --target beta
received() { grep -qs '"hello"' ~ann/.daemon/inbox/*.json; }
wait_for received
mkdir -p /var/lib/mesync/hooks
printf '#!/bin/sh\nid -un >/test/hook\n' >/var/lib/mesync/hooks/restart
chmod 755 /var/lib/mesync/hooks/restart
ann mesync send restart --target alpha
wait_for test -s /test/hook
equals "user of the hook" "$(cat /test/hook)" root
echo text >/srv/share/file
wait_for test -s ~ann/share/file
say "a message each way, a hook, a synced file"

# in place of s3ec
useradd -m bob
mkdir -m 700 ~bob/.daemon
(umask 077 && mesync key add gamma --data /var/lib/mesync-hub >~bob/.daemon/key)
printf 'server_url = "http://127.0.0.1:8080"\nhost_id = "gamma"\napi_key_file = "/home/bob/.daemon/key"\n' >~bob/.daemon/config.toml
mkdir -p ~bob/.config/systemd/user ~bob/share
cp /usr/share/doc/mesync/examples/s3ec.service ~bob/.config/systemd/user/
chown -R bob: ~bob
loginctl enable-linger bob
wait_for bob systemctl --user is-system-running
bob systemctl --user enable --now s3ec
wait_for test -s ~bob/share/share/file
pid=$(bob systemctl --user show -p MainPID --value s3ec)
bob systemctl --user reload s3ec
equals "process of s3ec after the reload" "$(bob systemctl --user show -p MainPID --value s3ec)" "$pid"
bob systemctl --user disable --now s3ec
equals "result of s3ec" "$(bob systemctl --user show -p Result --value s3ec)" success
say "s3ec.service: a user's directory, with all of the hub"

# reload
pid=$(property mesync MainPID)
mkdir /srv/other
printf '[[watch]]\npath = "/srv/other"\nremote = "other"\n' >>/var/lib/mesync/config.toml
systemctl reload mesync
syncs_other() { journalctl -q -u mesync | grep -q 'dir=/srv/other'; }
wait_for syncs_other
systemctl reload mesync-hub
equals "process after the reload" "$(property mesync MainPID)" "$pid"
wait_for client status
say "reload: the same process, with the new settings"

# killed
for unit in mesync mesync-hub; do
    pid=$(property "$unit" MainPID)
    kill -9 "$pid"
    wait_for has_another_pid "$unit" "$pid"
done
wait_for client status
say "restart: after SIGKILL, hub and client"

# a process that hangs
pid=$(property mesync MainPID)
kill -STOP "$pid"
wait_for has_another_pid mesync "$pid"
journalctl -q -u mesync | grep -q 'Watchdog timeout' || fail "no watchdog"
wait_for client status
say "watchdog: a hanging client is replaced"

# a wrong setting is not tried again and again
systemctl stop mesync
equals "result of stop" "$(property mesync Result):$(property mesync ExecMainStatus)" success:0
cp /var/lib/mesync/config.toml /test/good
echo 'server_url = 7' >/var/lib/mesync/config.toml
if systemctl start mesync; then fail "started with bad settings"; fi
equals "status with bad settings" "$(property mesync ExecMainStatus):$(systemctl is-active mesync)" 78:failed
cp /test/good /var/lib/mesync/config.toml
systemctl reset-failed mesync
say "stop is clean; bad settings end the service with 78, without a restart"

# without hooks: a user of its own
mkdir -p /etc/systemd/system/mesync.service.d
cp /usr/share/doc/mesync/examples/systemd/mesync.service.d/no-hooks.conf /etc/systemd/system/mesync.service.d/
drop_in mesync.service write <<'UNIT'
[Service]
ReadWritePaths=/srv/share /srv/other
UNIT
chown -R mesync: /srv/share /srv/other
systemctl start mesync
equals "user of the client" "$(ps -o user= -p "$(property mesync MainPID)")" mesync
wait_for client status
echo more >~ann/share/more && chown ann: ~ann/share/more
wait_for test -s /srv/share/more
equals "owner of a received file" "$(stat -c %U /srv/share/more)" mesync
say "no-hooks.conf: the client runs as mesync and syncs a directory that belongs to it"
systemctl stop mesync

# the timer, without a daemon
drop_in mesync-pass.service test <<'UNIT'
[Service]
LoadCredential=api-key:/etc/mesync/key
UNIT
drop_in mesync-pass.timer test <<'UNIT'
[Timer]
OnActiveSec=1
RandomizedDelaySec=0
AccuracySec=100ms
UNIT
rm /etc/systemd/system/mesync.service.d/no-hooks.conf /etc/systemd/system/mesync.service.d/write.conf
systemctl daemon-reload
client send bytimer --target beta
systemctl start mesync-pass.timer
by_timer() { grep -qs '"bytimer"' ~ann/.daemon/inbox/*.json; }
wait_for by_timer
pass_ended() { [ "$(systemctl is-active mesync-pass.service)" = inactive ]; }
wait_for pass_ended
equals "result of the pass" "$(property mesync-pass.service Result)" success
systemctl stop mesync-pass.timer
say "timer: a pass sends what waits"

# upgrade
pid=$(property mesync-hub MainPID)
dpkg -i /test/next.deb
wait_for has_another_pid mesync-hub "$pid"
equals "the stopped client after an upgrade" "$(systemctl is-active mesync)" inactive
equals "the hub after an upgrade" "$(systemctl is-enabled mesync-hub)" enabled
wait_for ann mesync status
say "upgrade: what ran is restarted, and nothing else is started"

# remove, purge
systemctl start mesync
dpkg -r mesync
equals "the hub after a removal" "$(systemctl is-active mesync-hub)" inactive
equals "the client after a removal" "$(systemctl is-active mesync)" inactive
[ -e /var/lib/mesync/config.toml ] || fail "a removal has removed the settings"
dpkg -P mesync
[ -e /var/lib/mesync/config.toml ] || fail "a purge has removed the settings"
[ -e /var/lib/mesync-hub/hub.redb ] || fail "a purge has removed the data of the hub"
if dpkg -L mesync >/dev/null 2>&1; then fail "the package is still known"; fi
left=$(find /usr /lib/systemd /etc/systemd '(' -name 'mesync*' -o -name _mesync -o -name s3ec ')' ! -name 'mesync*.d' ! -name 'mesync-test*')
equals "files after a purge" "$left" ""
say "remove and purge: the services end, data and settings stay"
touch /test/passed
