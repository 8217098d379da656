//! Every call of the message half that touches the disk fails, one at a time: no message is lost or
//! delivered twice.
//!
//! `crash` kills at each call; here the call returns an error and the process continues.

use std::cell::{Cell, RefCell};

use crate::support::inject::{self, Fault};
use crate::support::world::{Machine, World, wait_for};

#[test]
fn a_send_whose_calls_fail_leaves_a_whole_message_or_says_that_there_is_none() {
    if !inject::is_available() {
        return;
    }
    let world = World::new();
    let alpha = world.machine("alpha");
    alpha.ok(&["send", "first"]);
    let calls = [
        "fsync",
        "renameat2",
        "linkat",
        "unlink",
        "write",
        "openat",
        "mkdir",
    ];
    let before = Cell::new(1);
    let struck = inject::every_call(
        &world.dir.path().join("trace"),
        &calls,
        &["ENOSPC", "EIO"],
        |fault| {
            let out = inject::wrap(
                &alpha.command(&["send", "x.y", "--payload", "[1,2,3]"]),
                fault,
            )
            .output()
            .unwrap();
            let (names, after) = (alpha.names("outbox").len(), alpha.messages("outbox").len());
            assert_eq!(after, names, "half a message under its final name, {fault}");
            let new = after - before.replace(after);
            match out.status.code() {
                Some(0) if fault.call == "write" && fault.has_struck() => {
                    assert_eq!(new, 1, "{fault}: {}", fault.struck())
                }
                Some(0) => assert_eq!(new, 1, "{fault}"),
                // after a failure of the last sync alone, it reports that the message may be sent
                // nevertheless
                status => assert!(
                    new == 0 || status.is_some_and(|s| s != 0),
                    "{fault}: {out:?}"
                ),
            }
        },
    );
    assert!(struck > 10, "{struck} calls only");
}

/// What a disk may answer; which of them takes turns, so that a sweep is short.
const ERRORS: [&str; 6] = ["ENOSPC", "EROFS", "EACCES", "EDQUOT", "EIO", "EMFILE"];

/// The values of a message's payload in an inbox, in the order in which the messages were logged.
fn received(machine: &Machine) -> Vec<u64> {
    let messages = machine.messages("inbox");
    let payload = |line: &String| {
        let id = line.rsplit(' ').next()?;
        messages.iter().find(|m| m["id"] == id)?["payload"].as_u64()
    };
    machine.seen().iter().filter_map(payload).collect()
}

#[test]
fn each_call_of_a_receive_fails_and_nothing_is_lost_repeated_or_overtaken() {
    if !inject::is_available() {
        return;
    }
    let mut world = World::new();
    world.start_hub();
    let (mut alpha, beta) = (world.machine("alpha"), world.machine("beta"));
    beta.ok(&["start", "--once"]);
    let ran = beta.base.join("ran");
    beta.hook(
        "with.hook",
        &format!("cat > /dev/null; echo $MESYNC_ID >> {}", ran.display()),
    );
    alpha.start();
    let sent = Cell::new(0);
    let hooks = RefCell::new(Vec::new());
    let taken = RefCell::new(Vec::new());
    let trace = world.dir.path().join("trace");
    inject::each_call_once(&trace, inject::CALLS, &ERRORS, |fault| {
        for _ in 0..2 {
            alpha.ok(&[
                "send",
                "plain",
                "--target",
                "beta",
                "--payload",
                &sent.get().to_string(),
            ]);
            hooks.borrow_mut().push(alpha.ok(&[
                "send",
                "with.hook",
                "--target",
                "beta",
                "--payload",
                &(sent.get() + 1).to_string(),
            ]));
            sent.set(sent.get() + 2);
        }
        wait_for("the hub has them", &world, || {
            alpha.names("outbox").is_empty()
        });
        let out = inject::wrap(&beta.command(&["start", "--once"]), fault)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!said.contains("panicked"), "{fault}: {said}");
        // what has appeared is a beginning of what was sent: none overtakes another
        let so_far = [taken.borrow().clone(), received(&beta)].concat();
        assert!(
            so_far.iter().enumerate().all(|(i, n)| i as u64 == *n),
            "{fault} {}: {so_far:?}\n{said}",
            fault.struck()
        );
        if so_far.len() < sent.get() as usize {
            assert_ne!(
                out.status.code(),
                Some(0),
                "{fault} {}: not all was received\n{said}",
                fault.struck()
            );
        }
        // scripts take it out, which must not make it come again
        for name in beta.names("inbox") {
            std::fs::remove_file(beta.dir("inbox").join(name)).unwrap();
        }
        taken.replace(so_far);
        wait_for(
            &format!("{fault} is gone, and every hook has run"),
            &world,
            || {
                let out = beta.run(&["start", "--once"]);
                // one that could not be started is failed, and kept
                beta.run(&["retry", "--hooks"]);
                let run = std::fs::read_to_string(&ran).unwrap_or_default();
                out.status.success() && hooks.borrow().iter().all(|id| run.contains(id.as_str()))
            },
        );
        let so_far = [taken.borrow().clone(), received(&beta)].concat();
        assert_eq!(
            so_far,
            (0..sent.get()).collect::<Vec<_>>(),
            "{fault} {}",
            fault.struck()
        );
        for name in beta.names("inbox") {
            std::fs::remove_file(beta.dir("inbox").join(name)).unwrap();
        }
        taken.replace(so_far);
        let hidden = std::fs::read_dir(beta.dir("inbox")).unwrap().count();
        assert_eq!(hidden, 0, "{fault}: hidden files are left");
    });
}

#[test]
fn each_call_of_an_outbox_fails_and_every_message_ends_in_sent_or_in_failed_once() {
    if !inject::is_available() {
        return;
    }
    let mut world = World::new();
    world.start_hub();
    let (alpha, mut beta) = (world.machine("alpha"), world.machine("beta"));
    beta.ok(&["start", "--once"]);
    beta.start();
    alpha.ok(&["send", "first", "--target", "beta"]);
    let n = Cell::new(0);
    let trace = world.dir.path().join("trace");
    inject::each_call_once(&trace, inject::CALLS, &ERRORS, |fault| {
        n.set(n.get() + 1);
        let n = n.get();
        alpha.ok(&[
            "send",
            "sent",
            "--target",
            "beta",
            "--payload",
            &n.to_string(),
        ]);
        alpha.drop_file(
            &format!("{n}.json"),
            &format!(r#"{{"type":"dropped","target":"beta","payload":{n}}}"#),
        );
        alpha.drop_file(&format!("bad{n}.json"), r#"{"payload":1}"#);
        let out = inject::wrap(&alpha.command(&["start", "--once"]), fault)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!said.contains("panicked"), "{fault}: {said}");
        wait_for("the fault is gone", &world, || {
            alpha.run(&["start", "--once"]);
            alpha.names("outbox").is_empty()
        });
        assert_eq!(
            alpha.names("sent").len(),
            2 * n + 1,
            "{fault} {}\n{said}",
            fault.struck()
        );
        let failed = alpha.names("failed");
        assert_eq!(
            failed.len(),
            2 * n,
            "{fault} {}: {failed:?}\n{said}",
            fault.struck()
        );
        wait_for("they arrive", &world, || beta.names("inbox").len() > 2 * n);
        assert_eq!(
            beta.names("inbox").len(),
            2 * n + 1,
            "{fault} {}",
            fault.struck()
        );
    });
}

#[test]
fn a_client_whose_disk_fails_stays_says_so_and_heals_without_a_restart() {
    if !inject::is_available() {
        return;
    }
    let mut world = World::new();
    world.start_hub();
    let (mut alpha, mut beta) = (world.machine("alpha"), world.machine("beta"));
    beta.env.push(("MESYNC_POLL_INTERVAL".into(), "1".into()));
    beta.ok(&["start", "--once"]);
    beta.start();
    alpha.start();
    let sent = Cell::new(0);
    let trace = world.dir.path().join("trace");
    let send = || {
        alpha.ok(&[
            "send",
            "x",
            "--target",
            "beta",
            "--payload",
            &sent.get().to_string(),
        ]);
        sent.set(sent.get() + 1);
    };
    // an error ends a start, and this one has to be over
    send();
    wait_for("the client receives", &world, || {
        received(&beta).len() as u64 == sent.get()
    });
    // once at each call of the receive, and then for ever
    let mut faults = Vec::new();
    for (i, call) in [
        "fsync",
        "fdatasync",
        "rename",
        "openat",
        "write",
        "unlink",
        "ftruncate",
    ]
    .iter()
    .enumerate()
    {
        faults.extend(
            (1..4).map(|nth| {
                Fault::new(call, nth, ERRORS[(i + nth as usize) % ERRORS.len()], &trace)
            }),
        );
    }
    for call in ["fsync", "fdatasync", "rename"] {
        faults.push(Fault {
            for_ever: true,
            ..Fault::new(call, 1, "ENOSPC", &trace)
        });
    }
    for fault in &faults {
        let attached = inject::attach(beta.pid(), fault);
        send();
        send();
        if fault.for_ever {
            wait_for("status says that something is wrong", &world, || {
                let out = beta.run(&["status"]);
                let said = String::from_utf8_lossy(&out.stdout).into_owned();
                out.status.code() == Some(1) && said.contains("no space left")
            });
        } else {
            wait_for("the fault strikes, or all has arrived", &world, || {
                fault.has_struck() || received(&beta).len() as u64 == sent.get()
            })
        }
        drop(attached);
        assert!(
            beta.is_running(),
            "{fault}: the client has ended\n{}",
            world.logs()
        );
        wait_for(&format!("it heals after {fault}"), &world, || {
            received(&beta).len() as u64 == sent.get()
        });
        assert_eq!(
            received(&beta),
            (0..sent.get()).collect::<Vec<_>>(),
            "{fault}"
        );
        wait_for(&format!("status is healthy after {fault}"), &world, || {
            beta.run(&["status"]).status.success()
        });
    }
}

#[test]
fn a_directory_that_is_removed_while_the_client_runs_is_made_again() {
    let mut world = World::new();
    world.start_hub();
    let (mut alpha, mut beta) = (world.machine("alpha"), world.machine("beta"));
    beta.env.push(("MESYNC_POLL_INTERVAL".into(), "1".into()));
    beta.ok(&["start", "--once"]);
    let ran = beta.base.join("ran");
    beta.start();
    alpha.start();
    // an error ends a start, and this one has to be over
    let id = alpha.ok(&["send", "x", "--target", "beta"]);
    wait_for("the client receives", &world, || {
        beta.messages("inbox")
            .iter()
            .any(|m| m["id"] == id.as_str())
    });
    for (n, dir) in [
        "inbox",
        "outbox",
        "sent",
        "failed",
        "hooks",
        "state/seen",
        "state/hooks",
        "state",
    ]
    .iter()
    .enumerate()
    {
        std::fs::remove_dir_all(beta.dir(dir)).unwrap();
        let id = alpha.ok(&[
            "send",
            "with.hook",
            "--target",
            "beta",
            "--payload",
            &n.to_string(),
        ]);
        wait_for(&format!("a message comes without {dir}"), &world, || {
            beta.messages("inbox")
                .iter()
                .any(|m| m["id"] == id.as_str())
        });
        wait_for(&format!("{dir} is there again"), &world, || {
            beta.dir(dir).is_dir()
        });
        beta.hook(
            "with.hook",
            &format!("cat > /dev/null; echo $MESYNC_ID >> {}", ran.display()),
        );
        let id = alpha.ok(&["send", "with.hook", "--target", "beta"]);
        wait_for(
            &format!("a hook runs after {dir} was removed"),
            &world,
            || std::fs::read_to_string(&ran).is_ok_and(|run| run.contains(&id)),
        );
        let reply = beta.ok(&["send", "reply", "--target", "alpha"]);
        wait_for(
            &format!("a reply comes after {dir} was removed"),
            &world,
            || {
                alpha
                    .messages("inbox")
                    .iter()
                    .any(|m| m["id"] == reply.as_str())
            },
        );
        assert!(beta.is_running(), "{dir}: {}", world.logs());
    }
    let before = beta.names("inbox").len();
    beta.stop();
    beta.ok(&["start", "--once"]);
    assert_eq!(beta.names("inbox").len(), before, "nothing comes again");
}
