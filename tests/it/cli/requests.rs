//! Requests of a user for a synced directory, adopt and approve, and the reports about it.

use std::fs;

use super::sync::{check, configure, directory, json, names, path, world};
use crate::support::world::wait_for;
use serde_json::Value;

#[test]
fn a_directory_without_its_marker_is_held_until_it_is_adopted() {
    let (world, mut alpha, dir) = world();
    configure(&alpha, &dir);
    fs::write(dir.join("a"), "1").unwrap();
    alpha.ok(&["sync", "-w", path(&dir)]);
    fs::remove_dir_all(dir.join(".mesync")).unwrap();
    fs::remove_file(dir.join("a")).unwrap();
    check(&alpha.run(&["sync"]), 1, "will not touch");
    check(
        &alpha.run(&["status"]),
        1,
        "held: mesync changes nothing there",
    );
    alpha.start();
    wait_for("it is held", &world, || {
        alpha.log().contains("will not touch")
    });
    let held = directory(&alpha);
    assert!(
        held["condition"] == "held"
            && held["problems"][0]
                .as_str()
                .unwrap()
                .contains("mesync adopt"),
        "{held}"
    );
    check(&alpha.run(&["adopt", path(&dir)]), 0, "nothing is deleted");
    wait_for("it is taken as it is", &world, || {
        directory(&alpha)["healthy"] == true
    });
    assert_eq!(names(&dir), ["a"]);
    check(
        &alpha.run(&["adopt", path(world.dir.path())]),
        1,
        "is not synced by this client",
    );
}

#[test]
fn held_deletes_are_shown_listed_and_approved() {
    let (world, mut alpha, dir) = world();
    configure(&alpha, &dir);
    for n in 0..20 {
        fs::write(dir.join(format!("f{n}")), n.to_string()).unwrap();
    }
    alpha.ok(&["sync"]);
    check(&alpha.run(&["approve", path(&dir)]), 0, "");
    assert_eq!(alpha.ok(&["approve", path(&dir), "--json"]), "");
    (0..20).for_each(|n| fs::remove_file(dir.join(format!("f{n}"))).unwrap());
    check(
        &alpha.run(&["sync", "--dry-run"]),
        1,
        "the deletes would be held",
    );
    let pass = alpha.run(&["sync", "--json"]);
    check(&pass, 1, "");
    assert_eq!(
        (&json(&pass)[0]["held_deletes"], &json(&pass)[0]["in_sync"]),
        (&20.into(), &false.into())
    );
    check(&alpha.run(&["status"]), 1, "20 deletes held: see");
    check(
        &alpha.run(&["status"]),
        1,
        "degraded: 1 directory not in sync",
    );

    alpha.hook("mesync.held", "cat >>held.log");
    alpha.start();
    wait_for("the hook has run", &world, || {
        fs::read_to_string(alpha.base.join("held.log")).is_ok_and(|t| t.contains("paths"))
    });
    let told: Value =
        serde_json::from_slice(&fs::read(alpha.base.join("held.log")).unwrap()).unwrap();
    assert_eq!(
        (&told["payload"]["count"], &told["payload"]["dir"]),
        (&20.into(), &path(&dir).into()),
        "{told}"
    );
    assert_eq!(directory(&alpha)["held_deletes"], 20);
    assert_eq!(
        alpha
            .ok(&["approve", path(&dir), "--dry-run"])
            .lines()
            .count(),
        20
    );
    assert_eq!(
        json(&alpha.run(&["approve", path(&dir), "--dry-run", "--json"]))[19]["path"],
        "f9"
    );
    assert_eq!(directory(&alpha)["held_deletes"], 20);
    check(
        &alpha.run(&["approve", path(&dir)]),
        0,
        "20 deletes approved",
    );
    wait_for("they are carried out", &world, || {
        directory(&alpha)["healthy"] == true
    });
    assert_eq!(alpha.ok(&["ls"]), "");
}

#[test]
fn a_daemon_for_files_alone_handles_requests_of_users_too() {
    let (world, alpha, dir) = world();
    let beta = world.machine("beta");
    let mut command = beta.command(&["daemon", "-w", path(&dir)]);
    let mut daemon = command
        .env("MESYNC_POLL_INTERVAL", "1")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    (0..20).for_each(|n| fs::write(dir.join(format!("f{n}")), n.to_string()).unwrap());
    wait_for("they are in sync", &world, || {
        directory(&beta)["files"] == 20 && directory(&beta)["healthy"] == true
    });
    (0..20).for_each(|n| fs::remove_file(dir.join(format!("f{n}"))).unwrap());
    wait_for("they are held", &world, || {
        directory(&beta)["held_deletes"] == 20
    });
    check(
        &beta.run(&["approve", path(&dir)]),
        0,
        "20 deletes approved",
    );
    wait_for("they are gone", &world, || alpha.ok(&["ls"]).is_empty());
    fs::write(dir.join("new"), "1").unwrap();
    beta.ok(&["adopt", path(&dir)]);
    let asked = |ending: &str| {
        let files = fs::read_dir(beta.base.join("state/watch")).unwrap();
        files
            .flatten()
            .any(|e| e.path().extension().is_some_and(|e| e == ending))
    };
    wait_for("it begins afresh", &world, || {
        !asked("adopt") && directory(&beta)["healthy"] == true && directory(&beta)["files"] == 1
    });
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
