"""Programs that keep two directories the same, each started as its manual says, on this machine alone.

A peer has two directories, `a` and `b`, and `sync`, which a row calls after each change: it does nothing where a daemon
watches the directory.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
import xml.etree.ElementTree as xml

from measure import Processes, free_port, wait_until


class Peer:
    needs = ()
    packages = ""
    settings = ""
    both_ways = True

    @classmethod
    def missing(cls):
        return [tool for tool in cls.needs if shutil.which(tool) is None]

    def __init__(self, scratch):
        self.scratch = scratch
        self.a, self.b = os.path.join(scratch, "a"), os.path.join(scratch, "b")
        os.makedirs(self.a)
        os.makedirs(self.b)
        self.env = {"PATH": os.environ["PATH"], "HOME": scratch}
        self.processes = Processes(os.path.join(scratch, "log"))
        self.start()

    def sync(self):
        pass

    def requests(self):
        """How many requests its server has answered; `None`: it does not say."""
        return None

    def stop(self):
        self.processes.stop()


class Mesync(Peer):
    name = "mesync"
    settings = "hub and two clients, plain HTTP, as installed"
    binary = os.environ.get("BINARY", "target/release/mesync")

    @classmethod
    def missing(cls):
        return [] if os.access(cls.binary, os.X_OK) else [cls.binary]

    packages = "none: make"

    @classmethod
    def version(cls):
        return subprocess.run([cls.binary, "--version"], capture_output=True, text=True).stdout.strip()

    def start(self):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        env = {**self.env, "MESYNC_SERVER_URL": self.url}

        def base(name):
            return {**env, "MESYNC_BASE_DIR": os.path.join(self.scratch, name), "MESYNC_HOST_ID": name}

        self.processes.start([self.binary, "serve", "--listen", f"127.0.0.1:{port}"], base("hub"))
        wait_until("the hub listens", lambda: connects(port))
        for name, directory in (("alpha", self.a), ("beta", self.b)):
            self.processes.start([self.binary, "daemon", "-w", directory], base(name))
        for directory in (self.a, self.b):
            wait_until("the client starts", lambda: os.path.isdir(os.path.join(directory, ".mesync")))
        self.processes.settle()

    def requests(self):
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:
            counts = re.findall(r'^mesync_requests_total\{route="(\w+)".*\} (\d+)$', answer.read().decode(), re.M)
        return sum(int(count) for route, count in counts if route != "metrics")


class Unison(Peer):
    name = "unison"
    needs = ("unison",)
    packages = "unison"
    settings = "a server on a socket, one run after each change: -batch -times -perms -1"

    @staticmethod
    def version():
        return subprocess.run(["unison", "-version"], capture_output=True, text=True).stdout.strip()

    def start(self):
        self.port = free_port()
        server = {**self.env, "UNISON": os.path.join(self.scratch, "server")}
        self.client = {**self.env, "UNISON": os.path.join(self.scratch, "client")}
        self.processes.start(["unison", "-socket", str(self.port)], server)
        wait_until("unison listens", lambda: connects(self.port))
        self.sync()

    def sync(self):
        remote = f"socket://127.0.0.1:{self.port}/{self.b}"
        flags = ["-ui", "text", "-batch", "-auto", "-times", "-perms", "-1", "-confirmbigdel=false"]
        self.processes.run(["unison", self.a, remote, *flags], self.client)


class Syncthing(Peer):
    name = "syncthing"
    needs = ("syncthing",)
    packages = "syncthing"
    settings = "two instances on TCP, no discovery, relays or NAT; the rest as generated"

    @staticmethod
    def version():
        said = subprocess.run(["syncthing", "--version"], capture_output=True, text=True).stdout
        return " ".join(said.split()[:2])

    def start(self):
        homes = [os.path.join(self.scratch, name) for name in ("alpha", "beta")]
        ports, guis = [[free_port() for _ in homes] for _ in range(2)]
        for home in homes:
            generate = ["syncthing", "generate", f"--home={home}", "--no-default-folder", "--skip-port-probing"]
            subprocess.run(generate, env=self.env, check=True, capture_output=True)
        ids = [
            subprocess.run(["syncthing", f"--home={home}", "--device-id"], env=self.env, check=True,
                           capture_output=True, text=True).stdout.strip()
            for home in homes
        ]
        for n, (home, directory) in enumerate(zip(homes, (self.a, self.b))):
            self.configure(home, directory, ids, ports, ports[n], guis[n])
            serve = ["syncthing", "serve", f"--home={home}", "--no-browser", "--no-restart", "--no-upgrade"]
            self.processes.start(serve, {**self.env, "STNOUPGRADE": "1"})
        self.guis = list(zip(guis, (self.key(home) for home in homes)))
        for gui, key in self.guis:
            wait_until("both are connected", lambda: self.is_connected(gui, key), 0.2)
        self.processes.settle()

    @staticmethod
    def key(home):
        return xml.parse(os.path.join(home, "config.xml")).find("gui/apikey").text

    @staticmethod
    def is_connected(gui, key):
        request = urllib.request.Request(f"http://127.0.0.1:{gui}/rest/system/connections", headers={"X-API-Key": key})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return any(c["connected"] for c in json.load(answer)["connections"].values())
        except OSError:
            return False

    @staticmethod
    def configure(home, directory, ids, ports, port, gui):
        path = os.path.join(home, "config.xml")
        config = xml.parse(path)
        root = config.getroot()
        for old in root.findall("device"):
            root.remove(old)
        folder = xml.SubElement(root, "folder", id="bench", path=directory, type="sendreceive",
                                rescanIntervalS="3600", fsWatcherEnabled="true", fsWatcherDelayS="10")
        for id, at in zip(ids, ports):
            xml.SubElement(folder, "device", id=id)
            device = xml.SubElement(root, "device", id=id, compression="metadata")
            xml.SubElement(device, "address").text = f"tcp://127.0.0.1:{at}"
        root.find("gui/address").text = f"127.0.0.1:{gui}"
        options = root.find("options")
        for name, value in {
            "listenAddress": f"tcp://127.0.0.1:{port}", "globalAnnounceEnabled": "false",
            "localAnnounceEnabled": "false", "relaysEnabled": "false", "natEnabled": "false",
            "crashReportingEnabled": "false", "urAccepted": "-1", "autoUpgradeIntervalH": "0",
        }.items():
            for old in options.findall(name):
                options.remove(old)
            xml.SubElement(options, name).text = value
        config.write(path)


class Lsyncd(Peer):
    name = "lsyncd"
    needs = ("lsyncd", "rsync")
    packages = "lsyncd rsync"
    settings = "default.rsync, archive, delay 1 s; one way, and nothing is synced to the disk"
    both_ways = False

    @staticmethod
    def version():
        said = [subprocess.run([tool, "--version"], capture_output=True, text=True).stdout for tool in ("lsyncd", "rsync")]
        return f"lsyncd {said[0].split()[-1]}, rsync {said[1].split()[2]}"

    def start(self):
        config = os.path.join(self.scratch, "lsyncd.lua")
        with open(config, "w") as file:
            file.write(f'sync {{ default.rsync, source = "{self.a}", target = "{self.b}", delay = 1, '
                       "rsync = { archive = true } }\n")
        self.processes.start(["lsyncd", "-nodaemon", config], self.env)
        self.processes.settle()


def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


PEERS = [Mesync, Unison, Syncthing, Lsyncd]
