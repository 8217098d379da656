"""What processes cost: CPU seconds, bytes written, syncs, bytes through the loopback of a network namespace.

It starts and ends processes, and decides nothing about what is measured.
"""

import glob
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")
FAILED_AFTER = 600.0  # seconds for one row
QUIET_SECONDS = 0.6  # so long without CPU time, and a row has ended
SYNC_CALLS = "fsync,fdatasync,syncfs,sync_file_range,msync"


def family(pid):
    """A process and all below it: Syncthing, for one, works in a child of the process that was started."""
    found = [pid]
    for parent in found:
        for thread in glob.glob(f"/proc/{parent}/task/*/children"):
            try:
                with open(thread) as file:
                    found += map(int, file.read().split())
            except (FileNotFoundError, ProcessLookupError):
                pass  # it has just ended
    return found


def cost_of(pid):
    """CPU seconds and bytes written of a process and of its children that ended, 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        with open(f"/proc/{pid}/io") as file:
            written = int(re.search(r"^write_bytes: (\d+)", file.read(), re.M).group(1))
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0
    return sum(map(int, fields[11:15])) / TICK, written


def resident(pid):
    """VmRSS in MiB, 0 if the process has ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            found = re.search(r"^VmRSS:\s+(\d+)", file.read(), re.M)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(found.group(1)) / 1024 if found else 0.0


def wire_bytes():
    """Bytes that the loopback of this network namespace has carried, heads of packets included."""
    with open("/proc/net/dev") as file:
        line = next(line for line in file if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_until(what, is_true, pause=0.004):
    end = time.monotonic() + FAILED_AFTER
    while not is_true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {FAILED_AFTER:.0f} s: {what}")
        time.sleep(pause)


class NewDisk:
    """A new filesystem for a run, in a file of the disk under test, where root may mount one.

    ext4 looks for a place for a new file past those that were deleted in the last minutes: after a run whose files were
    removed, creating files costs the next one several times the time.
    """

    BYTES = 16 << 30  # of a sparse file

    @staticmethod
    def is_possible():
        return os.geteuid() == 0 and all(map(shutil.which, ("mkfs.ext4", "mount", "umount")))

    def __init__(self, place):
        self.place, self.image = place, place + ".img"
        if not self.is_possible():
            return
        with open(self.image, "wb") as file:
            file.truncate(self.BYTES)
        at_once = "lazy_itable_init=0,lazy_journal_init=0"  # nothing is left to be done during the run
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", at_once, self.image], check=True)
        subprocess.run(["mount", "-o", "loop", self.image, place], check=True)

    def close(self):
        if self.is_possible():
            subprocess.run(["umount", self.place], check=True)
            os.remove(self.image)


class Processes:
    """The processes of one peer: those that run all the time, and those that are run for a while."""

    def __init__(self, log):
        self.log = open(log, "ab")
        self.daemons = []
        self.ended = [0.0, 0]

    def start(self, argv, env=None):
        child = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        self.daemons.append(child)
        return child

    def run(self, argv, env=None, fine=(0,)):
        """Runs a command to its end; what it cost counts."""
        child = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        self.ended[1] += cost_of(child.pid)[1]
        _, status, used = os.wait4(child.pid, 0)
        # finer than what /proc says
        self.ended[0] += used.ru_utime + used.ru_stime
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in fine:
            raise RuntimeError(f"{argv[0]} ended with status {child.returncode}: see {self.log.name}")

    def cost(self):
        parts = [cost_of(pid) for pid in self.pids()]
        return sum(p[0] for p in parts) + self.ended[0], sum(p[1] for p in parts) + self.ended[1]

    def pids(self):
        return [pid for child in self.daemons for pid in family(child.pid)]

    def settle(self):
        """Waits until no process uses CPU time any more (a hundredth a second is none)."""
        end, last = time.monotonic() + 60, self.cost()[0]
        while time.monotonic() < end:
            time.sleep(QUIET_SECONDS)
            now = self.cost()[0]
            if now - last <= 0.02:
                return
            last = now

    def memory(self):
        return [sum(map(resident, family(child.pid))) for child in self.daemons]

    def stop(self):
        for child in self.daemons:
            child.send_signal(signal.SIGTERM)
        for child in self.daemons:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.log.close()


class SyncCounter:
    """Counts syncs of the processes that run all the time with strace; for a run of its own, since it slows them down."""

    def __init__(self, processes):
        pids = [arg for pid in processes.pids() for arg in ("-p", str(pid))]
        self.child = subprocess.Popen(
            ["strace", "-f", "-c", "-e", "trace=" + SYNC_CALLS, *pids],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )
        self.said = []
        self.attached = threading.Event()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.attached.wait(10)
        time.sleep(0.3)

    def read(self):
        for line in self.child.stderr:
            self.said.append(line)
            if "attached" in line:
                self.attached.set()

    def stop(self):
        self.child.send_signal(signal.SIGINT)
        self.child.wait()
        self.reader.join()
        calls = (line.split() for line in self.said)
        return sum(int(c[3]) for c in calls if len(c) >= 5 and c[-1] in SYNC_CALLS.split(","))


def sync_milliseconds(directory):
    """The median of a hundred small writes with a sync."""
    path, took = os.path.join(directory, "synced"), []
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    for _ in range(100):
        began = time.monotonic()
        os.write(file, b"x" * 4096)
        os.fsync(file)
        took.append(time.monotonic() - began)
    os.close(file)
    os.unlink(path)
    return sorted(took)[50] * 1000
