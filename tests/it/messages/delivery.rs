//! Messages from end to end: real hub, real daemons, real files, as a user would do it.

use std::os::unix::fs::{PermissionsExt, symlink};

use crate::support::world::{Machine, World, wait_for};

/// A hub and three machines that it knows, all running.
pub(super) fn three() -> (World, Machine, Machine, Machine) {
    let mut world = World::new();
    world.start_hub();
    let mut machines = ["alpha", "beta", "gamma"].map(|name| world.machine(name));
    for machine in &mut machines {
        machine.start();
    }
    wait_for("all are known to the hub", &world, || {
        let out = world
            .hub_command()
            .args(["hosts", "--json"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).lines().count() == 3
    });
    let [alpha, beta, gamma] = machines;
    (world, alpha, beta, gamma)
}

#[test]
fn a_broadcast_reaches_all_but_its_sender_and_a_target_only_that_host() {
    let (world, alpha, beta, gamma) = three();
    let broadcast = alpha.ok(&[
        "send",
        "task.event",
        "--payload",
        r#"{"job": "build", "repo": "myapp", "n": 12345678901234567890123}"#,
    ]);
    let targeted = alpha.ok(&[
        "send",
        "notify.alert",
        "--priority",
        "high",
        "--target",
        "Beta",
        "--payload",
        r#"{"msg":"disk full"}"#,
    ]);
    let own = alpha.ok(&["send", "to.self", "--target", "alpha"]);
    wait_for("beta has two", &world, || beta.names("inbox").len() == 2);
    wait_for("gamma has one", &world, || gamma.names("inbox").len() == 1);
    wait_for("alpha has its own", &world, || {
        alpha.names("inbox").len() == 1
    });
    wait_for("all is archived", &world, || {
        alpha.names("sent").len() == 3 && alpha.names("outbox").is_empty()
    });
    let ids = |m: &Machine| -> Vec<String> {
        m.messages("inbox")
            .iter()
            .map(|m| m["id"].as_str().unwrap().to_string())
            .collect()
    };
    assert_eq!(ids(&alpha), [own]);
    assert_eq!(ids(&gamma), std::slice::from_ref(&broadcast));
    assert_eq!(ids(&beta), [broadcast.clone(), targeted]);
    let text = std::fs::read_to_string(gamma.dir("inbox").join(&gamma.names("inbox")[0])).unwrap();
    assert!(
        text.contains(
            r#""payload":{"job": "build", "repo": "myapp", "n": 12345678901234567890123}"#
        ),
        "letter for letter: {text}"
    );
    assert!(
        text.contains(r#""source":"alpha","target":null,"priority":"normal""#),
        "{text}"
    );
    assert_eq!(
        gamma.names("inbox"),
        alpha.names("sent")[..1],
        "one name on every machine"
    );
    assert!(beta.ok(&["list", "inbox"]).contains("notify.alert"));
    assert!(
        beta.ok(&["show", &broadcast])
            .contains("\"job\": \"build\"")
    );
    assert_eq!(
        alpha.run(&["status"]).status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&alpha.run(&["status"]).stdout)
    );
    alpha.ok(&["flush", "sent"]);
    assert!(alpha.names("sent").is_empty());
}

#[test]
fn a_plain_script_sends_and_a_hook_gets_the_whole_message() {
    let (world, alpha, beta, _gamma) = three();
    beta.hook("x.y", "cat > got.tmp; echo \"$MESYNC_TYPE $MESYNC_SOURCE $MESYNC_PRIORITY $MESYNC_ATTEMPT $PWD\" > env; echo \"${MESYNC_API_KEY-no key}\" >> env; cp \"$MESYNC_FILE\" file; mv got.tmp got");
    let script =
        r#"echo '{"type":"x.y","payload":{"a":1}}' > t && mv t "$MESYNC_BASE_DIR/outbox/t.json""#;
    let status = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(&alpha.base)
        .env("MESYNC_BASE_DIR", &alpha.base)
        .status();
    assert!(status.unwrap().success());
    wait_for("the hook has run", &world, || {
        beta.base.join("got").exists()
    });
    let read = |name: &str| std::fs::read_to_string(beta.base.join(name)).unwrap();
    let got: serde_json::Value = serde_json::from_str(&read("got")).unwrap();
    assert_eq!(
        (&got["type"], &got["payload"]["a"], &got["source"]),
        (&"x.y".into(), &1.into(), &"alpha".into())
    );
    assert_eq!(read("got"), read("file"));
    assert_eq!(
        read("env"),
        format!("x.y alpha normal 1 {}\nno key\n", beta.base.display())
    );
    let left = || {
        std::fs::read_dir(beta.base.join("state/hooks"))
            .unwrap()
            .count()
    };
    wait_for("its record is gone", &world, || left() == 0);
}

#[test]
fn an_idle_message_does_not_wait_for_the_tick() {
    let mut world = World::new();
    world.start_hub();
    let (mut alpha, mut beta) = (world.machine("alpha"), world.machine("beta"));
    // longer than a wait
    for machine in [&mut alpha, &mut beta] {
        machine
            .env
            .push(("MESYNC_POLL_INTERVAL".into(), "600".into()));
        machine.env.push(("MESYNC_LOG".into(), "debug".into()));
        machine.start();
    }
    wait_for("the streams are open", &world, || {
        [&alpha, &beta]
            .iter()
            .all(|m| m.log().contains("opened the event stream"))
    });
    for n in 1..=10 {
        alpha.ok(&["send", "quick"]);
        wait_for("it is there", &world, || beta.names("inbox").len() == n);
    }
}

#[test]
fn hooks_that_misbehave_stop_nothing() {
    let (world, alpha, mut beta, _gamma) = three();
    beta.stop();
    beta.env.push(("MESYNC_HOOK_TIMEOUT".into(), "2".into()));
    beta.start();
    beta.hook(
        "hangs",
        "echo $$ > hangs.pid; trap '' TERM; while :; do sleep 100 & wait; done",
    );
    beta.hook("floods", "yes | head -c 20000000; echo done > floods.done");
    beta.hook(
        "forks",
        "sleep 1000 & sleep 1000 & echo $! > forks.pid; exit 0",
    );
    beta.hook(
        "later",
        "echo x >> later.runs; [ $(wc -l < later.runs) -ge 2 ] || exit 75",
    );
    beta.hook("fails", "echo went wrong >&2; exit 3");
    beta.hook("notexec", "echo x > notexec.ran");
    std::fs::set_permissions(
        beta.dir("hooks").join("notexec"),
        std::fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    symlink("/bin/true", beta.dir("hooks").join("link")).unwrap();
    beta.hook("_any", "echo \"$MESYNC_TYPE\" >> any.runs");
    for kind in [
        "hangs",
        "floods",
        "forks",
        "later",
        "fails",
        "notexec",
        "link",
        "something.else",
    ] {
        alpha.ok(&["send", kind, "--target", "beta"]);
    }
    assert_eq!(alpha.run(&["send", "../../bin/sh"]).status.code(), Some(2));
    assert_eq!(alpha.run(&["send", "mesync.held"]).status.code(), Some(2));
    alpha.drop_file("evil.json", r#"{"type":"../../bin/sh","target":"beta"}"#);
    let there = |name: &str| beta.base.join(name).exists();
    let read = |name: &str| std::fs::read_to_string(beta.base.join(name)).unwrap_or_default();
    wait_for("the hook that hangs runs", &world, || there("hangs.pid"));
    // meanwhile other messages flow
    alpha.ok(&["send", "meanwhile", "--target", "beta"]);
    wait_for("other types run", &world, || {
        read("any.runs").contains("meanwhile")
    });
    wait_for("a flood is read to its end", &world, || {
        there("floods.done")
    });
    wait_for("75 is repeated", &world, || {
        read("later.runs").lines().count() == 2
    });
    wait_for("3 is not", &world, || {
        beta.ok(&["list", "inbox"]).contains("hook failed")
    });
    wait_for("the hook that hangs is ended", &world, || {
        beta.log().contains("hook timed out after 2 s hook=hangs")
    });
    let gone = |pid: &str| !std::path::Path::new(&format!("/proc/{}", pid.trim())).exists();
    let zombie = |pid: &str| {
        std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
            .is_ok_and(|s| s.contains(") Z "))
    };
    wait_for("what forked in the background is gone", &world, || {
        gone(&read("forks.pid")) || zombie(&read("forks.pid"))
    });
    wait_for("what ignored TERM is gone", &world, || {
        gone(&read("hangs.pid")) || zombie(&read("hangs.pid"))
    });
    wait_for("the bad type is refused", &world, || {
        alpha
            .names("failed")
            .contains(&"evil.json.reason".to_string())
    });
    assert_eq!(
        read("any.runs")
            .lines()
            .filter(|l| *l == "something.else")
            .count(),
        1
    );
    assert!(
        !there("notexec.ran")
            && beta.log().contains("run chmod +x")
            && beta.log().contains("it is a symbolic link")
    );
    assert!(
        beta.log()
            .contains("output beyond 65536 bytes is dropped hook=floods")
    );
    assert!(beta.log().contains("went wrong hook=fails"));
    let before = beta.log().matches("hook=fails").count();
    let retried = beta.run(&["retry", "--hooks"]);
    let (out, err) = (
        String::from_utf8_lossy(&retried.stdout),
        String::from_utf8_lossy(&retried.stderr),
    );
    assert!(
        retried.status.code() == Some(1) && out.contains("1 hook to run again"),
        "{out}"
    );
    assert!(
        err.contains("hooks/notexec is not run") && err.contains("hooks/link is not run"),
        "{err}"
    );
    wait_for("retry runs it again", &world, || {
        beta.log().matches("hook=fails").count() > before
    });
    assert!(beta.is_running());
}

#[test]
fn a_running_hook_ends_when_the_daemon_stops_and_does_not_run_again() {
    let (world, alpha, mut beta, _gamma) = three();
    beta.hook(
        "slow",
        "echo x >> began; until [ -e go ]; do sleep 0.05; done; echo x >> ended",
    );
    for round in 1..=5 {
        alpha.ok(&["send", "slow", "--target", "beta"]);
        let base = beta.base.clone();
        let lines = |name: &str| {
            std::fs::read_to_string(base.join(name))
                .unwrap_or_default()
                .lines()
                .count()
        };
        wait_for("the hook is at work", &world, || lines("began") == round);
        beta.terminate();
        std::fs::write(beta.base.join("go"), "").unwrap();
        wait_for("the daemon ends", &world, || !beta.is_running());
        assert_eq!((beta.exited(), lines("ended")), (Some(0), round));
        assert_eq!(
            std::fs::read_dir(beta.base.join("state/hooks"))
                .unwrap()
                .count(),
            0,
            "its record is filed away"
        );
        std::fs::remove_file(beta.base.join("go")).unwrap();
        beta.start();
    }
}

#[test]
fn a_machine_that_was_off_gets_what_was_sent_meanwhile_and_messages_wait_for_a_hub_that_is_off() {
    let (mut world, mut alpha, beta, mut gamma) = three();
    assert_eq!(gamma.stop(), Some(0));
    assert_eq!(world.stop_hub(), Some(0));
    alpha.ok(&["send", "while.off"]);
    wait_for("the sender notices", &world, || {
        alpha.log().contains("connection refused")
    });
    assert_eq!(alpha.names("outbox").len(), 1);
    assert_eq!(alpha.run(&["status"]).status.code(), Some(1));
    world.start_hub();
    wait_for("beta has it", &world, || beta.names("inbox").len() == 1);
    gamma.start();
    wait_for("gamma has it", &world, || gamma.names("inbox").len() == 1);
    assert_eq!(alpha.stop(), Some(0));
}

#[test]
fn start_once_does_all_of_it_and_says_nothing() {
    let mut world = World::new();
    world.start_hub();
    let (alpha, beta) = (world.machine("alpha"), world.machine("beta"));
    beta.hook("x", "echo ran > ran");
    beta.ok(&["start", "--once"]);
    alpha.ok(&["send", "x"]);
    // written a moment ago, not renamed: it waits for it
    std::fs::write(alpha.dir("outbox").join("y.json"), r#"{"type":"y"}"#).unwrap();
    for machine in [&alpha, &beta] {
        let out = machine.run(&["start", "--once"]);
        assert!(
            out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    assert_eq!(
        (alpha.names("sent").len(), beta.names("inbox").len()),
        (2, 2)
    );
    assert!(beta.base.join("ran").exists());
    world.kill_hub();
    let out = alpha.run(&["start", "--once"]);
    assert_eq!(out.status.code(), Some(69));
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("cannot reach hub"),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}
