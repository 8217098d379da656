"""Programs that carry messages from one machine to three, each with the settings that make it keep what it has acknowledged.

A broker has `publish`, which returns when all are acknowledged, and three receivers, each with a directory into which it writes
what it has received: one file a message, synced before it acknowledges, as mesync does. Receivers of brokers are threads of this
program, so what they cost is not counted.
"""

import ctypes
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import threading

from measure import Processes, free_port, wait_until
from peers import Mesync, connects

RECEIVERS = 3
LIBC = ctypes.CDLL(None)


class Broker:
    needs = ()
    packages = ""
    settings = ""

    @classmethod
    def missing(cls):
        return [tool for tool in cls.needs if shutil.which(tool) is None]

    def __init__(self, scratch):
        self.scratch = scratch
        self.inboxes = [os.path.join(scratch, f"inbox-{n}") for n in range(RECEIVERS)]
        for inbox in self.inboxes:
            os.makedirs(inbox, exist_ok=True)
        self.processes = Processes(os.path.join(scratch, "log"))
        self.ends = False
        self.start()

    def received(self, inbox):
        return sum(1 for entry in os.scandir(inbox) if not entry.name.startswith("."))

    def keep(self, inbox, bodies, numbers):
        """Writes messages as files, with as few syncs as one batch allows."""
        directory = os.open(inbox, os.O_RDONLY)
        names = []
        for body in bodies:
            name = f"{next(numbers):08}.json"
            file = os.open("." + name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=directory)
            os.write(file, body)
            if len(bodies) == 1:
                os.fsync(file)
            os.close(file)
            names.append(name)
        if len(bodies) > 1:
            LIBC.syncfs(directory)
        for name in names:
            os.rename("." + name, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
        os.close(directory)

    def listen(self, receive):
        for n in range(RECEIVERS):
            threading.Thread(target=self.guarded, args=(receive, n), daemon=True).start()

    def guarded(self, receive, n):
        try:
            receive(n)
        except (OSError, EOFError):
            if not self.ends:
                raise

    def stop(self):
        self.ends = True
        self.processes.stop()


class Stream:
    """A connection that is read by lines or by counts."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb", 1 << 16)

    def send(self, data):
        self.socket.sendall(data)

    def line(self):
        line = self.file.readline()
        if not line:
            raise EOFError("the broker closed the connection")
        return line.rstrip(b"\r\n")

    def ahead(self):
        """What was read from the socket already, or can be at once."""
        self.socket.setblocking(False)
        try:
            return self.file.peek(1)
        except BlockingIOError:
            return b""
        finally:
            self.socket.setblocking(True)

    def take(self, count):
        data = self.file.read(count)
        if len(data) < count:
            raise EOFError("the broker closed the connection")
        return data


class MesyncMessages(Broker):
    name = "mesync"
    packages = Mesync.packages
    settings = "hub and four clients, send --batch"
    binary = Mesync.binary
    missing, version = Mesync.missing, Mesync.version

    def base(self, name):
        return {"PATH": os.environ["PATH"], "HOME": self.scratch, "MESYNC_SERVER_URL": f"http://127.0.0.1:{self.port}",
                "MESYNC_BASE_DIR": os.path.join(self.scratch, name), "MESYNC_HOST_ID": name}

    def start(self):
        self.port = free_port()
        self.processes.start([self.binary, "serve", "--listen", f"127.0.0.1:{self.port}"], self.base("hub"))
        wait_until("the hub listens", lambda: connects(self.port))
        names = ["sender", *(f"receiver-{n}" for n in range(RECEIVERS))]
        self.inboxes = [os.path.join(self.scratch, name, "inbox") for name in names[1:]]
        for name in names:
            self.processes.start([self.binary, "start"], self.base(name))
        wait_until("all receivers are known", lambda: all(name in self.hosts() for name in names), 0.2)
        self.processes.settle()

    def hosts(self):
        said = subprocess.run([self.binary, "hosts"], env=self.base("sender"), capture_output=True, text=True)
        return said.stdout

    def publish(self, bodies):
        lines = b"".join(json.dumps({"type": "bench", "payload": body.decode()}).encode() + b"\n" for body in bodies)
        subprocess.run([self.binary, "send", "--batch"], env=self.base("sender"), input=lines, check=True,
                       stdout=subprocess.DEVNULL)

    def send_command(self, body):
        return [self.binary, "send", "bench", "--payload", json.dumps(body)], self.base("sender")


class Redis(Broker):
    name = "redis"
    needs = ("redis-server", "redis-cli")
    packages = "redis-server redis-tools"
    settings = "a stream, appendonly yes, appendfsync always"

    @staticmethod
    def version():
        return " ".join(subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout.split()[:3])

    def start(self):
        self.port = free_port()
        flags = ["--port", str(self.port), "--dir", self.scratch, "--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self.processes.start(["redis-server", *flags])
        wait_until("redis listens", lambda: connects(self.port))
        self.listen(self.receive)
        self.sender = Stream(self.port)

    @staticmethod
    def command(*words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    def reply(self, stream):
        line = stream.line()
        kind, rest = line[:1], line[1:]
        if kind == b"*":
            return None if rest == b"-1" else [self.reply(stream) for _ in range(int(rest))]
        if kind == b"$":
            return None if rest == b"-1" else stream.take(int(rest) + 2)[:-2]
        if kind == b"-":
            raise ValueError(rest.decode())
        return rest

    def receive(self, n):
        stream, last, numbers = Stream(self.port), b"0", itertools.count()
        while not self.ends:
            stream.send(self.command("XREAD", "COUNT", 1000, "BLOCK", 1000, "STREAMS", "bench", last))
            found = self.reply(stream)
            if found:
                entries = found[0][1]
                self.keep(self.inboxes[n], [fields[1] for _, fields in entries], numbers)
                last = entries[-1][0]

    def publish(self, bodies):
        for at in range(0, len(bodies), 1000):
            some = bodies[at:at + 1000]
            self.sender.send(b"".join(self.command("XADD", "bench", "*", "body", body) for body in some))
            for _ in some:
                self.reply(self.sender)

    def send_command(self, body):
        return ["redis-cli", "-p", str(self.port), "XADD", "bench", "*", "body", body], None


class Mosquitto(Broker):
    name = "mosquitto"
    needs = ("mosquitto", "mosquitto_pub")
    packages = "mosquitto mosquitto-clients"
    settings = "QoS 1, persistence on, saved after each change; it does not sync its file"

    @staticmethod
    def version():
        return subprocess.run(["mosquitto", "-h"], capture_output=True, text=True).stdout.splitlines()[0]

    def start(self):
        self.port = free_port()
        config = os.path.join(self.scratch, "mosquitto.conf")
        with open(config, "w") as file:
            file.write(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
                       f"persistence_location {self.scratch}/\nautosave_on_changes true\nautosave_interval 1\n"
                       "max_queued_messages 0\nmax_inflight_messages 0\nuser root\n")
        self.processes.start(["mosquitto", "-c", config])
        wait_until("mosquitto listens", lambda: connects(self.port))
        self.subscribed = threading.Semaphore(0)
        self.listen(self.receive)
        for _ in range(RECEIVERS):
            self.subscribed.acquire()
        self.sender = self.connect("sender")

    @staticmethod
    def packet(kind, body):
        size, length = len(body), b""
        while True:
            size, low = size >> 7, size & 127
            length += bytes([low | (128 if size else 0)])
            if not size:
                return bytes([kind]) + length + body

    @staticmethod
    def text(data):
        return struct.pack(">H", len(data)) + data

    def read(self, stream):
        kind, size, shift = stream.take(1)[0], 0, 0
        while True:
            byte = stream.take(1)[0]
            size |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                return kind, stream.take(size) if size else b""

    def connect(self, name):
        stream = Stream(self.port)
        # a session that lasts
        stream.send(self.packet(0x10, self.text(b"MQTT") + bytes([4, 0, 0, 0]) + self.text(name.encode())))
        self.read(stream)
        return stream

    def receive(self, n):
        stream, numbers = self.connect(f"receiver-{n}"), itertools.count()
        stream.send(self.packet(0x82, b"\0\1" + self.text(b"bench") + b"\1"))
        self.read(stream)
        self.subscribed.release()
        while not self.ends:
            bodies, acknowledged = [], b""
            while True:
                kind, body = self.read(stream)
                if kind & 0xF0 == 0x30:
                    topic = struct.unpack(">H", body[:2])[0]
                    acknowledged += self.packet(0x40, body[2 + topic:4 + topic])
                    bodies.append(body[4 + topic:])
                # what has come already is one batch
                if len(bodies) == 1000 or len(stream.ahead()) < 512:
                    break
            self.keep(self.inboxes[n], bodies, numbers)
            stream.send(acknowledged)

    def publish(self, bodies):
        for at in range(0, len(bodies), 1000):
            some = bodies[at:at + 1000]
            self.sender.send(b"".join(
                self.packet(0x32, self.text(b"bench") + struct.pack(">H", n + 1) + body) for n, body in enumerate(some)))
            for _ in some:
                self.read(self.sender)

    def send_command(self, body):
        return ["mosquitto_pub", "-p", str(self.port), "-q", "1", "-t", "bench", "-m", body], None


class Nats(Broker):
    name = "nats"
    needs = ("nats-server",)
    packages = "nats-server"
    settings = "JetStream on disk, sync_interval always where the version has it"

    @staticmethod
    def version():
        said = subprocess.run(["nats-server", "--version"], capture_output=True, text=True)
        return (said.stdout + said.stderr).strip()

    def start(self):
        self.port = free_port()
        config = os.path.join(self.scratch, "nats.conf")
        text = f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{self.scratch}/jetstream" %s }}\n'
        for sync in ("sync_interval: always", ""):
            with open(config, "w") as file:
                file.write(text % sync)
            if subprocess.run(["nats-server", "-c", config, "-t"], capture_output=True).returncode == 0:
                break
        self.processes.start(["nats-server", "-c", config])
        wait_until("nats listens", lambda: connects(self.port))
        self.sender = self.connect(b"reply.*")
        self.call("STREAM.CREATE.bench", {"name": "bench", "subjects": ["bench"], "storage": "file", "retention": "limits",
                                          "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "num_replicas": 1})
        self.subscribed = threading.Semaphore(0)
        self.listen(self.receive)
        for n in range(RECEIVERS):
            self.subscribed.acquire()
            self.call(f"CONSUMER.DURABLE.CREATE.bench.receiver-{n}", {"stream_name": "bench", "config": {
                "durable_name": f"receiver-{n}", "deliver_subject": f"to.{n}", "ack_policy": "explicit",
                "deliver_policy": "all", "max_ack_pending": 5000, "replay_policy": "instant"}})

    def connect(self, subject):
        stream = Stream(self.port)
        stream.line()
        stream.send(b'CONNECT {"verbose":false,"pedantic":false,"protocol":1}\r\nSUB %s 1\r\nPING\r\n' % subject)
        while stream.line() != b"PONG":
            pass
        return stream

    def message(self, stream):
        """The subject to answer to, if there is one, and the body."""
        while True:
            line = stream.line()
            if line == b"PING":
                stream.send(b"PONG\r\n")
            elif line.startswith(b"MSG "):
                words = line.split()
                body = stream.take(int(words[-1]) + 2)[:-2]
                return (words[3] if len(words) == 5 else None), body

    def call(self, subject, request):
        body = json.dumps(request).encode()
        self.sender.send(b"PUB $JS.API.%s reply.1 %d\r\n%s\r\n" % (subject.encode(), len(body), body))
        answer = json.loads(self.message(self.sender)[1])
        if "error" in answer:
            raise RuntimeError(f"nats: {subject}: {answer['error']}")

    def receive(self, n):
        stream, numbers = self.connect(b"to.%d" % n), itertools.count()
        self.subscribed.release()
        while not self.ends:
            found = [self.message(stream)]
            while len(found) < 1000 and len(stream.ahead()) > 512:
                found.append(self.message(stream))
            self.keep(self.inboxes[n], [body for _, body in found], numbers)
            stream.send(b"".join(b"PUB %s 4\r\n+ACK\r\n" % reply for reply, _ in found))

    def publish(self, bodies):
        for at in range(0, len(bodies), 1000):
            some = bodies[at:at + 1000]
            self.sender.send(b"".join(b"PUB bench reply.1 %d\r\n%s\r\n" % (len(body), body) for body in some))
            for _ in some:
                answer = json.loads(self.message(self.sender)[1])
                if "error" in answer:
                    raise RuntimeError(f"nats: {answer['error']}")


BROKERS = [MesyncMessages, Redis, Mosquitto, Nats]
