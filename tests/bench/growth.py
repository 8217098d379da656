#!/usr/bin/env python3
"""What a file costs among few and among many: BINARY=target/release/mesync python3 tests/bench/growth.py

A first sync of each of COUNTS (1000,100000) files of 4 KiB, a hundred in a directory, through a hub, on a new disk each. It prints
the CPU time and the bytes written for each file, of hub, sender and receiver, and fails if either grows by more than 1.3.
"""

import os
import shutil
import sys
import tempfile
import time

from measure import NewDisk, cost_of, wait_until
from peers import Mesync
from rows import noise, write

COUNTS = [int(count) for count in os.environ.get("COUNTS", "1000,100000").split(",")]
FILES_IN_DIRECTORY = 100
MOST_GROWTH = 1.3


def directories(top, count):
    return [os.path.join(top, f"d{n:05}") for n in range(0, count, FILES_IN_DIRECTORY)]


def first_sync(peer, count):
    """CPU microseconds and bytes written for each file: hub, sender, receiver."""
    made = os.path.join(peer.scratch, "made")
    for directory in directories(made, count):
        os.makedirs(directory)
        for n in range(FILES_IN_DIRECTORY):
            write(os.path.join(directory, f"f{n:02}"), noise(int(directory[-5:]) * FILES_IN_DIRECTORY + n))
    os.sync()
    processes = [child.pid for child in peer.processes.daemons]
    before = [cost_of(pid) for pid in processes]
    os.rename(made, os.path.join(peer.a, "made"))
    there = directories(os.path.join(peer.b, "made"), count)
    wait_until("all files arrive", lambda: all(map(is_full, there)), 0.5)
    peer.processes.settle()
    costs = zip(before, map(cost_of, processes))
    return [((cpu - cpu0) * 1e6 / count, (written - written0) / count) for (cpu0, written0), (cpu, written) in costs]


def is_full(directory):
    try:
        return len(os.listdir(directory)) == FILES_IN_DIRECTORY
    except FileNotFoundError:
        return False


def main():
    totals = []
    for count in COUNTS:
        place = tempfile.mkdtemp(prefix="mesync-growth-")
        disk = NewDisk(place)
        peer = Mesync(place)
        try:
            began = time.monotonic()
            costs = first_sync(peer, count)
            took = time.monotonic() - began
        finally:
            peer.stop()
            disk.close()
            shutil.rmtree(place)
        totals.append([sum(cost[n] for cost in costs) for n in range(2)])
        each = ", ".join(f"{name} {cpu:.0f} and {written:.0f}" for name, (cpu, written) in zip(("hub", "sender", "receiver"), costs))
        print(f"{count} files in {took:.0f} s: CPU microseconds and bytes written for each: {each}; "
              f"all {totals[-1][0]:.0f} and {totals[-1][1]:.0f}", flush=True)
    growth = [last / first for first, last in zip(totals[0], totals[-1])]
    print(f"from {COUNTS[0]} to {COUNTS[-1]} files, CPU time grows by {growth[0]:.2f} and bytes by {growth[1]:.2f}")
    sys.exit(0 if max(growth) <= MOST_GROWTH else 1)


if __name__ == "__main__":
    main()
