//! Synced directories, as a user and a script meet them: status, approve, adopt, conflicts, sync,
//! hooks.
//!
//! Other tests check the files; these check the output and the exit statuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::world::{Machine, World, wait_for};
use serde_json::Value;

/// A hub that runs, one machine, and its directory.
pub(super) fn world() -> (World, Machine, PathBuf) {
    let mut world = World::new();
    world.start_hub();
    let (machine, dir) = (world.machine("alpha"), world.dir.path().join("share"));
    fs::create_dir(&dir).unwrap();
    (world, machine, dir)
}

pub(super) fn configure(machine: &Machine, dir: &Path) {
    fs::create_dir_all(&machine.base).unwrap();
    fs::write(
        machine.base.join("config.toml"),
        format!("[[watch]]\npath = \"{}\"\n", dir.display()),
    )
    .unwrap();
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
pub(super) fn check(out: &Output, status: i32, wants: &str) {
    let all = text(&out.stdout) + &text(&out.stderr);
    assert!(
        out.status.code() == Some(status) && all.contains(wants),
        "wanted {status} and {wants:?}: {out:?}"
    );
}

pub(super) fn json(out: &Output) -> Vec<Value> {
    text(&out.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What status says about the only directory.
pub(super) fn directory(machine: &Machine) -> Value {
    json(&machine.run(&["status", "--json"]))[0]["directories"][0].clone()
}

pub(super) fn path(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

/// Names in a directory, without mesync's own.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|n| n != ".mesync");
    names.sort();
    names
}

#[test]
fn status_shows_a_directory_before_while_and_after_it_is_kept_in_sync() {
    let (world, mut alpha, dir) = world();
    configure(&alpha, &dir);
    fs::write(dir.join("a"), "1").unwrap();
    check(&alpha.run(&["status"]), 1, "not running; never synced");
    let before = directory(&alpha);
    let keys = [
        "condition",
        "configured",
        "conflict_copies",
        "died",
        "dir",
        "files",
        "first_skipped",
        "healthy",
        "held_deletes",
        "in_sync_since",
        "mode",
        "pending",
        "problems",
        "process",
        "remote",
        "seen_at",
        "server",
        "skipped_names",
        "skipped_special",
        "unreadable",
        "unsyncable",
        "unsyncable_count",
        "unwatched",
        "waiting",
        "watched",
    ];
    assert!(before.as_object().unwrap().keys().eq(keys), "{before}");
    assert_eq!(
        (&before["condition"], &before["process"], &before["seen_at"]),
        (&"starting".into(), &Value::Null, &Value::Null)
    );
    assert_eq!(
        (&before["healthy"], &before["configured"]),
        (&false.into(), &true.into())
    );

    alpha.start();
    wait_for("the machine is healthy", &world, || {
        directory(&alpha)["healthy"] == true
    });
    let running = directory(&alpha);
    let process = Value::from(alpha.pid().to_string());
    assert_eq!(
        (
            &running["process"],
            &running["files"],
            &running["condition"]
        ),
        (&process, &1.into(), &"in-sync".into())
    );
    assert!(
        running["in_sync_since"].is_string()
            && running["watched"] == 1
            && running["server"] == world.url(),
        "{running}"
    );
    check(
        &alpha.run(&["status"]),
        0,
        &format!("process {}", alpha.pid()),
    );
    // a second one on the same directory
    check(
        &alpha.run(&["sync", "-w", path(&dir)]),
        75,
        "another process",
    );
    check(
        &world.machine("beta").run(&["daemon", "-w", path(&dir)]),
        75,
        "does so already",
    );

    alpha.stop();
    let after = directory(&alpha);
    assert_eq!(
        (&after["process"], &after["healthy"]),
        (&Value::Null, &true.into()),
        "{after}"
    );
    check(
        &alpha.run(&["status"]),
        0,
        "not running; last seen in sync, 2",
    );
    // in no settings, and in sync: no reason to worry
    fs::remove_file(alpha.base.join("config.toml")).unwrap();
    check(&alpha.run(&["status"]), 0, path(&dir));
    assert_eq!(directory(&alpha)["configured"], false);
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(directory(&alpha), Value::Null);
    configure(&alpha, &dir);
    check(&alpha.run(&["status"]), 1, "there is no such directory");
}

#[test]
fn conflicts_are_kept_listed_and_told_to_the_hook_and_no_failure() {
    let (world, mut alpha, dir) = world();
    configure(&alpha, &dir);
    fs::write(dir.join("a.txt"), "here").unwrap();
    fs::write(world.dir.path().join("a.txt"), "there").unwrap();
    alpha.ok(&["upload", path(&world.dir.path().join("a.txt"))]);
    assert_eq!(alpha.ok(&["conflicts"]), "");
    alpha.hook(
        "mesync.conflict",
        "echo \"$MESYNC_SOURCE,$MESYNC_TYPE,${MESYNC_FILE-none}\" >env.log; cat >>conflict.log",
    );
    alpha.hook("mesync.changed", "cat >>changed.log");
    alpha.start();
    let log = |name: &str| fs::read_to_string(alpha.base.join(name)).unwrap_or_default();
    wait_for("the hooks have run", &world, || {
        log("conflict.log").contains("copy") && log("changed.log").contains("a.txt")
    });
    assert_eq!(log("env.log"), "alpha,mesync.conflict,none\n");
    let told: Value = serde_json::from_str(&log("conflict.log")).unwrap();
    let copy = names(&dir)
        .into_iter()
        .find(|n| n.starts_with("a.sync-conflict-"))
        .unwrap();
    assert_eq!(
        (&told["payload"]["path"], &told["payload"]["copy"]),
        (&"a.txt".into(), &copy.as_str().into()),
        "{told}"
    );
    assert_eq!(
        (told["source"].as_str(), told["target"].as_str()),
        (Some("alpha"), Some("alpha"))
    );
    wait_for("it is healthy", &world, || {
        directory(&alpha)["healthy"] == true
    });
    check(
        &alpha.run(&["status"]),
        0,
        "1 conflict copy: see \"mesync conflicts\"",
    );

    let wants = dir.join(&copy);
    assert!(alpha.ok(&["conflicts"]).contains(path(&wants)));
    let found = json(&alpha.run(&["conflicts", path(&dir), "--json"]));
    assert!(
        found.len() == 1
            && found[0]
                .as_object()
                .unwrap()
                .keys()
                .eq(["file", "modified", "of", "size"]),
        "{found:?}"
    );
    assert_eq!(
        (&found[0]["file"], &found[0]["of"], &found[0]["size"]),
        (
            &path(&wants).into(),
            &path(&dir.join("a.txt")).into(),
            &4.into()
        )
    );
    check(
        &alpha.run(&["conflicts", "/nonexistent"]),
        74,
        "no such file",
    );
    // special files are reported, and are no failure
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    alpha.stop();
    check(
        &alpha.run(&["sync"]),
        0,
        "1 special file skipped (socket, FIFO or device): pipe",
    );
    check(
        &alpha.run(&["status"]),
        0,
        "skipped, since it is a socket, FIFO or device: pipe",
    );
}

#[test]
fn a_dry_run_says_why_and_changes_nothing() {
    let (world, alpha, dir) = world();
    fs::write(dir.join("new"), "1").unwrap();
    fs::write(world.dir.path().join("there"), "22").unwrap();
    alpha.ok(&["upload", path(&world.dir.path().join("there"))]);
    let out = alpha.run(&["sync", "-w", path(&dir), "--dry-run"]);
    check(&out, 1, "new here");
    assert!(
        text(&out.stdout)
            .lines()
            .any(|l| l.starts_with("receive") && l.contains("there")),
        "{out:?}"
    );
    let rows = json(&alpha.run(&["sync", "-w", path(&dir), "--dry-run", "--json"]));
    assert!(
        rows[0]
            .as_object()
            .unwrap()
            .keys()
            .eq(["action", "dir", "path", "size", "why"]),
        "{rows:?}"
    );
    assert_eq!(
        (&rows[0]["path"], &rows[0]["action"], &rows[1]["action"]),
        (&"new".into(), &"send".into(), &"receive".into())
    );
    assert_eq!(
        (names(&dir), alpha.ok(&["ls"]).lines().count()),
        (vec!["new".into()], 2)
    );

    let pass = alpha.run(&["sync", "-w", path(&dir), "--json"]);
    check(&pass, 0, "");
    let row = &json(&pass)[0];
    let keys = [
        "bytes_received",
        "bytes_sent",
        "conflicts",
        "deleted",
        "dir",
        "first_skipped",
        "held_deletes",
        "in_sync",
        "problem",
        "received",
        "remaining",
        "removed",
        "sent",
        "skipped_names",
        "skipped_special",
        "unsyncable",
        "waiting",
    ];
    assert!(row.as_object().unwrap().keys().eq(keys), "{row}");
    assert_eq!(
        (&row["sent"], &row["received"], &row["in_sync"]),
        (&1.into(), &1.into(), &true.into())
    );
    check(
        &alpha.run(&["sync", "-w", path(&dir)]),
        0,
        "in sync: nothing to do",
    );
    check(&alpha.run(&["sync", "-w", path(&dir), "--dry-run"]), 0, "");
    check(
        &alpha.run(&["sync", "-w", path(&dir), "--dry-run", "--allow-deletes"]),
        0,
        "",
    );
}

#[test]
fn mistakes_are_named_before_anything_is_done() {
    let (_world, alpha, dir) = world();
    check(&alpha.run(&["sync"]), 2, "which directory? name it here");
    check(&alpha.run(&["daemon"]), 2, "which directory? name it here");
    check(
        &alpha.run(&["daemon", "--send-only"]),
        2,
        "--send-only is about one directory",
    );
    check(
        &alpha.run(&["sync", "-w", path(&dir), "--send-only", "--receive-only"]),
        2,
        "exclude each other",
    );
    check(
        &alpha.run(&["sync", "-w", path(&dir), "--remote", "../x"]),
        2,
        "bad value for --remote",
    );
    check(
        &alpha.run(&["daemon", "-w", path(&dir), "--debounce", "1"]),
        2,
        "bad value for --debounce",
    );
    check(&alpha.run(&["approve"]), 2, "approve needs DIR");
    check(
        &alpha.run(&["sync", "-w", "/nonexistent"]),
        78,
        "a synced directory must exist",
    );
    let own = alpha.base.join("sub");
    fs::create_dir_all(&own).unwrap();
    for command in ["sync", "daemon", "start"] {
        check(
            &alpha.run(&[command, "-w", path(&own)]),
            78,
            "it is mesync's own",
        );
    }
    let inner = dir.join("inner");
    fs::create_dir(&inner).unwrap();
    configure(&alpha, &dir);
    check(
        &alpha.run(&["start", "-w", path(&inner)]),
        78,
        "overlap, here or on the hub",
    );
    assert_eq!(
        (names(&dir), dir.join(".mesync").exists()),
        (vec!["inner".to_string()], false)
    );
    fs::write(
        alpha.base.join("config.toml"),
        format!(
            "[[watch]]\npath = \"{0}\"\n[[watch]]\npath = \"{0}/inner\"\nremote = \"x\"\n",
            dir.display()
        ),
    )
    .unwrap();
    check(&alpha.run(&["status"]), 78, "overlap, here or on the hub");
}

#[test]
fn the_log_has_each_decision_with_its_reason() {
    let mut world = World::new();
    world.start_hub();
    let alpha = world.machine("alpha");
    let dir = world.dir.path().join("share");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("a"), "a").unwrap();
    let said = |args: &[&str]| text(&alpha.run(&[args, &["sync", path(&dir)]].concat()).stderr);
    let first = said(&["-vv"]);
    assert!(
        first.contains("decision for \"a\": new here dir="),
        "{first}"
    );
    std::fs::remove_file(dir.join("a")).unwrap();
    let second = said(&["-vv"]);
    assert!(
        second.contains("decision for \"a\": deleted here dir="),
        "{second}"
    );
    std::fs::write(dir.join("b"), "b").unwrap();
    let quiet = said(&["-v"]);
    assert!(!quiet.contains("decision"), "{quiet}");
}
