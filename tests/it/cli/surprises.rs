//! Environments that a program may be started in: each command does the same there, and what it
//! writes is private.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::sync::{path, text};
use crate::support::world::World;

/// What a shell does before it becomes the command.
const CASES: [(&str, &str); 11] = [
    ("home-unset", "unset HOME"),
    ("home-empty", "export HOME="),
    ("umask-000", "umask 000"),
    ("umask-002", "umask 002"),
    ("umask-077", "umask 077"),
    ("term-dumb", "export TERM=dumb"),
    ("locale-c", "export LC_ALL=C LANG=C"),
    ("stdin-closed", "exec <&-"),
    ("stdout-closed", "exec >&-"),
    ("all-closed", "exec <&- >&- 2>&-"),
    ("on-tmpfs", ":"),
];
/// The name of a synced file, of letters that not every locale has.
const NAME: &str = "Übung ✓\n";

fn shell(first: &str) -> Vec<String> {
    ["sh", "-c", &format!("{first}; exec \"$@\""), "sh"]
        .map(String::from)
        .to_vec()
}

/// All below a directory that other users may read or write.
fn not_private(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let meta = entry.path().symlink_metadata().unwrap();
        if meta.mode() & 0o077 != 0 {
            found.push(format!("{:o} {}", meta.mode(), entry.path().display()));
        }
        if meta.is_dir() {
            found.extend(not_private(&entry.path()));
        }
    }
    found
}

#[test]
fn no_environment_changes_what_a_command_does() {
    let mut world = World::new();
    world.wrap = shell("umask 000");
    world.serve.push("--allow-anonymous".into());
    world.start_hub();
    let memory = tempfile::tempdir_in("/dev/shm").ok();
    for (n, (case, first)) in CASES.into_iter().enumerate() {
        let mut machine = world.machine(case);
        if case == "on-tmpfs" {
            match &memory {
                Some(dir) => machine.base = dir.path().join("base"),
                None => {
                    println!("SKIPPED: no base directory on tmpfs, since /dev/shm is not usable");
                    continue;
                }
            }
        }
        machine.wrap = shell(first);
        let run = |args: &[&str]| {
            let out = machine.run(args);
            let said = text(&out.stdout) + &text(&out.stderr);
            assert_eq!(out.status.code(), Some(0), "{case}: {args:?}: {said}");
            assert!(!said.contains('\x1b'), "{case}: {args:?}: {said:?}");
            text(&out.stdout)
        };
        let is_open = !first.contains(">&-");
        assert_eq!(run(&["help"]).contains("Usage: "), is_open, "{case}");
        run(&["send", "note", "--payload", "\"ü\""]);
        run(&["start", "--once"]);
        assert_eq!(machine.messages("sent").len(), 1, "{case}");
        assert_eq!(machine.messages("sent")[0]["payload"], "ü", "{case}");
        let sent = run(&["list", "sent", "--json"]);
        assert_eq!(sent.contains("\"note\""), is_open, "{case}");

        // a file that the previous machine sent has its mode here
        let dir = world.dir.path().join(format!("{case}-files"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(case), case).unwrap();
        fs::write(dir.join(NAME), "same").unwrap();
        for (name, mode) in [(case, 0o646), (NAME, 0o640)] {
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        run(&["sync", path(&dir)]);
        for (before, _) in &CASES[..n] {
            let meta = dir.join(before).symlink_metadata().unwrap();
            assert_eq!(meta.mode() & 0o777, 0o646, "{case}: {before}");
        }
        let meta = dir.join(NAME).symlink_metadata().unwrap();
        assert_eq!(meta.mode() & 0o777, 0o640, "{case}");
        let own = [machine.base.clone(), dir.join(".mesync")];
        let found: Vec<String> = own.iter().flat_map(|dir| not_private(dir)).collect();
        assert!(found.is_empty(), "{case}: {found:?}");
    }
    let found = not_private(&world.hub_dir());
    assert!(found.is_empty(), "the hub's data: {found:?}");
}
