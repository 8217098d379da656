//! `mesync trash`: the files that another machine deleted are listed, restored and removed, beside a
//! running daemon and without one.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use super::sync::{check, json, path, text};
use crate::support::files::Hub;
use crate::support::tree::{Synced, settled};
use crate::support::world::wait_for;

const ODD: [&str; 3] = ["-rf", "new\nline\u{202e}", "Übung ✓.txt"];

/// Two machines in sync, and the files that alpha then deleted.
struct Deleted {
    hub: Hub,
    alpha: Synced,
    beta: Synced,
}

impl Deleted {
    fn new(files: &[(&str, &str)]) -> Deleted {
        let hub = Hub::start();
        let (mut alpha, mut beta) = (
            Synced::new(&hub.world, "alpha"),
            Synced::new(&hub.world, "beta"),
        );
        for (name, content) in files
            .iter()
            .chain(&[("k/1", "1"), ("k/2", "2"), ("k/3", "3")])
        {
            alpha.put(name, content);
        }
        alpha.start();
        beta.start();
        wait_for("all have arrived", &hub.world, || beta.has("k/3"));
        settled(&hub.world, &[&alpha, &beta]);
        for (name, _) in files {
            alpha.remove(name);
        }
        wait_for("all were deleted", &hub.world, || {
            beta.trash().len() == files.len() && files.iter().all(|(name, _)| !beta.has(name))
        });
        settled(&hub.world, &[&alpha, &beta]);
        Deleted { hub, alpha, beta }
    }

    /// `mesync trash` with these arguments, on the machine that received the deletes.
    fn run(&self, args: &[&str]) -> std::process::Output {
        self.beta.machine.run(&[&["trash"], args].concat())
    }

    #[track_caller]
    fn ok(&self, args: &[&str], wants: &str) {
        check(&self.run(args), 0, wants);
    }

    fn rows(&self) -> Vec<Value> {
        json(&self.run(&["list", "--json"]))
    }

    /// The id of a file in the trash whose content is known.
    fn id(&self, content: &str) -> String {
        let is_it = |name: &String| self.beta.text(format!(".mesync/trash/{name}")) == content;
        self.beta.trash().into_iter().find(is_it).unwrap()
    }

    /// The file is on both machines.
    #[track_caller]
    fn arrives(&self, name: &str, content: &str) {
        wait_for(&format!("{name:?} arrives"), &self.hub.world, || {
            self.alpha.text(name) == content
        });
        assert_eq!(self.beta.text(name), content);
    }
}

#[test]
fn files_from_the_trash_are_restored_beside_a_daemon_and_sent_as_new_ones() {
    let long = "l".repeat(240);
    let all = Deleted::new(&[
        ("docs/old/report.txt", "report"),
        ("top.txt", "top"),
        (ODD[0], "dash"),
        (ODD[1], "line"),
        (ODD[2], "letters"),
        (&long, "long"),
    ]);
    all.ok(&["restore", "top.txt"], "/top.txt is restored");
    all.arrives("top.txt", "top");
    let to = "docs/old/report.txt";
    all.ok(
        &["restore", "report.txt"],
        "/docs/old/report.txt is restored",
    );
    all.arrives(to, "report");
    let dir = path(&all.beta.dir);
    all.ok(&["restore", "--json", "--", ODD[0]], "\"path\":\"-rf\"");
    all.arrives(ODD[0], "dash");
    all.ok(
        &["restore", ODD[1], dir],
        "/new\\nline\\u{202e} is restored",
    );
    all.arrives(ODD[1], "line");
    all.ok(&["restore", ODD[2]], ODD[2]);
    all.arrives(ODD[2], "letters");
    // a name in the trash, as the shell completes it; its old name was cut
    let named = format!("{dir}/.mesync/trash/{}", all.id("long"));
    all.ok(
        &["restore", &named, "--to", &format!("{dir}/long")],
        "is restored",
    );
    all.arrives("long", "long");
    assert!(all.beta.trash().is_empty() && all.rows().is_empty());
    settled(&all.hub.world, &[&all.alpha, &all.beta]);
}

#[test]
fn a_restore_refuses_what_it_cannot_do_and_changes_nothing() {
    let mut all = Deleted::new(&[
        ("a/same.txt", "1"),
        ("b/same.txt", "2"),
        ("taken", "old"),
        (ODD[1], "odd"),
    ]);
    all.beta.put("taken", "new");
    let before = all.beta.trash().len();
    let check = |args: &[&str], status, wants: &str| {
        let out = all.run(&[&["restore"], args].concat());
        check(&out, status, wants);
    };
    check(
        &["taken"],
        1,
        "cannot restore taken: it exists (name another path with --to)",
    );
    check(
        &["same.txt"],
        1,
        "of 2 files in the trash (give the id of one: ",
    );
    check(
        &["gone"],
        1,
        "gone is not in the trash (\"mesync trash\" lists",
    );
    check(&[""], 1, "is not in the trash");
    check(&["taken", "--to", "../x"], 2, "it is not in ");
    check(&["taken", "--to", "/tmp/x"], 2, "it is not in ");
    check(&["taken", "--to", "x/../../y"], 2, "leads elsewhere");
    check(&["taken", "--to", ".mesync/x"], 2, "for itself");
    check(
        &["taken", "--to", "taken/x"],
        1,
        "a directory above it is a file or a link",
    );
    symlink("/tmp", all.beta.at("link")).unwrap();
    check(
        &["taken", "--to", "link/x"],
        1,
        "a directory above it is a file or a link",
    );
    check(&["taken", "/"], 1, "is no synced directory");
    assert_eq!(all.beta.trash().len(), before);
    assert_eq!(all.beta.text("taken"), "new");

    // the shown ids are unique, and are taken
    let shown = text(&all.run(&["list", "--bytes"]).stdout);
    assert!(
        shown.contains("new\\nline\\u{202e}") && !shown.contains('\u{202e}'),
        "{shown}"
    );
    assert_eq!(shown.lines().count(), 1 + before, "{shown}");
    let ids = |shown: &str| -> Vec<String> {
        let rows = shown
            .lines()
            .skip(1)
            .filter(|line| line.contains("same.txt"));
        rows.map(|line| line.split_whitespace().nth(3).unwrap().to_string())
            .collect()
    };
    let of_same = ids(&shown);
    assert_eq!(of_same.len(), 2, "{shown}");
    for (n, id) in of_same.iter().enumerate() {
        all.ok(
            &["restore", id, "--to", &format!("same-{n}")],
            "is restored",
        );
    }
    let mut contents = [all.beta.text("same-0"), all.beta.text("same-1")];
    contents.sort();
    assert_eq!(contents, ["1", "2"]);

    // without a daemon the next pass sends it; a link in the way to the directory is the user's own
    all.beta.stop();
    let link = all.hub.world.dir.path().join("linked");
    symlink(&all.beta.dir, &link).unwrap();
    let to = format!("{}/later", path(&link));
    all.ok(
        &["restore", "taken", path(&link), "--to", &to],
        "/later is restored",
    );
    all.beta.pass();
    all.arrives("later", "old");
}

#[test]
fn the_trash_is_listed_and_emptied() {
    let all = Deleted::new(&[("a", "1"), ("d/b", "22")]);
    let dir = path(&all.beta.dir);
    let rows = all.rows();
    let names: Vec<&str> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"a") && names.contains(&"b"), "{rows:?}");
    let paths: Vec<&str> = rows.iter().map(|r| r["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"a") && paths.contains(&"d/b"), "{rows:?}");
    all.ok(&["list"], "  d/b");
    for row in &rows {
        assert_eq!(row["dir"], dir);
        assert!(
            row["id"]
                .as_str()
                .unwrap()
                .ends_with(row["name"].as_str().unwrap())
        );
        let since = row["deleted_at"].as_str().unwrap();
        assert!(since.starts_with("20") && since.ends_with('Z'), "{row}");
    }
    for args in [&[][..], &["list"], &["list", dir], &[dir]] {
        assert_eq!(text(&all.run(args).stdout).lines().count(), 3, "{args:?}");
    }
    // a directory in which another program still wrote is in the trash with its content
    let other = all.beta.at(".mesync/trash/.mesync-0.tmp");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("mine"), "x").unwrap();
    check(
        &all.run(&["restore", ".mesync-0.tmp"]),
        1,
        "its old name is not known",
    );
    check(&all.run(&["empty", "/nowhere"]), 74, "cannot find /nowhere");
    all.ok(&["empty", path(&all.beta.at("k"))], "2 files removed from ");
    assert_eq!(all.beta.trash(), [".mesync-0.tmp"]);
    all.ok(&["empty"], "1 directory with content left there");
    fs::remove_dir_all(other).unwrap();
    all.ok(&["empty", "--json"], "\"kept\":0,\"removed\":0");
    let out = all.run(&[]);
    assert_eq!(
        (out.status.code(), text(&out.stdout).as_str()),
        (Some(0), "")
    );
}
