//! Environments that a program may be started in: each command does the same there, and what it
//! writes is private.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::sync::{path, text};
use crate::support::world::World;

/// What a shell does before it becomes the command.
const CASES: [(&str, &str); 13] = [
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
    ("etc-read-only", READ_ONLY_ETC),
    ("clock-in-1970", CLOCK_IN_1970),
];
/// Only root may do that; the write that must fail shows that it is done.
const READ_ONLY_ETC: &str = r#"if [ "$(id -u)" = 0 ]; then
exec unshare --mount sh -c 'mount --bind /etc /etc && mount -o remount,bind,ro /etc && ! touch /etc/mesync 2>/dev/null && exec "$@"' sh "$@"
fi"#;
/// A router without a battery; without faketime it has the clock of the others.
const CLOCK_IN_1970: &str = r#"for library in /usr/lib/*/faketime/libfaketimeMT.so.1; do
[ ! -e "$library" ] || export LD_PRELOAD="$library" FAKETIME="@1970-01-02 00:00:00" FAKETIME_DONT_FAKE_MONOTONIC=1
done"#;
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
        let sent = &machine.messages("sent")[0];
        assert_eq!(sent["payload"], "ü", "{case}");
        let faketime = std::env::var_os("CI").is_some();
        let is_old = sent["created_at"].as_str().unwrap().starts_with("1970");
        assert!(
            is_old || case != "clock-in-1970" || !faketime,
            "{case}: {sent}"
        );
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
