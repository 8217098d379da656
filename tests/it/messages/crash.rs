//! No message is lost or delivered twice, whatever is killed and when: real processes, real files, `kill -9`.
//!
//! Power losses need a model of the disk; kills only need the order of the system calls, which is tested here.

use crate::support::inject;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::support::world::{Machine, Random, World, wait_for};
use mesync::internals::messages::spool;
use mesync::internals::wire::Message;

/// Moves everything out of an inbox, as a script would, and counts how often each id appeared there.
fn consume(machine: &Machine, taken: &Path, appeared: &mut BTreeMap<String, usize>) {
    for name in machine.names("inbox") {
        let id = name.split_once('_').unwrap().1.to_string();
        let is_new = !taken.join(&name).exists();
        std::fs::rename(machine.dir("inbox").join(&name), taken.join(&name)).unwrap();
        *appeared.entry(id).or_default() += 1;
        assert!(
            is_new,
            "{name} appeared twice in the inbox of {}",
            machine.name
        );
    }
}

#[test]
fn ten_thousand_messages_survive_fifty_kills() {
    const MESSAGES: usize = 10_000;
    const KILLS: usize = 50;
    let mut random = Random::seeded("ten_thousand_messages_survive_fifty_kills");
    let mut world = World::new();
    let (mut alpha, mut beta, mut gamma) = (
        world.machine("alpha"),
        world.machine("beta"),
        world.machine("gamma"),
    );

    // the hub learns of all machines, then everything except the sender's disk is stopped
    world.start_hub();
    beta.ok(&["start", "--once"]);
    gamma.ok(&["start", "--once"]);
    world.stop_hub();
    let ran = beta.base.join("ran");
    beta.hook(
        "storm.hook",
        &format!("echo \"$MESYNC_ID\" >> {}", ran.display()),
    );

    spool::create(&alpha.base).unwrap();
    let mut sent = Vec::new();
    for n in 0..MESSAGES {
        let kind = if n % 20 == 0 { "storm.hook" } else { "storm" };
        let priority = ["high", "normal", "normal", "low"][random.below(4) as usize];
        let text = format!(
            r#"{{"type":"{kind}","source":"alpha","priority":"{priority}","payload":{{"n":{n}}}}}"#
        );
        if random.below(4) == 0 {
            let message = Message::parse(text.as_bytes()).unwrap();
            spool::send(&alpha.base, message, std::time::SystemTime::now()).unwrap();
        } else {
            alpha.drop_file(&format!("{n}.json"), &text);
        }
        sent.push((n, kind == "storm.hook"));
    }
    assert_eq!(alpha.names("outbox").len(), MESSAGES);
    // what was dropped a moment ago has to be left alone for one: it would go out after what was sent later
    let age = |name: &String| {
        alpha
            .dir("outbox")
            .join(name)
            .metadata()
            .unwrap()
            .modified()
            .unwrap()
            .elapsed()
            .unwrap()
    };
    let names = alpha.names("outbox");
    wait_for("all files are old enough", &world, || {
        names.iter().map(age).min().unwrap() > mesync::internals::messages::plan::MIN_UNTOUCHED_TIME
    });

    let taken = world.dir.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    let mut appeared = BTreeMap::new();
    alpha.start();
    beta.start();
    world.start_hub();
    for kill in 0..KILLS {
        // some progress, so that the kills fall into the whole of it
        let aim = beta.seen().len() + random.below(2 * (MESSAGES / KILLS) as u64) as usize;
        wait_for("messages arrive between kills", &world, || {
            consume(&beta, &taken, &mut appeared);
            beta.seen().len() >= aim.min(MESSAGES)
        });
        match random.below(3) {
            0 => {
                world.kill_hub();
                world.start_hub();
            }
            1 => {
                alpha.kill();
                alpha.start();
            }
            _ => {
                beta.kill();
                beta.start();
            }
        }
        assert!(kill < KILLS);
    }
    wait_for("everything has left the outbox", &world, || {
        alpha.names("outbox").is_empty()
    });
    gamma.start();
    wait_for("all messages reach beta", &world, || {
        consume(&beta, &taken, &mut appeared);
        appeared.len() >= MESSAGES
    });
    wait_for("all messages reach gamma", &world, || {
        gamma.names("inbox").len() >= MESSAGES
    });
    wait_for("all hooks have run", &world, || {
        hooked(&ran).len() >= MESSAGES / 20
    });

    assert!(
        alpha.names("failed").is_empty(),
        "{:?}",
        alpha.names("failed")
    );
    let numbers = |dir: &Path| -> BTreeSet<u64> {
        let read = |e: std::fs::DirEntry| -> u64 {
            let message: serde_json::Value =
                serde_json::from_slice(&std::fs::read(e.path()).unwrap()).unwrap();
            message["payload"]["n"].as_u64().unwrap()
        };
        std::fs::read_dir(dir)
            .unwrap()
            .flatten()
            .map(read)
            .collect()
    };
    let all: BTreeSet<u64> = (0..MESSAGES as u64).collect();
    assert_eq!(numbers(&taken), all);
    assert_eq!(numbers(&gamma.dir("inbox")), all);
    assert_eq!(gamma.names("inbox").len(), MESSAGES, "none twice");
    assert_eq!(
        alpha.names("inbox").len(),
        0,
        "own broadcasts do not come back"
    );
    in_order(&gamma);
}

fn hooked(ran: &Path) -> BTreeSet<String> {
    std::fs::read_to_string(ran)
        .unwrap_or_default()
        .lines()
        .map(str::to_string)
        .collect()
}

/// Within a priority messages are accepted in the order of their names.
fn in_order(machine: &Machine) {
    let by_id: BTreeMap<String, (String, String)> = machine
        .names("inbox")
        .into_iter()
        .map(|name| {
            let message: serde_json::Value =
                serde_json::from_slice(&std::fs::read(machine.dir("inbox").join(&name)).unwrap())
                    .unwrap();
            (
                message["id"].as_str().unwrap().to_string(),
                (message["priority"].as_str().unwrap().to_string(), name),
            )
        })
        .collect();
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for line in machine.seen() {
        let (priority, name) = &by_id[line.rsplit(' ').next().unwrap()];
        let before = last.insert(priority.clone(), name.clone());
        assert!(
            before.as_ref().is_none_or(|b| b < name),
            "{priority}: {before:?} came before {name}"
        );
    }
}

/// The calls that change the disk, the hub's knowledge, or the running processes.
const CALLS: [&str; 17] = [
    "fsync",
    "fdatasync",
    "syncfs",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "write",
    "sendto",
    "ftruncate",
    "mkdir",
    "flock",
    "clone3",
    "connect",
];

/// Runs a command again and again: each time it is killed at one of its calls, until each was the last one once.
///
/// strace counts each kind of call by itself, in each thread. `prepare` and `check` run before and after each.
fn killed_at_each_call(
    machine: &Machine,
    args: &[&str],
    mut prepare: impl FnMut(),
    mut check: impl FnMut(&str),
) {
    let mut kills = 0;
    for call in CALLS {
        for n in 1.. {
            prepare();
            let plain = machine.command(args);
            let mut traced = Command::new("strace");
            traced.args([
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace=?{call}"),
            ]);
            traced.args(["-e", &format!("inject=?{call}:signal=KILL:when={n}")]);
            traced
                .arg(plain.get_program())
                .args(plain.get_args())
                .env_clear();
            traced.envs(
                plain
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
            let status = traced.output().unwrap().status;
            check(&format!("{call} {n}"));
            // what a pass leaves is for `check`: here counts that it ended by itself, so that there is no such call any more
            if let Some(code) = status.code() {
                assert!(code <= 1, "{call} {n}: {status}");
                break;
            }
            kills += 1;
        }
    }
    println!("{args:?}: killed at {kills} calls");
    assert!(kills > 5, "strace has killed {kills} times only");
}

#[test]
fn a_kill_between_any_two_calls_of_the_sender_loses_nothing_and_repeats_nothing() {
    if !inject::is_available() {
        return;
    }
    let mut world = World::new();
    let (alpha, mut beta) = (world.machine("alpha"), world.machine("beta"));
    world.start_hub();
    beta.start();
    wait_for("beta is registered", &world, || {
        world
            .hub_command()
            .args(["hosts"])
            .output()
            .unwrap()
            .stdout
            .windows(4)
            .any(|w| w == b"beta")
    });
    spool::create(&alpha.base).unwrap();
    let n = Cell::new(0);
    let prepare = || {
        n.set(n.get() + 1);
        let n = n.get();
        alpha.ok(&["send", "kill.test", "--payload", &n.to_string()]);
        alpha.drop_file(
            &format!("{n}.json"),
            &format!(r#"{{"type":"kill.drop","payload":{n}}}"#),
        );
        // refused, so that the way into failed/ is killed too
        alpha.drop_file(&format!("bad{n}.json"), r#"{"payload":1}"#);
    };
    killed_at_each_call(&alpha, &["start", "--once"], prepare, |kill| {
        let n = n.get();
        // it tells that messages are in failed/
        let pass = alpha.run(&["start", "--once"]);
        assert_eq!(
            pass.status.code(),
            Some(1),
            "{kill}: {}",
            String::from_utf8_lossy(&pass.stderr)
        );
        assert!(
            alpha.names("outbox").is_empty(),
            "{kill}: {:?}",
            alpha.names("outbox")
        );
        wait_for("everything arrives", &world, || {
            beta.names("inbox").len() >= 2 * n
        });
        assert_eq!(beta.names("inbox").len(), 2 * n, "{kill}");
        let failed = alpha.names("failed");
        assert!(
            failed.contains(&format!("bad{n}.json"))
                && failed.contains(&format!("bad{n}.json.reason")),
            "{kill}: {failed:?}"
        );
        assert_eq!(failed.len(), 2 * n, "{kill}: {failed:?}");
        let text =
            std::fs::read_to_string(alpha.dir("failed").join(format!("bad{n}.json"))).unwrap();
        assert_eq!(text, r#"{"payload":1}"#, "{kill}");
    });
    let expected = 2 * n.get();
    let payloads: BTreeSet<String> = beta
        .messages("inbox")
        .iter()
        .map(|m| format!("{} {}", m["type"], m["payload"]))
        .collect();
    assert_eq!(payloads.len(), expected);
}

#[test]
fn a_kill_between_any_two_calls_of_the_receiver_loses_nothing_and_repeats_nothing() {
    if !inject::is_available() {
        return;
    }
    let mut world = World::new();
    let (mut alpha, beta) = (world.machine("alpha"), world.machine("beta"));
    world.start_hub();
    beta.ok(&["start", "--once"]);
    let ran = beta.base.join("ran");
    beta.hook(
        "kill.hook",
        &format!(
            "cat > /dev/null; echo \"$MESYNC_ID $MESYNC_ATTEMPT\" >> {}",
            ran.display()
        ),
    );
    alpha.start();
    let taken = world.dir.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    let mut appeared = BTreeMap::new();
    let hooks = RefCell::new(Vec::new());
    let sent = Cell::new(0);
    let prepare = || {
        for _ in 0..2 {
            alpha.ok(&["send", "kill.test", "--target", "beta"]);
            hooks
                .borrow_mut()
                .push(alpha.ok(&["send", "kill.hook", "--target", "beta"]));
        }
        sent.set(sent.get() + 4);
        wait_for("the hub has them", &world, || {
            alpha.names("outbox").is_empty()
        });
    };
    killed_at_each_call(&beta, &["start", "--once"], prepare, |kill| {
        consume(&beta, &taken, &mut appeared);
        // a hook of the killed one may still be at work
        wait_for("every hook has run", &world, || {
            // its status is 1 while one has yet to run
            beta.run(&["start", "--once"]);
            consume(&beta, &taken, &mut appeared);
            let run = std::fs::read_to_string(&ran).unwrap_or_default();
            hooks.borrow().iter().all(|id| run.contains(id.as_str()))
        });
        assert_eq!(appeared.len(), sent.get(), "{kill}");
        assert!(appeared.values().all(|times| *times == 1), "{kill}");
        let run = std::fs::read_to_string(&ran).unwrap();
        let runs: Vec<&str> = run.lines().collect();
        assert_eq!(
            runs.iter().collect::<BTreeSet<_>>().len(),
            runs.len(),
            "an attempt number was used twice, {kill}"
        );
    });
    wait_for("no record is left", &world, || {
        beta.run(&["start", "--once"]);
        std::fs::read_dir(beta.base.join("state/hooks"))
            .unwrap()
            .count()
            == 0
    });
}

#[test]
fn a_hub_whose_disk_was_set_back_repeats_nothing_and_continues() {
    let mut world = World::new();
    world.start_hub();
    let (alpha, beta) = (world.machine("alpha"), world.machine("beta"));
    beta.ok(&["start", "--once"]);
    let sent: Vec<String> = (0..3).map(|_| alpha.ok(&["send", "before"])).collect();
    alpha.ok(&["start", "--once"]);
    world.stop_hub();
    let (data, copy) = (world.hub_dir(), world.dir.path().join("copy"));
    let copied = Command::new("cp")
        .arg("-a")
        .arg(&data)
        .arg(&copy)
        .status()
        .unwrap();
    assert!(copied.success());
    world.start_hub();
    beta.ok(&["start", "--once"]);
    alpha.ok(&["send", "lost.with.the.disk"]);
    alpha.ok(&["start", "--once"]);
    beta.ok(&["start", "--once"]);
    assert_eq!(beta.names("inbox").len(), 4);
    beta.ok(&["flush", "inbox"]);

    // the copy knows nothing of what beta has taken since
    world.stop_hub();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    world.start_hub();
    let after = alpha.ok(&["send", "after"]);
    alpha.ok(&["start", "--once"]);
    beta.ok(&["start", "--once"]);
    let ids: Vec<String> = beta
        .messages("inbox")
        .iter()
        .map(|m| m["id"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(ids, [after], "nothing of {sent:?} comes again");

    // and with another hub in its place
    world.stop_hub();
    std::fs::remove_dir_all(&data).unwrap();
    world.start_hub();
    beta.ok(&["start", "--once"]);
    alpha.ok(&["send", "new.hub"]);
    alpha.ok(&["start", "--once"]);
    beta.ok(&["start", "--once"]);
    assert_eq!(beta.names("inbox").len(), 2);
}

#[test]
fn a_send_that_was_killed_leaves_a_whole_message_or_none() {
    if !inject::is_available() {
        return;
    }
    let world = World::new();
    let alpha = world.machine("alpha");
    let before = Cell::new(0);
    killed_at_each_call(
        &alpha,
        &["send", "x.y", "--payload", "[1,2,3]"],
        || before.set(alpha.names("outbox").len()),
        |kill| {
            let after = alpha.messages("outbox").len();
            assert_eq!(
                after,
                alpha.names("outbox").len(),
                "half a message under its final name, {kill}"
            );
            assert!(after == before.get() || after == before.get() + 1, "{kill}");
        },
    );
    assert!(before.get() > 0);
}
