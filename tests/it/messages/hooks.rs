//! Hooks that are hard to run, to lock, to order or to stop: a real hub, real machines, real programs.

use crate::support::world::{self, Machine, World, wait_for};
use rustix::process::{Pid, Signal, kill_process};

/// A hub and two machines that it knows; the receiver runs if `running`.
pub(super) fn two(running: bool) -> (World, Machine, Machine) {
    let mut world = World::new();
    world.start_hub();
    let (alpha, mut beta) = (world.machine("alpha"), world.machine("beta"));
    beta.ok(&["start", "--once"]);
    if running {
        beta.start();
    }
    (world, alpha, beta)
}

/// Sends messages of these types to beta, in this order, with their place in it as payload.
pub(super) fn send(alpha: &Machine, kinds: &[&str]) -> Vec<String> {
    let send = |(n, kind): (usize, &&str)| {
        alpha.ok(&[
            "send",
            kind,
            "--target",
            "beta",
            "--payload",
            &n.to_string(),
        ])
    };
    let ids = kinds.iter().enumerate().map(send).collect();
    alpha.ok(&["start", "--once"]);
    ids
}

pub(super) fn read(machine: &Machine, name: &str) -> String {
    std::fs::read_to_string(machine.base.join(name)).unwrap_or_default()
}

pub(super) fn lines(machine: &Machine, name: &str) -> usize {
    read(machine, name).lines().count()
}

pub(super) fn json(machine: &Machine, args: &[&str]) -> Vec<serde_json::Value> {
    let out = machine.run(&[args, &["--json"]].concat());
    String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Ends what a hook has left behind.
pub(super) fn end(machine: &Machine, name: &str) {
    for pid in read(machine, name).split_ascii_whitespace() {
        let _ = kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL);
    }
}

#[test]
fn processes_left_by_a_hook_hold_neither_its_record_nor_the_client() {
    let (world, alpha, beta) = two(true);
    wait_for("it has started", &world, || beta.log().contains("started"));
    // pipes, and records of hooks
    let open = || {
        let names = std::fs::read_dir(format!("/proc/{}/fd", beta.pid())).unwrap();
        let links: Vec<_> = names
            .filter_map(|n| std::fs::read_link(n.ok()?.path()).ok())
            .collect();
        links
            .iter()
            .filter(|l| {
                l.to_string_lossy().starts_with("pipe:")
                    || l.to_string_lossy().contains("state/hooks/")
            })
            .count()
    };
    let before = open();
    let daemon = "setsid -f sh -c 'echo $$ >>left; exec sleep 1000' # with standard input, output and error of the hook";
    beta.hook(
        "again",
        &format!("echo x >>again; {daemon}\n[ $MESYNC_ATTEMPT -ge 2 ] || exit 75"),
    );
    beta.hook("fails", &format!("echo x >>fails; {daemon}\nexit 1"));
    // prints for ever
    beta.hook(
        "floods",
        "echo x >>floods; setsid -f sh -c 'echo $$ >>left; exec yes'\nexit 0",
    );
    send(&alpha, &["again", "fails", "floods"]);
    wait_for("a second run", &world, || lines(&beta, "again") == 2);
    wait_for("a failed one", &world, || {
        json(&beta, &["list", "hooks"])
            .iter()
            .any(|h| h["reason"] == "exit status 1")
    });
    beta.ok(&["retry", "--hooks"]);
    wait_for("it ran again", &world, || lines(&beta, "fails") == 2);
    send(&alpha, &["floods"]);
    wait_for(
        "a flood of what was left behind ends with its hook",
        &world,
        || lines(&beta, "floods") == 2,
    );
    wait_for("only the failed one is left", &world, || {
        json(&beta, &["list", "hooks"]).len() == 1
    });
    wait_for("no descriptor is left", &world, || open() == before);
    end(&beta, "left");
}

#[test]
fn a_killed_client_runs_no_hook_beside_one_that_still_runs_and_waits_for_nothing_else() {
    let (world, alpha, mut beta) = two(true);
    // one keeps its standard input, one does not; both have a daemon that keeps theirs
    let body = "echo $$ >>$MESYNC_TYPE.pid; setsid -f sh -c 'echo $$ >>left; exec sleep 1000'; echo began >>$MESYNC_TYPE.log";
    beta.hook(
        "keeps",
        &format!("{body}; until [ -e go ]; do sleep 0.05; done; echo ended >>keeps.log"),
    );
    beta.hook("closes", &format!("{body}; exec <&- >/dev/null 2>&1; until [ -e go ]; do sleep 0.05; done; echo ended >>closes.log"));
    // the second message of each type may not run beside the first either
    send(&alpha, &["keeps", "closes", "keeps", "closes"]);
    wait_for("both run", &world, || {
        lines(&beta, "keeps.log") == 1 && lines(&beta, "closes.log") == 1
    });
    wait_for("their processes are recorded", &world, || {
        beta.dir("state/hooks/.closes.running").exists()
    });
    beta.kill();
    // its second run is as far away as the next attempt at the others
    beta.hook(
        "probe",
        "echo x >>probes; [ $MESYNC_ATTEMPT -ge 2 ] || exit 75",
    );
    beta.start();
    for n in 1..=2 {
        send(&alpha, &["probe"]);
        wait_for("a hook that is repeated has run", &world, || {
            lines(&beta, "probes") == 2 * n
        });
    }
    assert_eq!(
        (read(&beta, "keeps.log"), read(&beta, "closes.log")),
        ("began\n".into(), "began\n".into())
    );
    std::fs::write(beta.base.join("go"), "").unwrap();
    wait_for(
        "all have run, what was left behind notwithstanding",
        &world,
        || json(&beta, &["list", "hooks"]).is_empty(),
    );
    for kind in ["keeps", "closes"] {
        let log = read(&beta, &format!("{kind}.log"));
        assert!(
            log.matches("began\nended\n").count() * 12 == log.len()
                && lines(&beta, &format!("{kind}.log")) >= 6,
            "side by side: {log}"
        );
    }
    end(&beta, "left");
}

#[test]
fn a_hook_that_outlives_its_client_still_has_its_time_limit() {
    let (world, alpha, mut beta) = two(false);
    beta.env.push(("MESYNC_HOOK_TIMEOUT".into(), "3".into()));
    beta.hook("hangs", "echo $$ >>pids; [ $MESYNC_ATTEMPT -ge 2 ] && exit 0; trap '' TERM; while :; do sleep 1000 & wait; done");
    beta.start();
    send(&alpha, &["hangs"]);
    wait_for("its process is recorded", &world, || {
        lines(&beta, "pids") == 1 && beta.dir("state/hooks/.hangs.running").exists()
    });
    beta.kill();
    beta.start();
    wait_for("it was ended, and ran again", &world, || {
        lines(&beta, "pids") == 2
    });
    wait_for("no record is left", &world, || {
        std::fs::read_dir(beta.dir("state/hooks")).unwrap().count() == 0
    });
}

#[test]
fn hooks_run_in_the_order_of_arrival_also_when_the_first_is_repeated() {
    let (world, _alpha, mut beta) = two(false);
    beta.hook(
        "deploy",
        "sed 's/.*\"payload\"://; s/}$//' >>order; echo >>order; [ $MESYNC_ATTEMPT -ge 2 ] || [ ! -e temporary ] || exit 75",
    );
    let clocks = ["2 hours", "2 hours ago", "1 hour"].map(|ahead| {
        let date = std::process::Command::new("date")
            .args(["-u", "-d", ahead, "+%Y-%m-%dT%H:%M:%SZ"])
            .output()
            .unwrap();
        String::from_utf8(date.stdout).unwrap().trim().to_string()
    });
    for (n, at) in clocks.iter().enumerate() {
        let machine = world.machine(&format!("sender-{n}"));
        machine.drop_file(
            "m.json",
            &format!(r#"{{"type":"deploy","target":"beta","created_at":"{at}","payload":{n}}}"#),
        );
        machine.ok(&["start", "--once"]);
    }
    beta.ok(&["start", "--once"]);
    assert_eq!(read(&beta, "order"), "0\n1\n2\n");
    std::fs::remove_file(beta.base.join("order")).unwrap();
    std::fs::write(beta.base.join("temporary"), "").unwrap();
    for n in [2, 1, 0] {
        let machine = world.machine(&format!("sender-{n}"));
        machine.drop_file(
            "m.json",
            &format!(
                r#"{{"type":"deploy","target":"beta","created_at":"{}","payload":{n}}}"#,
                clocks[n]
            ),
        );
        machine.ok(&["start", "--once"]);
    }
    let pass = beta.run(&["-q", "start", "--once"]);
    assert_eq!(
        (pass.status.code(), read(&beta, "order")),
        (Some(1), "2\n".into()),
        "the first waits, the others behind it"
    );
    // a restart keeps the order
    beta.start();
    wait_for("all have run", &world, || {
        read(&beta, "order").matches('\n').count() == 6
    });
    assert_eq!(read(&beta, "order"), "2\n2\n1\n1\n0\n0\n");
}

#[test]
fn a_hook_reads_its_whole_message_even_if_inbox_and_record_change() {
    let (world, alpha, mut beta) = two(true);
    beta.hook(
        "empties",
        "cat >got.$MESYNC_ATTEMPT; : >\"$MESYNC_FILE\"; [ $MESYNC_ATTEMPT -ge 2 ] || exit 75",
    );
    // its own record, the hook's file, and everything
    beta.hook("destroys", "rm -f state/hooks/*destroys*; exit 75");
    beta.hook("vanishes", "rm -f hooks/vanishes; exit 75");
    beta.hook(
        "bytes",
        "printf 'caf\\351 \\377\\n'; head -c 300000 /dev/zero; exit 0",
    );
    send(&alpha, &["empties", "destroys", "vanishes", "bytes"]);
    wait_for("both have run", &world, || {
        read(&beta, "got.2").ends_with('}')
    });
    assert_eq!(read(&beta, "got.1"), read(&beta, "got.2"));
    wait_for("the hook that is gone has failed", &world, || {
        json(&beta, &["list", "hooks"])
            .iter()
            .any(|h| h["type"] == "vanishes" && h["hook_failed"] == true)
    });
    assert_eq!(
        json(&beta, &["status"])[0]["hooks_failed"],
        1,
        "its program was missing when it was to run"
    );
    beta.hook("removes", "rm -rf hooks state/hooks; echo x >removed");
    send(&alpha, &["removes"]);
    wait_for("it has", &world, || beta.base.join("removed").exists());
    assert!(!beta.dir("hooks/removes").exists());
    wait_for("the directories are there again", &world, || {
        beta.dir("state/hooks").exists()
    });
    beta.hook("last", "echo x >last");
    send(&alpha, &["last"]);
    wait_for("hooks run on", &world, || beta.base.join("last").exists());
    assert!(beta.is_running());
}

#[test]
fn processes_left_in_the_hooks_group_are_killed_with_a_warning_unless_setsid() {
    let (world, alpha, beta) = two(true);
    beta.hook("group", "sh -c 'sleep 1000' & exit 0");
    beta.hook(
        "session",
        "setsid -f sh -c 'echo $$ >left; exec sleep 1000' </dev/null >/dev/null 2>&1; exit 0",
    );
    beta.hook("tidy", "sleep 0.01 & wait; exit 0");
    send(&alpha, &["group", "session", "tidy"]);
    wait_for("the log says so", &world, || {
        beta.log()
            .contains("killed what the hook left running in its process group: ")
    });
    wait_for("all have run", &world, || {
        json(&beta, &["list", "hooks"]).is_empty()
    });
    let said: Vec<String> = beta
        .log()
        .lines()
        .filter(|l| l.contains("killed what"))
        .map(str::to_string)
        .collect();
    assert!(
        said.len() == 1 && said[0].contains("start it with setsid hook=group"),
        "{said:?}"
    );
    wait_for("its daemon lives", &world, || lines(&beta, "left") == 1);
    let pid = Pid::from_raw(read(&beta, "left").trim().parse().unwrap()).unwrap();
    assert!(rustix::process::test_kill_process(pid).is_ok());
    end(&beta, "left");
}

#[test]
fn hooks_that_answer_each_other_are_stopped_with_a_word() {
    let mut world = World::new();
    world.start_hub();
    let mut machines = ["alpha", "beta", "gamma"].map(|name| world.machine(name));
    let mesync = world::binary();
    for machine in &mut machines {
        machine.ok(&["start", "--once"]);
        machine.hook(
            "echo",
            &format!(
                "echo $MESYNC_HOPS >>hops; exec '{}' send echo",
                mesync.display()
            ),
        );
        machine.start();
    }
    machines[0].ok(&["send", "echo"]);
    // 2 machines get it, 4 the answers, 8 theirs, 16 theirs: and those hooks are refused
    let all = || {
        machines
            .iter()
            .flat_map(|m| {
                read(m, "hops")
                    .lines()
                    .map(str::to_string)
                    .collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
    };
    wait_for("all have run", &world, || all().len() == 30);
    wait_for("the last are refused", &world, || {
        machines
            .iter()
            .map(|m| {
                json(m, &["list", "hooks"])
                    .iter()
                    .filter(|h| h["reason"] == "exit status 1")
                    .count()
            })
            .sum::<usize>()
            == 16
    });
    let count = |hops: &str| all().iter().filter(|h| *h == hops).count();
    assert_eq!(["0", "1", "2", "3"].map(count), [2, 4, 8, 16]);
    assert!(machines.iter().all(|m| m.names("outbox").is_empty()));
    assert!(
        machines[1]
            .log()
            .contains("hooks that answer each other make a loop"),
        "{}",
        machines[1].log()
    );
    // bounded, whatever the content
    let send = |hops: &str| {
        let out = machines[0]
            .command(&["send", "quiet", "--target", "beta"])
            .env("MESYNC_HOPS", hops)
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    assert_eq!(send("").0, Some(0));
    assert_eq!(send("2").0, Some(0));
    for (hops, words) in [
        ("3", "the limit is 3"),
        ("99999999999999999999", "not a number"),
        ("-1", "not a number"),
        ("x\u{7}", "not a number"),
    ] {
        let (status, said) = send(hops);
        assert!(
            status == Some(1) && said.contains(words) && !said.contains('\u{7}'),
            "{hops}: {said}"
        );
    }
}
