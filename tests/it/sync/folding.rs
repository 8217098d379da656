//! A machine whose disk takes several names for one (exFAT), beside one whose disk does not.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;

use super::folding_disk::FoldingDisk;
use crate::support::files::Hub;
use crate::support::tree::{Synced, records};
use crate::support::world::wait_for;

/// Files that are there.
fn names(s: &Synced) -> Vec<String> {
    let all = s
        .tree()
        .unwrap_or_default()
        .into_iter()
        .filter(|(_, what)| what.starts_with("file"));
    all.map(|(name, _)| name.to_string_lossy().into_owned())
        .collect()
}

fn inode(s: &Synced, path: &str) -> u64 {
    s.at(path).symlink_metadata().unwrap().ino()
}

/// What cannot be synced, by path, with the reason.
fn cannot(said: &Value) -> BTreeMap<String, String> {
    let all = said["unsyncable"].as_array().cloned().unwrap_or_default();
    all.iter()
        .map(|c| (c["path"].as_str().unwrap().to_string(), c.to_string()))
        .collect()
}

/// Two machines, and what happens between them: passes in turn, or daemons.
struct Pair<'a> {
    hub: &'a Hub,
    alpha: Synced,
    /// On the disk that folds.
    beta: Synced,
    daemons: bool,
}

impl Pair<'_> {
    fn new<'a>(hub: &'a Hub, disk: &FoldingDisk, daemons: bool) -> Pair<'a> {
        let mut pair = Pair {
            hub,
            alpha: Synced::new(&hub.world, "alpha"),
            beta: disk.machine(&hub.world, "beta"),
            daemons,
        };
        if daemons {
            pair.alpha.start();
            pair.beta.start();
        }
        pair
    }

    #[track_caller]
    fn wait(&self, what: &str, mut is_true: impl FnMut() -> bool) {
        wait_for(what, &self.hub.world, || {
            if !self.daemons {
                [&self.alpha, &self.beta]
                    .iter()
                    .for_each(|s| drop(s.try_pass(&[])));
            }
            is_true()
        });
    }

    /// Waits until both and the hub have these files and no others.
    #[track_caller]
    fn reach(&self, what: &str, wants: &[String]) {
        let mut wants = wants.to_vec();
        wants.sort();
        let on_hub = || records(self.hub).into_keys().collect::<Vec<_>>();
        self.wait(what, || {
            names(&self.alpha) == wants && names(&self.beta) == wants && on_hub() == wants
        });
    }

    /// What beta names as not to be synced.
    fn refused(&self) -> BTreeMap<String, String> {
        if self.daemons {
            cannot(&self.beta.status())
        } else {
            cannot(&self.beta.try_pass(&[]).1)
        }
    }
}

fn renames_by_case(daemons: bool) {
    let hub = Hub::start();
    let Some(disk) = FoldingDisk::mount(&hub.world) else {
        return;
    };
    let pair = Pair::new(&hub, &disk, daemons);
    let Pair { alpha, beta, .. } = &pair;
    let photo = |upper: bool, n: u32| {
        if upper {
            format!("Photo{n}.JPG")
        } else {
            format!("photo{n}.jpg")
        }
    };
    let all = |upper: bool, more: [&str; 2]| -> Vec<String> {
        (0..6)
            .map(|n| photo(upper, n))
            .chain(more.map(String::from))
            .collect()
    };
    (0..6).for_each(|n| alpha.put(photo(true, n), format!("precious {n}")));
    alpha.put("dir/sub/f", "inside");
    alpha.put("dir/g", "inside, too");
    pair.reach("all arrive", &all(true, ["dir/sub/f", "dir/g"]));
    let before = inode(beta, "Photo0.JPG");

    (0..6).for_each(|n| alpha.rename(&photo(true, n), &photo(false, n)));
    pair.reach(
        "files are renamed there",
        &all(false, ["dir/sub/f", "dir/g"]),
    );
    assert_eq!(
        inode(beta, "photo0.jpg"),
        before,
        "it was renamed, not fetched again"
    );
    alpha.rename("dir", "DIR");
    pair.reach(
        "a directory is renamed there",
        &all(false, ["DIR/sub/f", "DIR/g"]),
    );
    alpha.put("DIR/g", "edited");
    alpha.rename("DIR", "dir");
    pair.reach(
        "a directory is renamed there after an edit",
        &all(false, ["dir/sub/f", "dir/g"]),
    );

    (0..6).for_each(|n| beta.rename(&photo(false, n), &photo(true, n)));
    pair.reach(
        "files are renamed from there",
        &all(true, ["dir/sub/f", "dir/g"]),
    );
    beta.rename("dir", "Dir");
    beta.rename("Dir/sub", "Dir/SUB");
    pair.reach(
        "directories are renamed from there",
        &all(true, ["Dir/SUB/f", "Dir/g"]),
    );
    for s in [alpha, beta] {
        pair.wait("the edit arrives", || s.text("Dir/g") == "edited");
        assert!(
            (0..6).all(|n| s.text(photo(true, n)) == format!("precious {n}"))
                && s.text("Dir/SUB/f") == "inside",
            "{:?}",
            names(s)
        );
    }
    assert_eq!(pair.refused(), BTreeMap::new());
    pair.wait("both are in sync", || {
        !daemons || alpha.condition() == "in-sync" && beta.condition() == "in-sync"
    });
}

#[test]
fn a_rename_by_case_travels_both_ways_by_passes() {
    renames_by_case(false);
}

#[test]
fn a_rename_by_case_travels_both_ways_by_daemons() {
    renames_by_case(true);
}

fn two_names_that_are_one_there(daemons: bool) {
    let hub = Hub::start();
    let Some(disk) = FoldingDisk::mount(&hub.world) else {
        return;
    };
    let pair = Pair::new(&hub, &disk, daemons);
    let Pair { alpha, beta, .. } = &pair;
    for (name, text) in [
        ("twin", "lower"),
        ("TWIN", "UPPER"),
        ("dir/x", "in dir"),
        ("Dir/y", "in Dir"),
        ("\u{e9}", "one"),
        ("e\u{301}", "two"),
    ] {
        alpha.put(name, text);
    }
    let twins = || -> (Option<&str>, Option<&str>) {
        let there = names(beta);
        let of = |one: &'static str, other: &'static str| {
            [one, other]
                .into_iter()
                .find(|n| there.contains(&n.to_string()))
        };
        (of("twin", "TWIN"), of("dir/x", "Dir/y"))
    };
    let other = |name: &str| match name {
        "twin" => "TWIN",
        "TWIN" => "twin",
        "dir/x" => "Dir/y",
        _ => "dir/x",
    };
    pair.wait("one of each is there, and the other is named", || {
        let (Some(file), Some(dir)) = twins() else {
            return false;
        };
        let refused = pair.refused();
        let told = |name: &str| {
            refused
                .get(other(name))
                .is_some_and(|why| why.contains("treats the name"))
        };
        told(file) && told(dir) && refused.len() == 2
    });
    // forms of Unicode are names of their own on exFAT
    assert_eq!(
        (beta.text("\u{e9}"), beta.text("e\u{301}")),
        ("one".into(), "two".into())
    );
    let whole = |s: &Synced| {
        (
            s.text("twin"),
            s.text("TWIN"),
            s.text("dir/x"),
            s.text("Dir/y"),
        )
    };
    let as_put = (
        "lower".to_string(),
        "UPPER".to_string(),
        "in dir".to_string(),
        "in Dir".to_string(),
    );
    assert_eq!(whole(alpha), as_put);
    assert_eq!(records(&hub).len(), 6);

    // an edit of the one there is one of that name
    let (file, dir) = (twins().0.unwrap(), twins().1.unwrap());
    beta.put(file, "edited there");
    pair.wait("the edit arrives", || alpha.text(file) == "edited there");
    assert_eq!(
        alpha.text(other(file)),
        if file == "twin" { "UPPER" } else { "lower" }
    );
    // the existing one is removed: the other one takes its place, and nothing else is removed
    beta.remove(file);
    beta.remove(dir);
    fs::remove_dir(beta.at(Path::new(dir).parent().unwrap())).unwrap();
    let mut left = vec![
        other(file).to_string(),
        other(dir).to_string(),
        "\u{e9}".into(),
        "e\u{301}".into(),
    ];
    left.sort();
    pair.reach("the others take their place", &left);
    pair.wait("nothing is named", || pair.refused().is_empty());
    assert_eq!(beta.text(other(file)), alpha.text(other(file)));
    // and back again, with the removal elsewhere
    alpha.put(file, "again");
    pair.wait("it is named", || pair.refused().contains_key(file));
    alpha.remove(other(file));
    left.retain(|n| n != other(file));
    left.push(file.into());
    pair.reach("it takes its place", &left);
    assert_eq!(beta.text(file), "again");
}

#[test]
fn two_names_that_are_one_there_are_one_file_and_one_refusal_by_passes() {
    two_names_that_are_one_there(false);
}

#[test]
fn two_names_that_are_one_there_are_one_file_and_one_refusal_by_daemons() {
    two_names_that_are_one_there(true);
}

#[test]
fn names_that_the_disk_refuses_are_named_and_all_others_travel() {
    let hub = Hub::start();
    let Some(disk) = FoldingDisk::mount(&hub.world) else {
        return;
    };
    let mut pair = Pair::new(&hub, &disk, false);
    let refused = [
        "colon:x",
        "q?",
        "a|b",
        "star*",
        "new\nline",
        "odd?/fine",
        "back\\slash",
    ];
    refused
        .iter()
        .chain(&["fine", "con", "sp ace"])
        .for_each(|name| pair.alpha.put(name, *name));
    pair.alpha.put("trail.", "a dot");
    std::os::unix::fs::symlink("fine", pair.alpha.at("link")).unwrap();
    pair.alpha.pass();
    let (status, said) = pair.beta.try_pass(&[]);
    let named = cannot(&said);
    assert_eq!(status, 1, "{said}");
    assert!(
        refused.iter().all(|name| named
            .get(*name)
            .is_some_and(|why| why.contains("cannot have the name"))),
        "{said}"
    );
    assert!(
        named
            .get("link")
            .is_some_and(|why| why.contains("no links") || why.contains("not permitted")),
        "{said}"
    );
    let there = names(&pair.beta);
    assert!(
        there.contains(&"fine".to_string())
            && there
                .iter()
                .all(|name| pair.beta.text(name) == pair.alpha.text(name)),
        "{there:?}"
    );
    assert!(
        there.contains(&"trail.".to_string()) != named.contains_key("trail."),
        "{there:?} {said}"
    );
    // nothing of it is deleted elsewhere, nor left here
    pair.alpha.pass();
    assert!(refused.iter().all(|name| pair.alpha.text(name) == *name));
    assert!(
        !pair.beta.has("odd")
            && fs::read_dir(pair.beta.at(".mesync"))
                .unwrap()
                .flatten()
                .all(|e| e.file_name() != "colon:x")
    );

    // the daemon names each once, and is at rest
    pair.beta.start();
    wait_for("all are named", &hub.world, || {
        refused
            .iter()
            .all(|name| cannot(&pair.beta.status()).contains_key(*name))
    });
    assert!(
        hub.world.logs().matches("cannot sync").count() <= refused.len() + 2,
        "{}",
        hub.world.logs()
    );
    pair.alpha.rename("colon:x", "colon-x");
    pair.alpha.pass();
    wait_for("it can be there under another name", &hub.world, || {
        pair.beta.text("colon-x") == "colon:x"
    });
    wait_for("it is not named any longer", &hub.world, || {
        !cannot(&pair.beta.status()).contains_key("colon:x")
    });
    pair.beta.stop();
}

#[test]
fn conflict_copies_and_the_trash_hold_both_of_two_names_that_differ_by_case() {
    let hub = Hub::start();
    let Some(disk) = FoldingDisk::mount(&hub.world) else {
        return;
    };
    let pair = Pair::new(&hub, &disk, false);
    let Pair { alpha, beta, .. } = &pair;
    alpha.put("f", "base");
    pair.reach("it arrives", &["f".into()]);
    // renamed and edited there, and edited here: both are kept
    alpha.rename("f", "F");
    alpha.put("F", "of alpha");
    alpha.pass();
    beta.put("f", "of beta");
    pair.wait("both are kept", || {
        alpha.contents("") == ["of alpha", "of beta"]
    });
    assert_eq!(
        beta.contents("").len() + pair.refused().len(),
        2,
        "{:?} {:?}",
        names(beta),
        pair.refused()
    );
    // the same content under both names, one after the other, deleted on the hub: two slots in the trash
    for name in ["t", "T"] {
        alpha.put(name, "same");
        pair.wait("it arrives", || names(beta).contains(&name.to_string()));
        alpha.remove(name);
        pair.wait("it is deleted", || !beta.has(name));
    }
    assert_eq!(
        beta.trash()
            .iter()
            .filter(|n| n.to_lowercase().ends_with("-t"))
            .count(),
        2,
        "{:?}",
        beta.trash()
    );
}

#[test]
fn a_download_does_not_write_into_a_file_of_another_name() {
    let hub = Hub::start();
    let Some(disk) = FoldingDisk::mount(&hub.world) else {
        return;
    };
    let alpha = Synced::new(&hub.world, "alpha");
    alpha.put("twin", "lower");
    alpha.put("TWIN", "UPPER");
    alpha.pass();
    let beta = disk.machine(&hub.world, "beta");
    let fetch = |name: &str| {
        let id = records(&hub)[name]["id"].as_str().unwrap().to_string();
        beta.machine
            .command(&["download", &id])
            .current_dir(&beta.dir)
            .output()
            .unwrap()
    };
    assert!(fetch("twin").status.success());
    let out = fetch("TWIN");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        !out.status.success() && said.contains("\"TWIN\"") && said.contains("\"twin\""),
        "{said}"
    );
    assert_eq!(
        (beta.text("twin"), names(&beta)),
        ("lower".into(), vec!["twin".to_string()])
    );
    // the same name again is no other one
    assert!(fetch("twin").status.success());
    // a dry run takes neither for the other, and leaves no trace
    let told = beta.told(&["--dry-run"]);
    assert!(
        told.contains("TWIN") && !told.contains("conflict"),
        "{told}"
    );
    assert_eq!(names(&beta), ["twin"]);
    assert!(!beta.has(".mesync"));
    let listed = beta.machine.ok(&["ls"]);
    assert!(
        listed.contains("TWIN") && listed.contains("twin"),
        "{listed}"
    );
}

#[test]
fn a_disk_that_lists_all_names_in_lower_case_refuses_the_others_and_gets_nothing_else() {
    let hub = Hub::start();
    let Some(disk) = FoldingDisk::mount_lowering(&hub.world) else {
        return;
    };
    let pair = Pair::new(&hub, &disk, false);
    let Pair { alpha, beta, .. } = &pair;
    for name in ["lower", "Upper", "Dir/f", "dir2/f", "dir2/Sub/f"] {
        alpha.put(name, name);
    }
    let refused = ["Dir/f", "Upper", "dir2/Sub/f"];
    pair.wait("all others arrive", || names(beta) == ["dir2/f", "lower"]);
    assert_eq!(pair.refused().into_keys().collect::<Vec<_>>(), refused);
    // a new case of a name that is there is refused, too, and the content stays on the hub
    alpha.rename("lower", "LOWER");
    alpha.rename("dir2", "DIR2");
    let live = ["DIR2/Sub/f", "DIR2/f", "Dir/f", "LOWER", "Upper"];
    pair.wait("nothing is left there", || names(beta).is_empty());
    alpha.pass();
    assert_eq!(
        (names(alpha), records(&hub).into_keys().collect::<Vec<_>>()),
        (
            live.map(String::from).to_vec(),
            live.map(String::from).to_vec()
        )
    );
    assert_eq!(pair.refused().into_keys().collect::<Vec<_>>(), live);
    // and new files in it are synced under the listed name
    beta.put("New", "made there");
    pair.wait("it arrives", || alpha.text("new") == "made there");
}
