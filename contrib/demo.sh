#!/bin/sh
# Shows mesync on one machine: a hub and three "machines" (alpha, beta, gamma), each with a directory of its own, talking over
# loopback: messages, files, and a directory that is kept in sync. Takes a few seconds, needs no network, touches nothing outside
# a scratch directory, and removes that at the end.
#
#   make demo, or: MESYNC=/path/to/mesync sh contrib/demo.sh
set -eu

cd "$(dirname "$0")/.."
mesync=${MESYNC:-target/release/mesync}
case $mesync in
*/*) ;;
*) mesync=$(command -v "$mesync") || mesync=./$mesync ;;
esac
if [ ! -x "$mesync" ]; then
    echo "demo: no program $mesync (build it: make)" >&2
    exit 1
fi
mesync=$(cd "$(dirname "$mesync")" && pwd)/$(basename "$mesync")

# only what is set here counts
for variable in $(env | sed -n 's/^\(MESYNC_[A-Z_]*\)=.*/\1/p') http_proxy HTTP_PROXY https_proxy all_proxy ALL_PROXY; do
    unset "$variable"
done
umask 077
scratch=$(mktemp -d "${TMPDIR:-/tmp}/mesync-demo.XXXXXX")
# nor does a login of yours
unset XDG_CONFIG_HOME
HOME=$scratch
export HOME
pids=

# Is this process of ours still running? (kill -0 cannot tell it from one that nobody has waited for)
alive() {
    state=Z
    { read -r _ _ state _ <"/proc/$1/stat"; } 2>/dev/null || true
    [ "$state" != Z ]
}

# Waits for the end of a process that was told to stop; after 10 s it is killed.
reap() {
    tries=0
    while alive "$1"; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || kill -9 "$1" 2>/dev/null || true
        pause
    done
    wait "$1" 2>/dev/null || true
}

pause() {
    sleep 0.1 2>/dev/null || sleep 1
}

# shellcheck disable=SC2317,SC2329  # called by the trap
tidy_up() {
    status=$?
    trap - EXIT INT TERM HUP
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do reap "$pid"; done
    rm -rf "$scratch"
    exit "$status"
}
trap tidy_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() {
    {
        echo
        echo "demo: FAILED: $1"
        for log in "$scratch"/*.log; do
            if [ -s "$log" ]; then
                echo "--- the end of $(basename "$log"):"
                tail -n 20 "$log"
            fi
        done
        for machine in alpha beta gamma; do
            for file in "$scratch/$machine"/failed/*.reason; do
                if [ -e "$file" ]; then echo "--- $machine, $(basename "$file"): $(cat "$file")"; fi
            done
        done
    } >&2
    exit 1
}

# wait_for WHAT COMMAND…: until the command succeeds, at most two minutes
wait_for() {
    what=$1
    shift
    deadline=$(($(date +%s) + 120))
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$deadline" ] || fail "waited two minutes for: $what"
        pause
    done
}

# run MACHINE ARGUMENT…: mesync as that machine
run() {
    base=$scratch/$1
    id=$1
    shift
    MESYNC_BASE_DIR=$base MESYNC_HOST_ID=$id MESYNC_SERVER_URL=$url "$mesync" "$@"
}

# on MACHINE ARGUMENT…: the same, and shows what is typed there
on() {
    printf '%s$ mesync' "$1"
    machine=$1
    shift
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9._-]*) printf " '%s'" "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    echo
    run "$machine" "$@" || fail "mesync $1 on $machine ended with status $?"
}

start() {
    # not through run: $! must be the program itself
    MESYNC_BASE_DIR=$scratch/$1 MESYNC_HOST_ID=$1 MESYNC_SERVER_URL=$url "$mesync" start >>"$scratch/$1.log" 2>&1 &
    last=$!
    pids="$pids $last"
}

# stop MACHINE PID [SIGNAL]
stop() {
    kill "-${3:-TERM}" "$2"
    reap "$2"
    others=
    for pid in $pids; do [ "$pid" = "$2" ] || others="$others $pid"; done
    pids=$others
}

# same A B: the same bytes, mode and time?
same() {
    cmp "$1" "$2" || fail "$2 is not what $1 was"
    [ "$(stat -c '%a %Y' "$1")" = "$(stat -c '%a %Y' "$2")" ] || fail "$2 has another mode or time than $1"
}

heading() {
    printf '\n== %s\n' "$1"
}

# received MACHINE TEXT: is a message with that text in its inbox, and has its hook run?
received() {
    grep -qF "$2" "$scratch/$1"/inbox/*.json && grep -qF "$2" "$scratch/$1/notices.log"
}

# queued HOST N: N messages wait on the hub for that host
queued() {
    run alpha hosts --json | grep "\"name\":\"$1\"" | grep -q "\"queued\":$2[,}]"
}

# sent MACHINE: has it nothing left to send?
sent() {
    [ -z "$(ls "$scratch/$1/outbox")" ]
}

# tree MACHINE: what is in its directory, without mesync's own
tree() {
    (cd "$scratch/$1-share" && find . -name .mesync -prune -o -type f -exec sha256sum {} \; | sort -k 2)
}

same_trees() {
    [ "$(tree alpha)" = "$(tree beta)" ]
}

# holds MACHINE FILE TEXT: is that in the file in its directory?
holds() {
    grep -qF "$3" "$scratch/$1-share/$2"
}

gone() {
    [ ! -e "$scratch/$1-share/$2" ]
}

# copy MACHINE: the conflict copy in its directory
copy() {
    cat "$scratch/$1-share"/notes.sync-conflict-*.txt
}

# on_hub FILE: has the hub all of it?
on_hub() {
    run alpha ls --path share | grep -qF "share/$1"
}

# half_there: has more than 8 MB of the big file come to beta, and is it not there yet?
half_there() {
    gone beta big || fail "the big file was there before anybody could break it off"
    [ "$(du -sk "$scratch/beta-share/.mesync/partial" | cut -f 1)" -gt 8000 ]
}

hub_listens() {
    alive "$hub" || fail "the hub does not start"
    grep -q '^127\.0\.0\.1:' "$scratch/hub/hub/lock"
}

heading "A hub, and three machines that know its address"
# port 0: any that is free; the hub writes which one into its lock file
url=
MESYNC_BASE_DIR=$scratch/hub "$mesync" serve --listen 127.0.0.1:0 >"$scratch/hub.log" 2>&1 &
hub=$!
pids=$hub
wait_for "the hub to listen" hub_listens
url=http://$(cat "$scratch/hub/hub/lock")
# gamma comes last: $last is its process
for machine in alpha beta gamma; do
    mkdir -p "$scratch/$machine/hooks"
    cp contrib/hooks/notice "$scratch/$machine/hooks/notice"
    chmod 755 "$scratch/$machine/hooks/notice"
    start "$machine"
    case $machine in
    alpha) alpha=$last ;;
    beta) beta=$last ;;
    esac
done
for machine in alpha beta gamma; do
    wait_for "$machine to register with the hub" queued "$machine" 0
done
on alpha hosts

heading "alpha tells all others"
on alpha send notice --payload '{"text": "hello from alpha"}'
wait_for "the broadcast on beta, and its hook" received beta "hello from alpha"
wait_for "the broadcast on gamma, and its hook" received gamma "hello from alpha"
on beta list inbox

heading "beta tells alpha only, before anything else that waits"
on beta send notice --target alpha --priority high --payload '{"text": "for alpha only"}'
wait_for "the message for alpha, and its hook" received alpha "for alpha only"
on alpha list inbox

heading "gamma is switched off; alpha sends to it nevertheless"
stop gamma "$last"
on alpha send notice --target gamma --payload '{"text": "while you were away"}'
wait_for "the message to wait on the hub for gamma" queued gamma 1
on alpha hosts
echo "gamma is switched on again"
start gamma
wait_for "the message on gamma, and its hook" received gamma "while you were away"
on gamma list inbox

heading "No mesync needed to send: a script on gamma moves a JSON file into outbox/"
cat <<'END'
gamma$ echo '{"type": "notice", "payload": {"text": "from a script"}}' >outbox/x.tmp
gamma$ mv outbox/x.tmp outbox/x.json
END
echo '{"type": "notice", "payload": {"text": "from a script"}}' >"$scratch/gamma/outbox/x.tmp"
mv "$scratch/gamma/outbox/x.tmp" "$scratch/gamma/outbox/x.json"
wait_for "the script's message on alpha, and its hook" received alpha "from a script"
wait_for "the script's message on beta, and its hook" received beta "from a script"

heading "What the hook (hooks/notice, see contrib/hooks) has written on each machine"
for machine in alpha beta gamma; do
    echo "$machine\$ cat notices.log"
    cat "$scratch/$machine/notices.log"
done
[ "$(wc -l <"$scratch/beta/notices.log")" -eq 2 ] || fail "beta must have received the two broadcasts, once each, and nothing else"

heading "A file on the hub: alpha uploads it, beta gets it, alpha removes it, beta restores it"
cp man/mesync.7 "$scratch/manual.7"
chmod 640 "$scratch/manual.7"
on alpha upload "$scratch/manual.7" --path docs
on beta ls --path docs
on beta download docs/manual.7 -o "$scratch/beta/manual.7"
same "$scratch/manual.7" "$scratch/beta/manual.7"
on alpha rm docs/manual.7
if run beta download docs/manual.7 -o - >/dev/null 2>&1; then fail "a removed file was still there"; fi
on beta versions docs/manual.7
on beta restore docs/manual.7
on alpha download docs/manual.7 -o "$scratch/alpha/manual.7"
same "$scratch/manual.7" "$scratch/alpha/manual.7"

heading "A directory that alpha and beta keep in sync, both ways"
stop alpha "$alpha"
stop beta "$beta"
for machine in alpha beta; do
    mkdir "$scratch/$machine-share"
    printf '[[watch]]\npath = "%s"\nremote = "share"\n' "$scratch/$machine-share" >"$scratch/$machine/config.toml"
done
# so that there is time to break something off
echo 'bandwidth_limit = "8MB/s"' >>"$scratch/beta/config.toml"
echo "beta\$ cat config.toml"
cat "$scratch/beta/config.toml"
start alpha
alpha=$last
start beta
beta=$last
echo "alpha\$ echo 'by alpha' >share/notes.txt"
echo 'by alpha' >"$scratch/alpha-share/notes.txt"
wait_for "alpha's file on beta" holds beta notes.txt 'by alpha'
echo "beta\$ mkdir share/sub; echo 'by beta' >share/sub/b.txt"
mkdir "$scratch/beta-share/sub"
echo 'by beta' >"$scratch/beta-share/sub/b.txt"
wait_for "beta's file on alpha" holds alpha sub/b.txt 'by beta'
same_trees || fail "the directories are not the same"
on alpha ls --path share

heading "Both change the same file while beta is off: both versions are kept, on both machines"
stop beta "$beta"
echo "alpha\$ echo 'alpha, again' >share/notes.txt"
echo 'alpha, again' >"$scratch/alpha-share/notes.txt"
wait_for "alpha to be in sync" run alpha status
echo "beta\$ echo 'beta, too' >share/notes.txt"
echo 'beta, too' >"$scratch/beta-share/notes.txt"
start beta
beta=$last
for machine in alpha beta; do
    wait_for "beta's version beside alpha's on $machine" copy "$machine"
    wait_for "alpha's version under the name on $machine" holds "$machine" notes.txt 'alpha, again'
    [ "$(copy "$machine")" = 'beta, too' ] || fail "the conflict copy on $machine is not what beta had"
done
on alpha conflicts

heading "A delete travels too; what others have deleted is in the trash for 30 days"
echo "alpha\$ rm share/sub/b.txt"
rm "$scratch/alpha-share/sub/b.txt"
wait_for "the file to be gone on beta" gone beta sub/b.txt
echo "beta\$ ls share/.mesync/trash"
ls "$scratch/beta-share/.mesync/trash"

heading "64 MB on their way to beta, which is killed in the middle and goes on where it was"
head -c 67108864 /dev/urandom >"$scratch/big"
mv "$scratch/big" "$scratch/alpha-share/big"
wait_for "a part of the big file on beta" half_there
stop beta "$beta" KILL
gone beta big || fail "half a file stands under its name"
# beta fetches what alpha is still sending
wait_for "all of the big file on the hub" on_hub big
echo "beta: killed; $(du -sk "$scratch/beta-share/.mesync/partial" | cut -f 1) KiB are there"
grep -v bandwidth_limit "$scratch/beta/config.toml" >"$scratch/config.toml"
mv "$scratch/config.toml" "$scratch/beta/config.toml"
echo "beta: has no bandwidth_limit any more"
on beta sync --json >"$scratch/passed"
cat "$scratch/passed"
received=$(sed -n 's/.*"bytes_received":\([0-9]*\).*/\1/p' "$scratch/passed")
[ "$received" -lt 62000000 ] || fail "beta has fetched $received bytes, as if there had been none"
same_trees || fail "the directories are not the same"
start beta
echo "beta: the rest were $received bytes; the directories are the same:"
tree beta

heading "Is each machine healthy?"
for machine in alpha beta gamma; do
    wait_for "$machine to have sent everything" sent "$machine"
    wait_for "$machine to be healthy" run "$machine" status
done
on alpha status

printf '\nThe demo is done; its directory is removed. Next: README.md, "Quickstart".\n'
