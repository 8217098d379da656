//! Limits: of the machine, too few inotify watches or instances, and of the settings, a bandwidth. What is slower then is still
//! right, and what the reason is can be read.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::files::{Hub, noise};
use crate::support::space::left_out;
use crate::support::tree::{Synced, records, settled};
use crate::support::world::wait_for;

const DIRS: usize = 40;

/// Runs what follows it with a limit of inotify of its own: each user namespace has one.
fn limited(name: &str, value: usize) -> Vec<String> {
    let script = format!("echo {value} >/proc/sys/user/{name} && exec \"$@\"");
    [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        &script,
        "sh",
    ]
    .map(String::from)
    .to_vec()
}

/// `false`, with a word, if this user may not make namespaces.
fn may_limit() -> bool {
    let wrap = limited("max_inotify_watches", 10);
    let may = Command::new(&wrap[0])
        .args(&wrap[1..])
        .arg("true")
        .output()
        .is_ok_and(|o| o.status.success());
    if !may {
        left_out("a limit of inotify needs a user namespace, and this user may not make one");
    }
    may
}

impl Synced {
    /// As `[[watch]]` in config.toml.
    pub(super) fn configure(&self, lines: &str) {
        fs::create_dir_all(&self.machine.base).unwrap();
        let text = format!("[[watch]]\npath = {:?}\n{lines}\n", self.dir);
        fs::write(self.machine.base.join("config.toml"), text).unwrap();
    }

    fn told_of_itself(&self, more: &[&str]) -> (i32, String) {
        let out = self.machine.run(&[&["status"], more].concat());
        (
            out.status.code().unwrap(),
            String::from_utf8(out.stdout).unwrap(),
        )
    }
}

/// With a limit: the log and `status` report it, and everything is synced nevertheless.
fn with_a_limit(name: &str, value: usize, sysctl: &str) {
    if !may_limit() {
        return;
    }
    let hub = Hub::start();
    let (mut alpha, mut beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    alpha.configure("rescan = 10");
    alpha.machine.wrap = limited(name, value);
    for n in 0..DIRS {
        alpha.put(format!("d{n:02}/deep/f"), format!("{n}"));
    }
    alpha.start();
    beta.start();
    wait_for("all arrive", &hub.world, || {
        (0..DIRS).all(|n| beta.text(format!("d{n:02}/deep/f")) == format!("{n}"))
    });
    wait_for("it says that not all is watched", &hub.world, || {
        alpha.status()["unwatched"].as_u64() > Some(0)
    });
    let (status, text) = alpha.told_of_itself(&[]);
    assert!(
        status != 0
            && text.contains(sysctl)
            && text.contains("status        degraded: 1 directory "),
        "{status} {text}"
    );
    let (status, json) = alpha.told_of_itself(&["--json"]);
    let said: serde_json::Value = serde_json::from_str(&json).unwrap();
    let row = &said["directories"][0];
    assert!(
        status != 0 && said["healthy"] == false && row["healthy"] == false,
        "{json}"
    );
    assert!(
        row["unwatched"].as_u64() > Some(0) && row["problems"].to_string().contains(sysctl),
        "{json}"
    );

    // in the last directories, which are not watched; the hub reports changes of others
    let began = Instant::now();
    for n in 0..DIRS {
        alpha.put(format!("d{n:02}/deep/f"), "edited");
    }
    alpha.put("new/deep/f", "new");
    alpha.remove("d07/deep/f");
    fs::remove_dir(alpha.at("d07/deep")).unwrap();
    alpha.rename("d09", "renamed");
    beta.put("d08/deep/g", "from beta");
    wait_for("what comes from others does not wait", &hub.world, || {
        alpha.text("d08/deep/g") == "from beta"
    });
    println!("{name}={value}: from beta after {:?}", began.elapsed());
    let edited = |path: &str| beta.text(path) == "edited";
    wait_for("all edits arrive", &hub.world, || {
        let kept = (0..DIRS)
            .filter(|n| ![7, 9].contains(n))
            .all(|n| edited(&format!("d{n:02}/deep/f")));
        kept && edited("renamed/deep/f")
            && beta.text("new/deep/f") == "new"
            && !beta.has("d07/deep")
            && !beta.has("d09")
    });
    println!("{name}={value}: to beta after {:?}", began.elapsed());
    settled(&hub.world, &[&alpha, &beta]);
    let log = alpha.machine.log();
    assert_eq!(log.matches(sysctl).count(), 1, "{log}");
    assert!(alpha.machine.is_running());
    alpha.stop();
}

#[test]
fn with_too_few_watches_the_rest_is_looked_at() {
    with_a_limit("max_inotify_watches", 12, "fs.inotify.max_user_watches=");
}

#[test]
fn without_any_watcher_all_is_looked_at() {
    with_a_limit("max_inotify_instances", 0, "fs.inotify.max_user_instances=");
}

const LIMIT: &str = "debounce_ms = 50\nbandwidth_limit = \"200KB/s\"";
const RATE: u64 = 200_000;

fn start(s: &mut Synced) {
    let dir = s.dir.to_str().unwrap().to_string();
    s.machine.start_with(&["start", "-v", "-w", &dir]);
}

/// Bytes below a directory.
fn size(dir: &std::path::Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |e: fs::DirEntry| {
        e.metadata()
            .map_or(0, |m| if m.is_dir() { size(&e.path()) } else { m.len() })
    };
    entries.map(size).sum()
}

#[test]
fn a_long_upload_delays_no_message_and_no_other_file() {
    let hub = Hub::start();
    let (mut alpha, mut beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    alpha.configure(LIMIT);
    beta.configure("debounce_ms = 50");
    start(&mut alpha);
    start(&mut beta);
    alpha.put("first", "x");
    wait_for("both are there", &hub.world, || beta.has("first"));
    let before = size(&hub.world.hub_dir());
    alpha.put("large", noise(7, 20_000_000));
    wait_for("the large one is on its way", &hub.world, || {
        size(&hub.world.hub_dir()) > before + 200_000
    });

    let on_its_way = |what: &str| {
        assert!(
            !records(&hub).contains_key("large") && !beta.has("large"),
            "{what}"
        )
    };
    alpha.machine.ok(&[
        "send",
        "--target",
        "beta",
        "x",
        "--payload",
        "\"meanwhile\"",
    ]);
    wait_for("the message arrives", &hub.world, || {
        beta.machine
            .messages("inbox")
            .iter()
            .any(|m| m["payload"] == "meanwhile")
    });
    on_its_way("the message");
    beta.machine
        .ok(&["send", "--target", "alpha", "x", "--payload", "\"back\""]);
    wait_for("its answer arrives", &hub.world, || {
        alpha
            .machine
            .messages("inbox")
            .iter()
            .any(|m| m["payload"] == "back")
    });
    on_its_way("its answer");
    alpha.put("small", "from alpha");
    beta.put("other", "from beta");
    wait_for("small files arrive", &hub.world, || {
        beta.text("small") == "from alpha" && alpha.text("other") == "from beta"
    });
    on_its_way("small files");
    // and no thread waits for it at the end
    alpha.machine.stop();
}

#[test]
fn directories_that_are_busy_together_share_their_workers() {
    const DIRS: usize = 3;
    let hub = Hub::start();
    let mut alpha = hub.world.machine("alpha");
    let mut settings = String::new();
    for dir in 0..DIRS {
        let path = hub.world.dir.path().join(format!("share-{dir}"));
        fs::create_dir_all(&path).unwrap();
        for n in 0..4 {
            let content = noise((dir * 10 + n) as u64, 2_000_000);
            fs::write(path.join(format!("long-{n}")), content).unwrap();
        }
        settings += &format!(
            "[[watch]]\npath = {path:?}\nremote = \"share-{dir}\"\nconcurrency = 3\n{LIMIT}\n"
        );
    }
    fs::create_dir_all(&alpha.base).unwrap();
    fs::write(alpha.base.join("config.toml"), settings).unwrap();
    alpha.start();
    // one for each directory, and two that go where there is work
    let most = DIRS + 2;
    wait_for("all that may work do", &hub.world, || {
        let running = alpha.threads("upload-");
        assert!(running <= most, "{running} workers");
        running == most
    });
    alpha.stop();
}

#[test]
fn no_more_than_the_bandwidth_passes_each_way() {
    const SIZE: u64 = 600_000;
    // what a pause has saved up passes at once
    let least = Duration::from_secs_f64((SIZE - RATE / 2) as f64 / RATE as f64);
    let hub = Hub::start();
    let (mut alpha, mut beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    alpha.configure(LIMIT);
    beta.configure("debounce_ms = 50");
    start(&mut alpha);
    start(&mut beta);
    alpha.put("first", "x");
    wait_for("both are there", &hub.world, || beta.has("first"));
    // one file, and many small ones that travel together
    for (what, files) in [("one", 1), ("many", 60)] {
        for (from, to) in [(&alpha, &beta), (&beta, &alpha)] {
            let name = |n: u64| format!("{what}-{}-{n}", from.machine.name);
            let began = Instant::now();
            for n in 0..files {
                from.put(
                    name(n),
                    noise(
                        n + began.elapsed().as_nanos() as u64,
                        (SIZE / files) as usize,
                    ),
                );
            }
            wait_for("they arrive", &hub.world, || {
                (0..files).all(|n| to.read(name(n)) == from.read(name(n)))
            });
            let took = began.elapsed();
            println!(
                "{what} from {}: {took:?} for {SIZE} bytes",
                from.machine.name
            );
            assert!(
                took >= least,
                "{what} from {}: {took:?} is faster than {RATE} bytes a second",
                from.machine.name
            );
        }
    }
}
