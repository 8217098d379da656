//! A machine that was copied, or set back to an earlier state: both are told, the hub's operator too, and what others have is
//! not undone.

use std::path::Path;
use std::process::Command;

use crate::support::files::Hub;
use crate::support::tree::{Synced, difference};
use crate::support::world::{Machine, World, wait_for};
use serde_json::Value;

fn copy(from: &Path, to: &Path) {
    assert!(
        Command::new("cp")
            .arg("-a")
            .args([from, to])
            .status()
            .unwrap()
            .success()
    );
}

fn started_world() -> World {
    let mut world = World::new();
    world.start_hub();
    world
}

/// A copy of the machine, under the same name.
fn clone_of(world: &World, machine: &Machine, dir: &str) -> Machine {
    let mut other = world.machine(dir);
    other.name = machine.name.clone();
    copy(&machine.base, &other.base);
    other
}

fn send(from: &Machine, to: &str, n: u32) {
    from.ok(&["send", "n", "--target", to, "--payload", &n.to_string()]);
    from.ok(&["start", "--once"]);
}

fn got(machine: &Machine) -> Vec<Value> {
    machine
        .messages("inbox")
        .into_iter()
        .map(|message| message["payload"].clone())
        .collect()
}

/// What `mesync hosts` says of a host.
fn hosts(world: &World, host: &str) -> Value {
    let out = world
        .hub_command()
        .args(["hosts", "--json"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|row| row["name"] == host)
        .unwrap_or_default()
}

fn hub_log(world: &World) -> String {
    std::fs::read_to_string(world.dir.path().join("hub.log")).unwrap()
}

#[test]
fn a_machine_that_starts_again_and_again_is_no_other() {
    let world = started_world();
    let (mut web, sender) = (world.machine("web"), world.machine("sender"));
    for n in 0..3 {
        web.ok(&["start", "--once"]);
        send(&sender, "web", n);
        web.start();
        wait_for("it arrives", &world, || got(&web).len() == n as usize + 1);
        if n == 1 {
            web.kill()
        } else {
            assert_eq!(web.stop(), Some(0))
        }
    }
    assert_eq!(
        (
            hosts(&world, "web")["doubt"].clone(),
            web.run(&["status"]).status.code()
        ),
        (Value::Null, Some(0)),
        "{}",
        world.logs()
    );
}

#[test]
fn two_copies_of_one_machine_are_told_that_they_are() {
    let world = started_world();
    let (mut web, sender) = (world.machine("web"), world.machine("sender"));
    web.ok(&["start", "--once"]);
    let mut other = clone_of(&world, &web, "web-copy");
    web.start();
    send(&sender, "web", 1);
    wait_for("the first one has it", &world, || got(&web).len() == 1);
    other.start();
    wait_for("the copy is told", &world, || {
        other
            .log()
            .contains("set back to an earlier state, or is a copy")
    });
    send(&sender, "web", 2);
    wait_for("both are told, and the hub", &world, || {
        [web.log(), other.log(), hub_log(&world)]
            .iter()
            .all(|log| log.contains("two machines act as \"web\""))
    });
    assert_eq!(hosts(&world, "web")["doubt"], "cloned");
    for machine in [&web, &other] {
        let out = machine.run(&["status"]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            out.status.code() == Some(1) && text.contains("remove state/instance and state/run"),
            "{text}"
        );
    }
    // one gets a name of its own
    other.stop();
    std::fs::remove_file(other.base.join("state/instance")).unwrap();
    std::fs::remove_file(other.base.join("state/run")).unwrap();
    other.name = "web-2".into();
    other.start();
    world
        .hub_command()
        .args(["hosts", "rebind", "web"])
        .output()
        .unwrap();
    send(&sender, "web", 3);
    send(&sender, "web-2", 4);
    wait_for("each has its own", &world, || {
        got(&web).contains(&3.into()) && got(&other).contains(&4.into())
    });
    assert_eq!(
        (
            hosts(&world, "web")["doubt"].clone(),
            web.run(&["status"]).status.code()
        ),
        (Value::Null, Some(0))
    );
}

#[test]
fn a_machine_that_was_set_back_is_told_and_continues() {
    let world = started_world();
    let (mut web, sender) = (world.machine("web"), world.machine("sender"));
    // keeps the broadcasts for a while
    world.machine("slow").ok(&["start", "--once"]);
    web.ok(&["start", "--once"]);
    let snapshot = world.dir.path().join("snapshot");
    copy(&web.base, &snapshot);
    sender.ok(&["send", "n", "--payload", "1"]);
    send(&sender, "web", 2);
    (0..2).for_each(|_| drop(web.ok(&["start", "--once"])));
    assert_eq!(got(&web).len(), 2);
    std::fs::remove_dir_all(&web.base).unwrap();
    std::fs::rename(&snapshot, &web.base).unwrap();
    send(&sender, "web", 3);
    web.start();
    // the broadcast is still there; what was for it alone is not
    wait_for("it goes on", &world, || {
        got(&web).contains(&3.into()) && got(&web).contains(&1.into())
    });
    wait_for("it is told", &world, || {
        web.log()
            .contains("set back to an earlier state, or is a copy")
    });
    assert_eq!(
        (
            hosts(&world, "web")["doubt"].clone(),
            web.run(&["status"]).status.code()
        ),
        ("set-back".into(), Some(1))
    );
    web.ok(&["hosts", "rebind", "web"]);
    assert_eq!(
        (
            hosts(&world, "web")["doubt"].clone(),
            web.run(&["status"]).status.code()
        ),
        (Value::Null, Some(0))
    );
}

#[test]
fn two_copies_of_one_directory_and_its_state_lose_nothing() {
    let hub = Hub::start();
    let (alpha, beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    for name in ["a", "b", "c", "d", "e"] {
        alpha.put(name, format!("{name} of before"));
    }
    alpha.pass();
    beta.pass();
    // base directory and files, set back later; the others go on meanwhile
    let (base, files) = (
        hub.world.dir.path().join("base"),
        hub.world.dir.path().join("files"),
    );
    copy(&alpha.machine.base, &base);
    copy(&alpha.dir, &files);
    alpha.put("a", "later");
    alpha.remove("b");
    alpha.rename("c", "renamed");
    alpha.pass();
    beta.pass();
    beta.put("d", "of beta");
    beta.pass();
    let wants = beta.tree().unwrap();
    for (dir, snapshot) in [(&alpha.machine.base, &base), (&alpha.dir, &files)] {
        std::fs::remove_dir_all(dir).unwrap();
        std::fs::rename(snapshot, dir).unwrap();
    }
    // and edits before it looks
    alpha.put("e", "edited after the way back");
    alpha.pass();
    beta.pass();
    assert_eq!(
        difference(&alpha.tree().unwrap(), &beta.tree().unwrap()),
        ""
    );
    assert_eq!(beta.text("e"), "edited after the way back");
    let (mut now, mut wants) = (beta.tree().unwrap(), wants);
    now.remove(std::ffi::OsStr::new("e"));
    wants.remove(std::ffi::OsStr::new("e"));
    assert_eq!(difference(&now, &wants), "");
}
