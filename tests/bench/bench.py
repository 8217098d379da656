#!/usr/bin/env python3
"""Costs of mesync beside those of programs that do the same: `make bench`, or `python3 tests/bench/bench.py`.

It prints a table and writes results.json beside itself. Peers take turns, so that the noise of the machine meets all of them.

  ROWS=first,burst  those rows only (rows that they need are done, not measured)     PEERS=mesync,unison  those peers only
  RUNS=3            repetitions     FILES=5000, BIG_MIB=512, MESSAGES=10000  sizes    BINARY=…             the mesync to measure
  SYNCS=1           counts syncs with strace, in place of times                      TMPDIR=…             the disk
"""

import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from measure import NewDisk, SyncCounter, sync_milliseconds, wait_until, wire_bytes
from brokers import BROKERS
from peers import PEERS
from rows import BULK, LATENCY, MESSAGE_ROWS, latency, settle_disk

NAMESPACE = "MESYNC_BENCH_NAMESPACE"
FILE_ROWS = [*BULK, *LATENCY, "memory"]
COLUMNS = [("wall_s", "wall s"), ("cpu_s", "CPU s"), ("written_mb", "MB written"), ("wire_mb", "MB on the wire"), ("requests", "requests"),
           ("syncs_a_file", "syncs a file"), ("sent_s", "s until acknowledged"), ("latency_ms", "ms"), ("worst_ms", "worst ms"), ("cpu_ms", "CPU ms"),
           ("client_mib", "client MiB"), ("all_mib", "all MiB")]


def chosen(variable, known):
    wanted = [word for word in os.environ.get(variable, "").split(",") if word] or known
    unknown = [word for word in wanted if word not in known]
    if unknown:
        sys.exit(f"bench: {variable}: no {', '.join(unknown)} (there are: {', '.join(known)})")
    return [word for word in known if word in wanted]


class Bench:
    """One peer from its start to its end."""

    def __init__(self, peer, scratch, rows, counts_syncs):
        self.peer, self.scratch, self.rows, self.counts_syncs = peer, scratch, rows, counts_syncs
        self.a, self.b = peer.a, peer.b
        self.done = set()

    def run(self):
        figures = {}
        for row in self.rows:
            if row in BULK:
                figures[row] = self.bulk(row)
            elif row in LATENCY:
                self.need("first")
                figures[row] = latency(self, row)
            else:
                self.need("burst")
                memory = self.peer.processes.memory()
                figures[row] = {"client_mib": memory[-1], "all_mib": sum(memory)}
        return figures

    def need(self, row):
        if row and row not in self.done:
            self.bulk(row)

    def bulk(self, row):
        _, change, files, needed = BULK[row]
        self.need(needed)
        self.done.add(row)
        processes = self.peer.processes
        processes.settle()
        settle_disk(self)
        counter = SyncCounter(processes) if self.counts_syncs else None
        requests = self.peer.requests()
        (cpu, written), wire, began = processes.cost(), wire_bytes(), time.monotonic()
        arrived = change(self)
        self.peer.sync()
        wait_until(f"{row} with {self.peer.name}", arrived)
        wall = time.monotonic() - began
        processes.settle()
        cpu, written = (now - before for now, before in zip(processes.cost(), (cpu, written)))
        if counter:
            return {"syncs_a_file": counter.stop() / files}
        figures = {"wall_s": wall, "cpu_s": cpu, "written_mb": written / 1e6, "wire_mb": (wire_bytes() - wire) / 1e6}
        if requests is not None:
            figures["requests"] = self.peer.requests() - requests
        return figures


def spread(samples):
    """The median, and the least and greatest where they differ; a dash for what a peer does not have."""
    if not samples:
        return "-"
    middle = statistics.median(samples)
    digits = 2 if middle < 10 else 1 if middle < 100 else 0
    text = f"{middle:.{digits}f}"
    if len(samples) > 1:
        text += f" ({min(samples):.{digits}f}-{max(samples):.{digits}f})"
    return text


def title(row):
    return next((rows[row][0] for rows in (BULK, MESSAGE_ROWS) if row in rows), row)


def table(rows, peers, samples):
    for row in rows:
        print(f"\n{title(row)}")
        columns = [c for c in COLUMNS if any(c[0] in s for p in peers for s in samples[p].get(row, []))]
        lines = [["", *(title for _, title in columns)]]
        for peer in peers:
            of = samples[peer].get(row, [])
            if of:
                lines.append([peer, *(spread([s[key] for s in of if key in s]) for key, _ in columns)])
        widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
        for line in lines:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def main():
    if len(sys.argv) > 1:
        asks = sys.argv[1] in ("-h", "--help")
        print(__doc__.rstrip(), file=sys.stdout if asks else sys.stderr)
        sys.exit(0 if asks else f"\nbench: there are no arguments, only variables: {sys.argv[1]}")
    if os.geteuid() == 0 and shutil.which("unshare") and shutil.which("ip") and NAMESPACE not in os.environ:
        # bytes on the wire are those of this namespace's loopback
        os.environ[NAMESPACE] = "1"
        again = 'ip link set lo up && exec "$0" "$@"'
        os.execvp("unshare", ["unshare", "-n", "-m", "sh", "-c", again, sys.executable, *sys.argv])
    # peers are stopped, and disks removed, however it ends
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: stopped"))
    rows, runs = chosen("ROWS", [*FILE_ROWS, *MESSAGE_ROWS]), int(os.environ.get("RUNS", 3))
    counts_syncs = os.environ.get("SYNCS") == "1"
    file_rows = [row for row in rows if row in FILE_ROWS]
    message_rows = [row for row in rows if row in MESSAGE_ROWS]
    # what is measured, by the name of the peer: programs for files and programs for messages
    kinds = [(kind, rows) for kind, rows in ((PEERS, file_rows), (BROKERS, message_rows)) if rows]
    names = list(dict.fromkeys(peer.name for kind in (PEERS, BROKERS) for peer in kind))
    wanted, peers, plan = chosen("PEERS", names), [], []
    for kind, its_rows in kinds:
        for peer in (peer for peer in kind if peer.name in wanted):
            missing = peer.missing()
            if missing:
                print(f"left out: {peer.name}, without {', '.join(missing)} (apt-get install {peer.packages})")
            else:
                plan.append((peer, its_rows))
                peers += [peer.name] if peer.name not in peers else []
    scratch = tempfile.mkdtemp(prefix="mesync-bench-")
    about = {
        "versions": {peer.name: peer.version() for peer, _ in plan},
        "settings": [f"{peer.name}: {peer.settings}" for peer, _ in plan],
        "load": os.getloadavg(), "cpus": os.cpu_count(), "sync_ms": sync_milliseconds(scratch),
        "wire": "one network namespace" if NAMESPACE in os.environ else "the whole loopback",
        "disk": "a new ext4 for each run" if NewDisk.is_possible() else "one filesystem for all runs, whose deletes slow later ones",
    }
    for peer, _ in plan:
        print(f"{peer.name}: {about['versions'][peer.name]}; {peer.settings}")
    print(f"{about['cpus']} CPUs, load {about['load'][0]:.1f}, a sync {about['sync_ms']:.2f} ms, {runs} runs; {about['disk']}", flush=True)
    samples = {name: {} for name in peers}
    try:
        for run in range(runs):
            for kind, its_rows in plan:
                name = kind.name
                place = os.path.join(scratch, f"{name}-{run}")
                os.mkdir(place)
                disk = NewDisk(place)
                peer = kind(place)
                try:
                    if its_rows is message_rows:
                        figures = {row: MESSAGE_ROWS[row][1](peer) for row in its_rows}
                    else:
                        figures = Bench(peer, place, its_rows, counts_syncs).run()
                except (TimeoutError, RuntimeError) as error:
                    with open(os.path.join(place, "log"), errors="replace") as log:
                        print("".join(log.readlines()[-20:]), file=sys.stderr)
                    raise SystemExit(f"bench: {name}: {error}")
                finally:
                    peer.stop()
                    disk.close()
                for row, figure in figures.items():
                    samples[name].setdefault(row, []).append(figure)
                print(f"run {run + 1}, {name}: {json.dumps(figures)}", file=sys.stderr, flush=True)
                shutil.rmtree(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    table(rows, peers, samples)
    results = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results.json")
    with open(results, "w") as file:
        json.dump({**about, "load_after": os.getloadavg(), "runs": runs, "samples": samples}, file, indent=1)
    print(f"\nload after {os.getloadavg()[0]:.1f}; every sample: {results}")


if __name__ == "__main__":
    main()
