"""The rows: a change in `a`, and what must be true in `b` then.

Each row is a function of a bench; `begin` in it makes the change, and what it returns says when it has arrived.
"""

import os
import shutil
import statistics
import time

from measure import wait_until

FILE_BYTES = 4096
BULK_FILES = int(os.environ.get("FILES", 5000))
BURST_FILES = min(1000, BULK_FILES // 5)
BIG_MIB = int(os.environ.get("BIG_MIB", 512))
LATENCY_SAMPLES = 15
LATENCY_PAUSE = 1.2  # longer than any debounce
# a peer that waits before it syncs gets as many samples as this time allows, and three at least
LATENCY_SECONDS = 60


def noise(n, size=FILE_BYTES):
    """Bytes that neither repeat nor compress, the same for the same number."""
    import hashlib
    return hashlib.shake_128(n.to_bytes(8, "little")).digest(size)


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def size(path):
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def mode(path):
    try:
        return os.stat(path).st_mode & 0o777
    except OSError:
        return None


def waits_for_all(paths, is_done):
    """A condition that holds when `is_done` does for every path; it looks at each until then, and not again."""
    left = list(paths)

    def is_true():
        while left and is_done(left[-1]):
            left.pop()
        return not left

    return is_true


def names(directory, count):
    return [os.path.join(directory, f"f{n:05}") for n in range(count)]


def pairs(bench, directory, count):
    return names(os.path.join(bench.a, directory), count), names(os.path.join(bench.b, directory), count)


def first(bench):
    files = [f"first/d{n % 50:02}/f{n:05}" for n in range(BULK_FILES)]
    for n in range(50):
        os.makedirs(f"{bench.a}/first/d{n:02}")
    for n, file in enumerate(files):
        write(f"{bench.a}/{file}", noise(n))
    return waits_for_all([f"{bench.b}/{f}" for f in files], lambda p: size(p) == FILE_BYTES)


def burst(bench):
    os.mkdir(f"{bench.a}/burst")
    here, there = pairs(bench, "burst", BURST_FILES)
    for n, path in enumerate(here):
        write(path, noise(100_000 + n))
    return waits_for_all(there, lambda p: size(p) == FILE_BYTES)


def overwrite(bench):
    here, there = pairs(bench, "burst", BURST_FILES)
    for n, path in enumerate(here):
        write(path, noise(200_000 + n, FILE_BYTES + 1))
    return waits_for_all(there, lambda p: size(p) == FILE_BYTES + 1)


def rename(bench):
    os.rename(f"{bench.a}/burst", f"{bench.a}/renamed")
    there = names(f"{bench.b}/renamed", BURST_FILES)
    arrived = waits_for_all(there, lambda p: size(p) == FILE_BYTES + 1)
    return lambda: arrived() and not os.path.exists(f"{bench.b}/burst")


def chmod(bench):
    here, there = pairs(bench, "renamed", BURST_FILES)
    for path in here:
        os.chmod(path, 0o600)
    return waits_for_all(there, lambda p: mode(p) == 0o600)


def rm(bench):
    shutil.rmtree(f"{bench.a}/renamed")
    return lambda: not os.path.exists(f"{bench.b}/renamed")


def big(bench):
    with open(f"{bench.a}/big", "wb") as file:
        for n in range(BIG_MIB):
            file.write(noise(n, 1 << 20))
    return lambda: size(f"{bench.b}/big") == BIG_MIB << 20


def at(path, offset, count):
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(count)
    except OSError:
        return None


def big_changed(bench):
    offset = (BIG_MIB // 2) << 20
    with open(f"{bench.a}/big", "r+b") as file:
        file.seek(offset)
        file.write(noise(900_001, 1 << 20))
    want = noise(900_001, 1 << 20)[-64:]
    return lambda: at(f"{bench.b}/big", offset + (1 << 20) - 64, 64) == want


def big_front(bench):
    path = f"{bench.a}/big"
    with open(path, "rb") as old, open(f"{bench.scratch}/moving", "wb") as new:
        new.write(b"x")
        shutil.copyfileobj(old, new, 1 << 20)
    os.rename(f"{bench.scratch}/moving", path)
    return lambda: size(f"{bench.b}/big") == (BIG_MIB << 20) + 1


def settle_disk(bench):
    os.sync()
    time.sleep(0.5)


# name -> what is printed, the change, the files that it is about, the row that must have been done before
BULK = {
    "first": (f"first sync of {BULK_FILES} files of 4 KiB", first, BULK_FILES, None),
    "burst": (f"burst of {BURST_FILES} new files", burst, BURST_FILES, "first"),
    "overwrite": (f"{BURST_FILES} files overwritten", overwrite, BURST_FILES, "burst"),
    "rename": (f"directory of {BURST_FILES} files renamed", rename, BURST_FILES, "overwrite"),
    "chmod": (f"chmod of {BURST_FILES} files", chmod, BURST_FILES, "rename"),
    "rm": (f"rm -r of {BURST_FILES} files", rm, BURST_FILES, "rename"),
    "big": (f"one file of {BIG_MIB} MiB", big, 1, None),
    "big-changed": ("1 MiB changed in the middle of it", big_changed, 1, "big"),
    "big-front": ("1 byte in front of it", big_front, 1, "big"),
}


def one_by_one(bench, act, is_done, prepare=None):
    """The latency of single changes, in milliseconds, while nothing else happens."""
    took, end = [], time.monotonic() + LATENCY_SECONDS
    for n in range(LATENCY_SAMPLES):
        if n >= 3 and time.monotonic() > end:
            break
        if prepare:
            prepare(n)
            bench.peer.sync()
        time.sleep(LATENCY_PAUSE)
        began = time.monotonic()
        act(n)
        bench.peer.sync()
        wait_until("a single change", lambda: is_done(n), 0.001)
        took.append((time.monotonic() - began) * 1000)
    return {"latency_ms": statistics.median(took), "worst_ms": max(took)}


def latency(bench, kind):
    a, b = f"{bench.a}/one-{kind}", f"{bench.b}/one-{kind}"

    def put(n):
        write(f"{a}{n}", noise(n))
        wait_until("a single file", lambda: (bench.peer.sync(), size(f"{b}{n}") == FILE_BYTES)[1])

    act, done = {
        "create": (lambda n: write(f"{a}{n}", noise(n)), lambda n: size(f"{b}{n}") == FILE_BYTES),
        "modify": (lambda n: write(f"{a}{n}", noise(n, 5000)), lambda n: size(f"{b}{n}") == 5000),
        "delete": (lambda n: os.unlink(f"{a}{n}"), lambda n: size(f"{b}{n}") is None),
        "chmod-one": (lambda n: os.chmod(f"{a}{n}", 0o600), lambda n: mode(f"{b}{n}") == 0o600),
        "rename-one": (lambda n: os.rename(f"{a}{n}", f"{a}{n}-new"), lambda n: size(f"{b}{n}-new") == FILE_BYTES),
    }[kind]
    return one_by_one(bench, act, done, None if kind == "create" else put)


LATENCY = ("create", "modify", "delete", "chmod-one", "rename-one")


# -- messages

MESSAGES = int(os.environ.get("MESSAGES", 10_000))
SENDS = 50
BODY_BYTES = 200


def body(n):
    return f"{n:08}".ljust(BODY_BYTES, "x")


def message_send(broker):
    """Whole processes that send one message each; nothing for a broker without a command for it."""
    if not hasattr(broker, "send_command"):
        return {}
    began, before = time.monotonic(), broker.processes.ended[0]
    for n in range(SENDS):
        broker.processes.run(*broker.send_command(body(n)))
    wall = time.monotonic() - began
    cpu = broker.processes.ended[0] - before
    wait_for_messages(broker, SENDS)
    return {"latency_ms": wall / SENDS * 1000, "cpu_ms": cpu / SENDS * 1000}


def wait_for_messages(broker, count):
    broker.expected = getattr(broker, "expected", 0) + count
    wait_until("all messages", lambda: all(broker.received(inbox) >= broker.expected for inbox in broker.inboxes), 0.001)


def message_latency(broker):
    """From one sender to the last of three synced inboxes, with nothing else to do."""
    took = []
    for n in range(SENDS):
        time.sleep(0.1)
        began = time.monotonic()
        broker.publish([body(n).encode()])
        wait_for_messages(broker, 1)
        took.append((time.monotonic() - began) * 1000)
    return {"latency_ms": statistics.median(took), "worst_ms": max(took)}


def message_bulk(broker):
    processes = broker.processes
    processes.settle()
    bodies = [body(n).encode() for n in range(MESSAGES)]
    (cpu, written), began = processes.cost(), time.monotonic()
    broker.publish(bodies)
    sent = time.monotonic() - began
    wait_for_messages(broker, MESSAGES)
    wall = time.monotonic() - began
    processes.settle()
    after = processes.cost()
    return {"sent_s": sent, "wall_s": wall, "cpu_s": after[0] - cpu, "written_mb": (after[1] - written) / 1e6}


MESSAGE_ROWS = {
    "message-send": ("one message, a process for each", message_send),
    "message-latency": ("one message to three synced inboxes, idle", message_latency),
    "message-bulk": (f"{MESSAGES} messages to three synced inboxes", message_bulk),
}
