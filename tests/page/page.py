#!/usr/bin/env python3
"""The hub's page in a real browser: headless Chromium, driven by chromedriver, over a hub with machines in every condition.

    make page-test                     checks, and leaves pictures in target/page/
    BINARY=path tests/page/page.py     of another binary

Checks: trouble comes first, names are harmless, changes appear by themselves, the key form works with the keyboard alone, every
control and table has a name, the contrast of all text is at least 4.5, nothing is wider than the screen, the console is empty.
Standard library only. Ends with 0, or with a line for each failed check; without Chromium it says so and ends with 0.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("BINARY", str(ROOT / "target/debug/mesync"))
PICTURES = Path(os.environ.get("PICTURES", ROOT / "target/page"))
PATIENCE = 90
HOSTILE = "evil\u202e\u2066gnp.exe\u200b <b>bold & \"quoted\""
LONG = "long-" + "abcdefghi " * 23

failed = []


def check(name, is_true, shown=""):
    print(("ok    " if is_true else "FAILED") + " " + name + ("" if is_true else f": {shown}"))
    if not is_true:
        failed.append(name)


def wait_for(what, done):
    end = time.monotonic() + PATIENCE
    while True:
        value = done()
        if value:
            return value
        if time.monotonic() > end:
            sys.exit(f"waited too long: {what}")
        time.sleep(0.05)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Hub:
    """A hub and clients with directories, as real processes."""

    def __init__(self, scratch):
        self.scratch, self.processes, self.keys, self.port = scratch, [], {}, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start("hub", "serve", "--listen", f"127.0.0.1:{self.port}")
        wait_for("the hub", self.answers)
        self.key = self.run("hub", "key", "add", "page", "--admin")

    def answers(self):
        try:
            return urllib.request.urlopen(self.url + "/api/health", timeout=2).status == 200
        except OSError:
            return False

    def env(self, host):
        home = self.scratch / host
        home.mkdir(exist_ok=True)
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "MESYNC_HOST_ID": host, "MESYNC_SERVER_URL": self.url}
        if host == "hub":
            return env | {"MESYNC_DATA_DIR": str(self.scratch / "data")}
        return env | {"MESYNC_API_KEY": self.keys[host]}

    def run(self, host, *args):
        out = subprocess.run([BINARY, *args], env=self.env(host), capture_output=True, text=True)
        if out.returncode != 0:
            sys.exit(f"{args}: {out.stderr}")
        return out.stdout.strip()

    def start(self, host, *args):
        with open(self.scratch / f"{host}.log", "ab") as log:
            process = subprocess.Popen([BINARY, *args], env=self.env(host), stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def client(self, host):
        self.keys[host] = self.run("hub", "key", "add", host)
        share = self.scratch / host / "share"
        self.env(host)
        share.mkdir()
        return share, self.start(host, "start", str(share))

    def conditions(self):
        rows = map(json.loads, self.run("hub", "hosts", "--json").splitlines())
        return {row["name"]: row["condition"] for row in rows}

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


class Browser:
    """One session of chromedriver (https://www.w3.org/TR/webdriver/)."""

    FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]

    def __init__(self, scratch):
        self.port = free_port()
        self.process = subprocess.Popen(["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL)
        self.base = f"http://127.0.0.1:{self.port}"
        wait_for("chromedriver", self.is_ready)
        options = {"args": [*self.FLAGS, f"--user-data-dir={scratch}/chromium"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += "/session/" + session["sessionId"]

    def is_ready(self):
        try:
            return self.call("/status")["ready"]
        except OSError:
            return False

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"})
        try:
            return json.load(urllib.request.urlopen(request, timeout=60))["value"]
        except urllib.error.HTTPError as e:
            sys.exit(f"{path}: {e.read().decode()}")

    def js(self, script, *args):
        return self.call("/execute/sync", {"script": script, "args": list(args)})

    def cdp(self, command, **params):
        return self.call("/goog/cdp/execute", {"cmd": command, "params": params})

    def look(self, width, height, scheme):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, name):
        whole = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        (PICTURES / f"{name}.png").write_bytes(base64.b64decode(whole["data"]))

    def press(self, keys):
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def stop(self):
        urllib.request.urlopen(urllib.request.Request(self.base, method="DELETE"), timeout=60)
        self.process.terminate()
        self.process.wait()


# the least contrast of the text of the page with its background (WCAG 2, 1.4.3), and where
CONTRAST = """
const parse = (c) => c.match(/[\\d.]+/g).map(Number);
const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b };
let least = [99, ""];
for (const e of document.querySelectorAll("body *")) {
  if (!e.checkVisibility() || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
  let back = e;
  while (back && parse(getComputedStyle(back).backgroundColor)[3] === 0) back = back.parentElement;
  const a = light(parse(getComputedStyle(e).color)), b = light(parse(getComputedStyle(back).backgroundColor));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < least[0]) least = [ratio, e.tagName + " " + e.className + " " + e.textContent.slice(0, 30)];
}
return least;
"""


# cells whose text overlaps that of their neighbour
OVERLAPS = """
const found = [];
for (const row of document.querySelectorAll("tr, dl")) {
  const boxes = [...row.children].map((e) => { const r = document.createRange(); r.selectNodeContents(e); return r.getBoundingClientRect() });
  boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
    if (a.width && b.width && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1) found.push(row.innerText);
  }));
}
return found;
"""


def names_of(browser, roles):
    """What a screen reader says: (role, name) of the nodes with these roles."""
    nodes = browser.cdp("Accessibility.getFullAXTree")["nodes"]
    value = lambda node, field: node.get(field, {}).get("value", "")
    return [(value(n, "role"), value(n, "name")) for n in nodes if not n["ignored"] and value(n, "role") in roles]


def fill(hub):
    """Machines: one silent, one degraded, one of which nothing is known, others in sync. Files: also with hostile names."""
    _, silent = hub.client("router-attic")
    wait_for("router-attic is in sync", lambda: hub.conditions().get("router-attic") == "in-sync")
    silent.kill()
    share, _ = hub.client("web-1")
    for name in ["nas", "web-2", "laptop-ann"]:
        hub.client(name)
    hub.client("backup")
    (hub.scratch / "backup/.daemon/outbox").mkdir(parents=True, exist_ok=True)
    (hub.scratch / "backup/.daemon/outbox/broken.json").write_text("{}")
    hub.keys["vm-old"] = hub.run("hub", "key", "add", "vm-old")
    hub.run("vm-old", "start", "--once")
    (share / "docs").mkdir()
    (share / LONG).mkdir()
    for name, size in {"docs/handbook.pdf": 1_800_000, HOSTILE: 12, f"{LONG}/{LONG}.txt": 7, "photos.zip": 23_000_000, "notes.txt": 812}.items():
        (share / name).write_bytes(os.urandom(size))
    (share / "current").symlink_to("docs/handbook.pdf")
    wanted = {"router-attic": "silent", "backup": "degraded", "vm-old": "unknown", "nas": "in-sync", "web-1": "in-sync"}
    wait_for("every condition is reached", lambda: wanted.items() <= hub.conditions().items())
    return share


def main():
    for program in ("chromium", "chromedriver"):
        if not shutil.which(program):
            print(f"SKIPPED: no {program} (Debian: apt-get install chromium chromium-driver)")
            sys.exit("CI" in os.environ)
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mesync-page.") as scratch:
        hub = browser = None
        try:
            hub = Hub(Path(scratch))
            share = fill(hub)
            browser = Browser(scratch)
            examine(hub, browser, share)
        finally:
            for part in (browser, hub):
                if part:
                    part.stop()
    sys.exit(1 if failed else 0)


def examine(hub, browser, share):
    browser.look(1100, 900, "light")
    browser.call("/url", {"url": hub.url})
    ask = "return !document.getElementById('ask').hidden"
    wait_for("the page asks for a key", lambda: browser.js(ask))
    check("the key field has a label", ("textbox", "A key of this hub") in names_of(browser, ["textbox"]))
    check("the key field has the focus", browser.js("return document.activeElement.id") == "key")
    browser.picture("key-light")
    log = browser.call("/se/log", {"type": "browser"})
    refused = [e for e in log if "401" not in e["message"]]
    check("nothing but the refusal is on the console", not refused, refused)
    browser.press(hub.key + "\ue007")
    content = "return !document.getElementById('content').hidden"
    wait_for("a key and Enter show the content", lambda: browser.js(content))
    cells = "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)"
    wait_for("the changes are shown", lambda: len(browser.js(cells, "#changes tr")) >= 6)

    marks = browser.js(cells, "#hosts .mark")
    order = ["silent", "degraded", "unknown", "syncing", "in sync"]
    places = [order.index(mark) for mark in marks]
    check("trouble comes first", places == sorted(places) and places[0] == 0 and len(places) >= 7, marks)
    check("the title counts it", browser.js("return document.title") == "(2) mesync hub", browser.js("return document.title"))
    summary = browser.js(cells, "#summary")[0]
    check("the summary counts it", "2 machines silent or degraded" in summary, summary)
    text = browser.js("return document.body.innerText")
    check("invisible characters are shown as numbers", "evil\\u{202e}\\u{2066}gnp.exe\\u{200b} <b>bold" in text, text[-600:])
    check("no invisible character is left", not any(c in text for c in "\u202e\u2066\u200b"))
    check("a name is text", browser.js("return document.querySelectorAll('#changes b').length") == 0)

    (share / "live-update.txt").write_text("now")
    wait_for("a change appears by itself", lambda: "live-update.txt" in browser.js(cells, "#changes th")[0])
    check("a change appears by itself", True)

    for width, device in ((1100, "desktop"), (390, "phone")):
        for scheme in ("light", "dark"):
            browser.look(width, 900 if width > 600 else 800, scheme)
            name = f"{device}-{scheme}"
            wide = browser.js("return document.documentElement.scrollWidth")
            check(f"{name}: nothing is wider than the screen", wide <= width, wide)
            over = browser.js(OVERLAPS)
            check(f"{name}: no text overlaps another", not over, over)
            ratio, where = browser.js(CONTRAST)
            check(f"{name}: the least contrast is {ratio:.1f}", ratio >= 4.5, where)
            browser.picture(name)
    browser.look(320, 800, "light")
    wide = browser.js("return document.documentElement.scrollWidth")
    check("320 pixels are enough", wide <= 320, wide)
    browser.look(1100, 900, "light")
    tables = names_of(browser, ["table"])
    check("both tables have names", {n for _, n in tables} == {"Machines", "Latest changes of files"}, tables)
    headers = names_of(browser, ["columnheader"])
    check("every column has a header", len(headers) == 10 and all(n for _, n in headers), headers)
    unnamed = [n for n in names_of(browser, ["button", "textbox", "link"]) if not n[1]]
    check("every control has a name", not unnamed, unnamed)

    browser.call("/url", {"url": "about:blank"})
    browser.call("/url", {"url": hub.run("hub", "hub", "page").split()[-1]})
    wait_for("an address with a token shows the content", lambda: browser.js(content))
    wait_for("it shows the changes", lambda: len(browser.js(cells, "#changes tr")) >= 6)
    check("an address with a token shows the machines", len(browser.js(cells, "#hosts tr")) >= 7)

    browser.call("/url", {"url": hub.url})
    wait_for("the page asks for a key", lambda: browser.js(ask))
    browser.press(hub.key + "\ue007")
    wait_for("a key and Enter show the content", lambda: browser.js(content))
    hub.run("hub", "key", "remove", "page")
    wait_for("a removed key is noticed", lambda: browser.js(ask))
    check("a removed key hides the data", not browser.js(content))
    log = browser.call("/se/log", {"type": "browser"})
    refused = [e for e in log if "401" not in e["message"]]
    check("the console is empty", not refused, refused)


if __name__ == "__main__":
    main()
