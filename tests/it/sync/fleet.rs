//! The fleet seen from the hub: machines that are in sync, silent, degraded, and a wait until all are in sync.

use std::fs;
use std::process::Output;

use serde_json::Value;

use super::full::Mount;
use crate::support::files::{Answer, Hub};
use crate::support::tree::Synced;
use crate::support::world::{Machine, wait_for};

const FILES: usize = 60;

fn hosts(hub: &Hub, args: &[&str]) -> Output {
    let mut command = hub.world.hub_command();
    command.env("MESYNC_SERVER_URL", hub.world.url());
    command.arg("hosts").args(args).output().unwrap()
}

/// The rows of `hosts --json`, in its order.
fn rows(hub: &Hub) -> Vec<Value> {
    let out = hosts(hub, &["--json"]);
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn conditions(hub: &Hub) -> Vec<String> {
    let word = |row: &Value, key: &str| row[key].as_str().unwrap().to_string();
    rows(hub)
        .iter()
        .map(|row| format!("{} {}", word(row, "name"), word(row, "condition")))
        .collect()
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// Seventeen machines that are well, and three whose trouble is to be seen from one place.
#[test]
fn three_of_twenty_machines_are_named_within_a_minute() {
    let hub = Hub::start();
    let world = &hub.world;
    let disk = world.dir.path().join("full");
    fs::create_dir(&disk).unwrap();
    let Some(_mount) = Mount::new(&disk, "1m") else {
        return;
    };
    let start = |machine: &mut Machine| {
        let interval = ("MESYNC_POLL_INTERVAL".into(), "1".into());
        machine.env.push(interval);
        machine.start();
    };
    let (mut stopped, mut full) = (world.machine("stopped"), world.machine("full"));
    let mut well: Vec<Machine> = (1..=17)
        .map(|n| world.machine(&format!("well-{n:02}")))
        .collect();
    for machine in well.iter_mut().chain([&mut stopped, &mut full]) {
        start(machine);
    }
    // no messages: its polls for files tell how it is
    let mut holds = Synced::new(world, "holds");
    for n in 0..FILES {
        holds.put(format!("f{n}"), format!("{n}"));
    }
    holds.start();
    let fine = well
        .iter()
        .map(|machine| format!("{} in-sync", machine.name));
    let fine: Vec<String> = fine.collect();
    let all = ["full", "holds", "stopped"].map(|name| format!("{name} in-sync"));
    let all = [&all[..], &fine].concat();
    wait_for("all are in sync", world, || conditions(&hub) == all);
    let out = hosts(&hub, &["--wait", "5m"]);
    assert!(out.status.success(), "{out:?}");
    stopped.kill();
    fs::write(disk.join("filler"), vec![1; 2 << 20]).unwrap_err();
    let payload = format!("\"{}\"", "x".repeat(100_000));
    well[0].ok(&["send", "x", "--target", "full", "--payload", &payload]);
    for n in 0..FILES {
        holds.remove(format!("f{n}"));
    }
    let begun = std::time::Instant::now();
    let wants = ["stopped silent", "full degraded", "holds degraded"].map(String::from);
    let wants = [&wants[..], &fine].concat();
    wait_for("the three are named, the worst first", world, || {
        conditions(&hub) == wants
    });
    println!("named after {:?}", begun.elapsed());
    let reason = |n: usize| rows(&hub)[n]["reason"].as_str().unwrap().to_string();
    assert!(reason(0).contains("it last called "), "{}", reason(0));
    assert!(reason(1).contains("no space left"), "{}", reason(1));
    assert!(reason(2).contains("deletes held"), "{}", reason(2));
    let out = hosts(&hub, &["--wait", "1s"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let shown = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    for words in [
        "it last called ",
        "no space left",
        "deletes held",
        "3 machines are not in sync: stopped, full, holds",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let metrics = text(&hub.ask("GET", "/metrics", "", ""));
    for (name, is_healthy) in [("well-01", 1), ("stopped", 0), ("full", 0), ("holds", 0)] {
        let line = format!("mesync_host_healthy{{host=\"{name}\"}} {is_healthy}\n");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    for (name, condition) in [
        ("well-17", "in-sync"),
        ("stopped", "silent"),
        ("full", "degraded"),
    ] {
        let labels = format!("host=\"{name}\",condition=\"{condition}\"");
        let line = format!("mesync_host_condition{{{labels}}} 1\n");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    assert!(metrics.contains("mesync_last_seen_timestamp_seconds{host=\"stopped\"} "));
    // the trouble passes
    fs::remove_file(disk.join("filler")).unwrap();
    holds.machine.ok(&["approve", holds.dir.to_str().unwrap()]);
    start(&mut stopped);
    let out = hosts(&hub, &["--wait", "5m"]);
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn a_machine_that_dies_while_the_hub_is_off_is_missed_until_it_is_removed() {
    let mut hub = Hub::start();
    let mut dies = Synced::new(&hub.world, "dies");
    dies.start();
    let mut stays = Synced::new(&hub.world, "stays");
    stays.start();
    let all = ["dies in-sync", "stays in-sync"];
    wait_for("both are in sync", &hub.world, || conditions(&hub) == all);
    hub.world.stop_hub();
    dies.machine.kill();
    hub.world.start_hub();
    let first = conditions(&hub);
    assert!(first.contains(&"dies unknown".to_string()), "{first:?}");
    let wants = ["dies silent", "stays in-sync"];
    wait_for("the dead one is silent", &hub.world, || {
        conditions(&hub) == wants
    });
    let why = rows(&hub)[0]["reason"].to_string();
    assert!(
        why.contains("has not called since the hub was started"),
        "{why}"
    );
    let out = hosts(&hub, &["--wait", "1s"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    hub.world.hub_ok(&["hosts", "remove", "dies"]);
    assert_eq!(conditions(&hub), ["stays in-sync"]);
    let out = hosts(&hub, &["remove", "dies"]);
    assert_eq!(out.status.code(), Some(77), "{out:?}");
    hub.world.stop_hub();
    hub.world.start_hub();
    wait_for("only the other is listed", &hub.world, || {
        conditions(&hub) == ["stays in-sync"]
    });
}

#[test]
fn a_machine_whose_state_is_not_known_is_never_shown_as_healthy() {
    let hub = Hub::start();
    let world = &hub.world;
    let mut machine = world.machine("new");
    machine
        .env
        .push(("MESYNC_POLL_INTERVAL".into(), "1".into()));
    machine.start();
    wait_for("the machine is in sync", world, || {
        conditions(&hub) == ["new in-sync"]
    });
    // an older client pulls without a state
    hub.get("/api/messages?host=old").is(200, "");
    let tell = |host: &str, state: &str| {
        let lines = format!("X-Mesync-Host: {host}\r\nX-Mesync-State: {state}\r\n");
        hub.ask("GET", &format!("/api/hosts/{host}"), &lines, "")
    };
    let long = format!("{{\"version\":\"{}\"}}", "9".repeat(1024));
    for not_one in ["in-sync", "{}", "{\"version\":1}", &long] {
        tell("bad", not_one).is(404, "");
    }
    assert_eq!(conditions(&hub), ["old unknown", "new in-sync"]);
    let metrics = text(&hub.get("/metrics"));
    assert!(
        metrics.contains("mesync_host_healthy{host=\"old\"} 0\n"),
        "{metrics}"
    );
    let out = hosts(&hub, &["--wait", "1s"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    // only the machines that are named count
    let out = hosts(&hub, &["--wait", "5m", "new"]);
    assert!(out.status.success(), "{out:?}");
    let out = hosts(&hub, &["--wait", "1s", "new", "none"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(shown.contains("the hub does not know it"), "{shown}");
    // numbers and texts of a hostile machine are shown, and do no more
    let hostile = format!(
        "{{\"version\":\"{}\",\"pending\":{},\"trouble\":\"\\u001b[2J\\u202e<b>{}\"}}",
        "9".repeat(90),
        u64::MAX,
        "x".repeat(600)
    );
    tell("bad", &hostile).is(200, "degraded");
    let shown = String::from_utf8(hosts(&hub, &[]).stdout).unwrap();
    assert!(
        shown.contains("?[2J?<b>xxx") && !shown.contains(&"x".repeat(301)),
        "{shown}"
    );
    hub.ask("DELETE", "/api/hosts/bad", "", "").is(200, "");
    assert_eq!(conditions(&hub), ["old unknown", "new in-sync"]);
}

#[test]
fn a_directory_without_its_marker_is_trouble_and_not_in_sync() {
    let hub = Hub::start();
    let mut machine = Synced::new(&hub.world, "one");
    machine.put("a", "1");
    machine.start();
    wait_for("the machine is in sync", &hub.world, || {
        conditions(&hub) == ["one in-sync"]
    });
    machine.stop();
    fs::remove_file(machine.at(".mesync/id")).unwrap();
    machine.start();
    wait_for("the machine is degraded", &hub.world, || {
        conditions(&hub) == ["one degraded"]
    });
}
