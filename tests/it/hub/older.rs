//! Version 0.1, whose hub and client know neither TLS on the hub's port nor joining, beside this one: each as the other's hub and
//! client, and a whole set-up that is updated in place.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::space::left_out;
use crate::support::tree::{Synced, settled};
use crate::support::world::{Machine, World, binary, wait_for};

use super::joining::text;

/// The program that the Makefile builds.
fn older() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop/bin/mesync-0.1");
    if path.is_file() {
        let out = Command::new(&path).arg("--version").output().unwrap();
        assert!(text(&out).contains(" 0.1."), "{}", text(&out));
        return Some(path);
    }
    left_out("\"make target/interop/bin/mesync-0.1\" builds the older program");
    None
}

/// A hub with keys of two machines.
struct Pair {
    world: World,
    one: Synced,
    other: Synced,
}

fn pair(hub: PathBuf, one: PathBuf, other: PathBuf) -> Pair {
    let mut world = World::new();
    world.program = hub;
    world.start_hub();
    let machine = |name: &str, program: PathBuf| {
        let mut synced = Synced::new(&world, name);
        let key = world.hub_ok(&["key", "add", name]);
        synced.machine.program = program;
        synced.machine.env.push(("MESYNC_API_KEY".into(), key));
        synced
    };
    let (one, other) = (machine("one", one), machine("other", other));
    Pair { world, one, other }
}

fn is_sent(from: &Machine, to: &Machine, world: &World) {
    let before = to.names("inbox").len();
    let payload = before.to_string();
    from.ok(&["send", "x", "--target", &to.name, "--payload", &payload]);
    wait_for("the message arrives", world, || {
        let arrived = to.messages("inbox");
        arrived.len() == before + 1 && arrived[before]["payload"] == before
    });
    wait_for("it is sent", world, || from.names("outbox").is_empty());
}

/// Messages, directories and files, both ways, with both clients running.
fn all_is_exchanged(pair: &mut Pair) {
    let Pair { world, one, other } = pair;
    for (synced, n) in [(&*one, 1), (&*other, 2)] {
        synced.put(format!("deep/er/of-{n}"), format!("{n}"));
        synced.put(format!("long-{n}"), vec![n; 3_000_000]);
        synced.put("both", format!("{n}"));
    }
    let dirs = [one.dir.clone(), other.dir.clone()];
    for (synced, dir) in [&mut *one, &mut *other].into_iter().zip(&dirs) {
        let args = ["start", "-v", "-w", dir.to_str().unwrap()];
        synced.machine.start_with(&args);
    }
    settled(world, &[one, other]);
    assert_eq!(
        one.names().len(),
        8,
        "one of two edits is a conflict copy: {:?}",
        one.names()
    );
    one.save("both", "edited");
    one.rename("long-1", "renamed");
    other.remove("long-2");
    settled(world, &[one, other]);
    assert_eq!(other.text("both"), "edited");
    assert!(other.has("renamed") && !one.has("long-2"));
    is_sent(&one.machine, &other.machine, world);
    is_sent(&other.machine, &one.machine, world);
    for (from, to) in [(&*one, &*other), (&*other, &*one)] {
        let name = format!("single-{}", from.machine.name);
        let file = world.dir.path().join(&name);
        std::fs::write(&file, vec![7; 2_000_000]).unwrap();
        from.machine.ok(&["upload", file.to_str().unwrap()]);
        let copy = world.dir.path().join(format!("{name}-copy"));
        to.machine
            .ok(&["download", &name, "-o", copy.to_str().unwrap()]);
        assert_eq!(std::fs::read(copy).unwrap(), vec![7; 2_000_000]);
    }
}

#[test]
fn an_older_client_works_with_this_hub() {
    let Some(older) = older() else { return };
    let mut pair = pair(binary(), older, binary());
    all_is_exchanged(&mut pair);
    // it sends no state, which is not taken for health
    let listed = pair.world.hub_ok(&["hosts", "--json"]);
    let condition = |name: &str| {
        let named = format!("\"name\":\"{name}\"");
        let row = listed.lines().find(|row| row.contains(&named)).unwrap();
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        row["condition"].as_str().unwrap().to_string()
    };
    assert_eq!(condition("one"), "unknown");
    assert_ne!(condition("other"), "unknown");
    // it obeys the rights that its key gets, and says what the hub says
    pair.one.stop();
    pair.world.hub_ok(&["key", "set", "one", "--read-only"]);
    pair.one.put("refused", "x");
    let (status, said) = pair.one.try_pass(&[]);
    assert!(
        status != 0 && said.to_string().contains("key set one --read-write"),
        "{said}"
    );
    // a hub without plain HTTP names the remedy
    pair.world.stop_hub();
    pair.world
        .hub_env
        .push(("MESYNC_PLAIN".into(), "none".into()));
    pair.world.start_hub();
    let out = pair.one.machine.run(&["hosts"]);
    assert_eq!(out.status.code(), Some(77), "{}", text(&out));
    assert!(
        text(&out).contains("let this machine join it"),
        "{}",
        text(&out)
    );
}

#[test]
fn this_client_works_with_an_older_hub_and_says_what_to_update() {
    let Some(older) = older() else { return };
    let mut pair = pair(older.clone(), older, binary());
    all_is_exchanged(&mut pair);
    pair.other.machine.ok(&["hosts"]);
    let out = pair.other.machine.run(&["hosts", "--wait", "1s"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    // a machine without a key: as a command, as a pass of cron, as a daemon
    let url = pair.world.url();
    let mut stranger = pair.world.machine("stranger");
    let remedy = "one of an older version must be updated; or set MESYNC_API_KEY here";
    for (args, status) in [
        (&["join", &url][..], 69),
        (&["start", "--once"], 69),
        (&["sync", "-w", pair.one.dir.to_str().unwrap()], 69),
    ] {
        let out = stranger.run(args);
        assert_eq!(out.status.code(), Some(status), "{args:?}: {}", text(&out));
        assert!(text(&out).contains(remedy), "{args:?}: {}", text(&out));
    }
    stranger.start();
    wait_for("the log names the remedy", &pair.world, || {
        stranger.log().contains(remedy)
    });
    // an invitation does not reach it
    let invitation = format!("{url}#stranger.secret.{}", "0".repeat(64));
    let out = stranger.run(&["join", &invitation]);
    assert!(text(&out).contains(remedy), "{}", text(&out));
}

#[test]
fn a_hub_and_clients_that_are_updated_in_place_lose_nothing() {
    let Some(older) = older() else { return };
    let mut pair = pair(older.clone(), older.clone(), older);
    all_is_exchanged(&mut pair);
    pair.one.stop();
    // edits, a message and a target that is away, before anything is updated
    pair.one.put("while-away", "x");
    pair.one.machine.ok(&["send", "x", "--target", "other"]);
    pair.other.machine.ok(&["send", "x", "--target", "one"]);
    let Pair { world, one, other } = &mut pair;
    wait_for("it is on the hub", world, || {
        other.machine.names("outbox").is_empty()
    });
    other.stop();
    other.put("while-away-too", "x");
    world.stop_hub();
    world.program = binary();
    world.start_hub();
    let had = [
        one.machine.names("inbox").len(),
        other.machine.names("inbox").len(),
    ];
    for synced in [&mut *one, &mut *other] {
        synced.machine.program = binary();
        let dir = synced.dir.to_str().unwrap().to_string();
        synced.machine.start_with(&["start", "-v", "-w", &dir]);
    }
    settled(world, &[one, other]);
    assert!(other.has("while-away") && one.has("while-away-too"));
    wait_for("the messages arrive", world, || {
        [
            one.machine.names("inbox").len(),
            other.machine.names("inbox").len(),
        ] == had.map(|n| n + 1)
    });
    assert!(one.contents("conflict").len() <= 1, "{:?}", one.names());
    // from then on it joins like a new one, under its own name
    one.stop();
    one.machine.env.clear();
    let line = world.hub_ok(&["invite", "one", "--replace", "--url", &world.url()]);
    let invitation = line.trim_start_matches("mesync join ").trim_matches('\'');
    one.machine.ok(&["join", invitation]);
    let dir = one.dir.to_str().unwrap().to_string();
    one.machine.start_with(&["start", "-v", "-w", &dir]);
    other.put("after", "x");
    settled(world, &[one, other]);
    is_sent(&one.machine, &other.machine, world);
}
