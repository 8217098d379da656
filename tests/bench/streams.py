#!/usr/bin/env python3
"""Event streams of one hub: BINARY=target/release/mesync python3 tests/bench/streams.py

Opens STREAMS streams (5000) on loopback, each for one of 100 directories and for "all", then makes one change in one of these
directories and one in "all". It fails unless each stream gets exactly the changes that concern it. It prints the hub's memory a stream,
its threads, and the time until the last stream has each change. TLS=1: through TLS. The limit of open files must allow it.
"""

import hashlib
import json
import os
import resource
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

BINARY = os.environ.get("BINARY", "target/release/mesync")
STREAMS = int(os.environ.get("STREAMS", "5000"))
TLS = bool(os.environ.get("TLS"))
DIRECTORIES = 100
PATIENCE = 120


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def status(pid, field):
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def put(port, path, name):
    empty = hashlib.sha256(b"").hexdigest()
    body = json.dumps({"path": path, "name": name, "size": 0, "checksum_sha256": empty, "chunks": []}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/files/commit", body, method="PUT",
                                     headers={"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=PATIENCE).read()


class Stream:
    """One open stream; what it gets after the head is collected."""

    def __init__(self, port, number, context):
        self.directory = f"d{number % DIRECTORIES}"
        self.heard = b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        if context:
            self.socket = context.wrap_socket(self.socket)
        query = f"kinds=all&path={self.directory}&path=all"
        self.socket.sendall(f"GET /api/events?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        while b": mesync\n\n" not in self.heard:
            self.take()
        if not self.heard.startswith(b"HTTP/1.1 200 "):
            sys.exit(f"streams: stream {number} was refused: {self.heard.decode()}")
        self.heard = b""
        self.socket.settimeout(0)

    def take(self):
        """Reads what has arrived."""
        try:
            got = self.socket.recv(65536)
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        if not got:
            sys.exit(f"streams: the hub closed a stream: {self.heard.decode()}")
        self.heard += got

    def names(self):
        lines = self.heard.decode().split("\n")
        return [json.loads(line[6:])["payload"]["name"] for line in lines if line.startswith("data: ")]


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as scratch:
        port = free_port()
        environment = {**os.environ, "MESYNC_BASE_DIR": scratch, "MESYNC_MAX_STREAMS": str(STREAMS)}
        with open(f"{scratch}/log", "wb") as log:
            hub = subprocess.Popen([BINARY, "serve", "--listen", f"127.0.0.1:{port}"], env=environment, stdout=log, stderr=log)
        try:
            measure(hub, port, scratch)
        finally:
            hub.terminate()
            hub.wait(PATIENCE)


def measure(hub, port, scratch):
    begin = time.monotonic()
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=1).read()
            break
        except OSError:
            if hub.poll() is not None or time.monotonic() > begin + PATIENCE:
                with open(f"{scratch}/log", encoding="utf-8") as log:
                    sys.exit(f"streams: the hub did not start: {log.read()}")
    context = None
    if TLS:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # what the first requests need is not of the streams
    put(port, "d0", "before")
    first = [Stream(port, number, context) for number in range(20)]
    before, opening = status(hub.pid, "VmRSS"), time.monotonic()
    streams = first + [Stream(port, number, context) for number in range(20, STREAMS)]
    opening = time.monotonic() - opening
    memory = (status(hub.pid, "VmRSS") - before) / (STREAMS - len(first))
    poll = select.epoll()
    by_number = {stream.socket.fileno(): stream for stream in streams}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    times = []
    for path, name in [("d7", "one"), ("all", "two")]:
        concerned = [stream for stream in streams if path in ("all", stream.directory)]
        missing, began = set(map(id, concerned)), time.monotonic()
        put(port, path, name)
        while missing:
            if time.monotonic() > began + PATIENCE:
                sys.exit(f"streams: {len(missing)} of {len(concerned)} streams did not get the change in {path}")
            for number, _ in poll.poll(1):
                stream = by_number[number]
                stream.take()
                if name in stream.names():
                    missing.discard(id(stream))
        times.append((len(concerned), time.monotonic() - began))
    # the second change came after the first: whatever a stream got before it was for it
    for stream in streams:
        wanted = ["one", "two"] if stream.directory == "d7" else ["two"]
        if stream.names() != wanted:
            sys.exit(f"streams: a stream of {stream.directory} got {stream.names()}, not {wanted}")
    print(f"{STREAMS} streams{' through TLS' if TLS else ''}: opened in {opening:.1f} s, {memory:.1f} KiB of memory each, "
          f"{status(hub.pid, 'Threads')} threads")
    for count, seconds in times:
        print(f"one change reached the {count} streams that it concerns within {seconds * 1000:.0f} ms, and no other")


if __name__ == "__main__":
    main()
