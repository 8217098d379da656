#!/usr/bin/env python3
"""A first listing of all files of a hub: BINARY=target/release/mesync python3 tests/bench/listing.py

Puts FILES files (100000) on a hub with "mesync sync", then asks for all rows, page by page: as JSON, which older clients get, and as
compact rows. It prints the bytes of the pages, the time, and the hub's memory before and at its peak, and fails unless compact
rows are at least four times smaller.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

BINARY = os.path.abspath(os.environ.get("BINARY", "target/release/mesync"))
FILES = int(os.environ.get("FILES", "100000"))
PAGE_ROWS = 1000
COMPACT_ROWS = "application/vnd.mesync.rows"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def memory(pid, field):
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


class Hub:
    def __init__(self, base):
        self.port = free_port()
        command = [BINARY, "serve", "--allow-anonymous", "--data", f"{base}/hub", "--listen", f"127.0.0.1:{self.port}"]
        self.log = open(f"{base}/hub.log", "ab")
        self.process = subprocess.Popen(command, env={**os.environ, "HOME": base}, stdout=self.log, stderr=self.log)
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                if time.monotonic() > end:
                    sys.exit(f"the hub does not start; see {base}/hub.log")
                time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def pages(port, accept, cursors=None):
    """All pages; `cursors`: the queries of the pages, for a form that is not read here. Returns them, and the bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    asked, size, query, rows = [], 0, "after=0", 0
    for number in range(10**6):
        query = cursors[number] if cursors else query
        asked.append(query)
        connection.request("GET", f"/api/files/changes?limit={PAGE_ROWS}&kinds=all&{query}", headers={"Accept": accept})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200 or answer.getheader("Content-Type").split(";")[0] != accept:
            sys.exit(f"the hub answers {answer.status} {answer.getheader('Content-Type')}: {body[:200]}")
        size += len(body)
        if cursors:
            if number + 1 == len(cursors):
                return asked, size
            continue
        page = json.loads(body)
        rows += len(page["changes"])
        if not page["more"]:
            if rows < FILES:
                sys.exit(f"only {rows} rows")
            return asked, size
        query = f"after={page['through']}" + (f"&began={page['began']}" if "began" in page else "")


def main():
    base = tempfile.mkdtemp(prefix="mesync-listing-")
    tree = f"{base}/tree"
    for number in range(FILES):
        folder = f"{tree}/project-{number // 10000}/part-{number // 100 % 100}"
        if number % 100 == 0:
            os.makedirs(folder)
        with open(f"{folder}/file-{number:06}.txt", "w", encoding="ascii") as file:
            file.write(f"{number}\n")
    hub = Hub(base)
    env = {**os.environ, "HOME": base, "MESYNC_SERVER_URL": f"http://127.0.0.1:{hub.port}"}
    synced = subprocess.run([BINARY, "sync", tree, "--remote", "share"], env=env, capture_output=True, text=True)
    hub.stop()
    if synced.returncode:
        sys.exit(f"sync: {synced.stdout}{synced.stderr}")
    cursors, sizes = None, {}
    for form, accept in (("JSON", "application/json"), ("compact", COMPACT_ROWS)):
        hub = Hub(base)
        before, began = memory(hub.process.pid, "VmHWM"), time.monotonic()
        cursors, sizes[form] = pages(hub.port, accept, cursors)
        took, peak = time.monotonic() - began, memory(hub.process.pid, "VmHWM")
        hub.stop()
        print(f"{form:8} {FILES} files: {sizes[form] / 1e6:6.1f} MB in {len(cursors)} pages, {took:5.1f} s, "
              f"the hub had {before:.1f} MiB before and {peak:.1f} MiB at most", flush=True)
    ratio = sizes["JSON"] / sizes["compact"]
    print(f"compact rows are {ratio:.1f} times smaller")
    sys.exit(0 if ratio >= 4 else 1)


if __name__ == "__main__":
    main()
