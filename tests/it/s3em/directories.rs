//! Directories in sync through the server of the published `s3ec`, which has no revisions, no conditions and no feed.

use super::machine::{of, stored, two};
use crate::support::program;
use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::json;

#[test]
fn changes_are_synced_both_ways_by_passes() {
    let (server, one, two) = two();
    one.put("a", "first");
    one.put("d/b", "second");
    one.put("d/e/c\\d é", "third");
    let first = one.pass(&[]);
    first.check(0, "is no mesync hub");
    assert!(
        first.out.contains("3 sent") && !first.out.contains("received"),
        "{first:?}"
    );
    two.sync();
    let wants = of(&[("a", "first"), ("d/b", "second"), ("d/e/c\\d é", "third")]);
    assert_eq!((two.tree(), stored(&server)), (wants.clone(), wants));
    for machine in [&one, &two] {
        assert!(machine.sync().contains("in sync: nothing to do"));
    }

    two.put("a", "first, edited");
    fs::remove_file(two.at("d/b")).unwrap();
    two.rename("d/e/c\\d é", "new/name");
    let said = two.sync();
    assert!(
        said.contains("2 sent") && said.contains("1 deleted"),
        "{said}"
    );
    let said = one.sync();
    assert!(
        said.contains("2 received") && said.contains("2 moved to the trash"),
        "{said}"
    );
    let wants = of(&[("a", "first, edited"), ("new/name", "third")]);
    assert_eq!(
        (one.tree(), two.tree(), stored(&server)),
        (wants.clone(), wants.clone(), wants)
    );
    assert!(!one.at("d").exists(), "what was emptied is gone");

    // deleted and made again with the same bytes
    fs::remove_file(one.at("a")).unwrap();
    one.sync();
    two.sync();
    assert!(!two.at("a").exists());
    one.put("a", "first, edited");
    one.sync();
    two.sync();
    assert_eq!(two.tree()["a"], "first, edited");

    // a mode alone travels
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(one.at("a"), fs::Permissions::from_mode(0o750)).unwrap();
    one.sync();
    two.sync();
    assert_eq!(
        fs::metadata(two.at("a")).unwrap().permissions().mode() & 0o777,
        0o750
    );
    assert!(one.sync().contains("nothing to do") && two.sync().contains("nothing to do"));
}

#[test]
fn two_edits_are_both_kept_on_both() {
    let (server, one, two) = two();
    one.put("f", "base");
    one.sync();
    two.sync();
    one.put("f", "by one");
    two.put("f", "by two, longer");
    one.put("new", "by one");
    two.put("new", "by two, longer");
    one.sync();
    let said = two.sync();
    assert!(said.contains("2 set aside"), "{said}");
    one.sync();
    let tree = one.tree();
    assert_eq!(
        (&tree, tree.len(), &tree["f"], &tree["new"]),
        (&two.tree(), 4, &"by one".into(), &"by one".into())
    );
    let copies: Vec<&String> = tree
        .iter()
        .filter(|(name, _)| name.contains("sync-conflict"))
        .map(|(_, content)| content)
        .collect();
    assert_eq!(copies, ["by two, longer"; 2]);
    assert_eq!(stored(&server), tree);

    // an edit beats a delete
    one.put("f", "edited again");
    one.sync();
    fs::remove_file(two.at("f")).unwrap();
    two.sync();
    assert_eq!(two.tree()["f"], "edited again");
}

#[test]
fn a_stale_directory_overwrites_nothing() {
    let (server, one, two) = two();
    for (machine, content, age) in [
        (&one, "old", 1_600_000_000),
        (&two, "new, and longer", 1_700_000_000),
    ] {
        machine.put("f", content);
        machine.put("same", "same");
        let file = fs::File::options()
            .write(true)
            .open(machine.at("f"))
            .unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(age))
            .unwrap();
    }
    two.sync();
    let received = server.received();
    let said = one.sync();
    assert!(
        said.contains("1 set aside") && server.received() - received < 2000,
        "{said}"
    );
    two.sync();
    assert_eq!(
        (one.tree()["f"].as_str(), one.tree().len()),
        ("new, and longer", 3)
    );
    assert_eq!(one.tree(), two.tree());
    assert!(
        stored(&server).values().any(|content| content == "old"),
        "what was old is kept as well"
    );

    // its state is lost: everything is compared, and nothing changes
    fs::remove_dir_all(one.m.base()).unwrap();
    let before = stored(&server);
    one.pass(&[]);
    assert_eq!((stored(&server), one.tree()), (before, two.tree()));
}

#[test]
fn many_deletes_on_the_server_are_held() {
    let (server, one, two) = two();
    for n in 0..200 {
        one.put(&format!("f{n}"), format!("content {n}"));
    }
    one.sync();
    two.sync();
    // renamed by another machine: not deleted
    for n in 0..150 {
        one.rename(&format!("f{n}"), &format!("d/f{n}"));
    }
    one.sync();
    let said = two.sync();
    assert!(
        said.contains("150 received") && said.contains("150 moved to the trash"),
        "{said}"
    );
    assert_eq!((one.tree() == two.tree(), two.tree().len()), (true, 200));

    for (name, _) in server.files() {
        server.remove(&name);
    }
    let held = two.pass(&["--json"]);
    assert_eq!(
        (held.json()[0]["held_deletes"].as_u64(), two.tree().len()),
        (Some(200), 200),
        "{held:?}"
    );
    two.m.ok(["approve", two.at("").to_str().unwrap()]);
    two.sync();
    assert_eq!(two.tree().len(), 0);
}

#[test]
fn every_page_is_read_and_a_missed_file_is_asked_for() {
    let (server, one, _) = two();
    for n in 0..500 {
        server.put(
            &format!("d{}", n % 7),
            &format!("f{n:03}"),
            format!("content {n}").as_bytes(),
            &json!({}),
        );
    }
    one.sync();
    assert_eq!((one.tree(), one.tree().len()), (stored(&server), 500));
    // all later records move up by one, so the second page lacks one
    server.remove_during_listing("d2/f499");
    server.put("", "another", b"x", &json!({}));
    let said = one.sync();
    assert!(said.contains("1 received, 1 moved to the trash"), "{said}");
    assert_eq!(one.tree(), stored(&server));
}

#[test]
fn one_directory_of_the_server_is_all_that_is_touched() {
    let (server, one, _) = two();
    server.put("share/d", "a", b"a", &json!({}));
    server.put("share2", "b", b"b", &json!({}));
    server.put("", "share", b"c", &json!({}));
    assert_eq!(one.pass(&["--remote", "share"]).status, 0);
    assert_eq!(one.tree(), of(&[("d/a", "a")]));
    one.put("mine", "m");
    fs::remove_file(one.at("d/a")).unwrap();
    assert_eq!(one.pass(&["--remote", "share"]).status, 0);
    assert_eq!(
        stored(&server),
        of(&[("share", "c"), ("share/mine", "m"), ("share2/b", "b")])
    );
}

#[test]
fn a_hostile_name_leads_nowhere_else() {
    let (server, one, _) = two();
    for (path, name) in [
        ("..", "out"),
        ("", "../out"),
        ("/etc", "out"),
        ("a/../..", "out"),
        ("", ".."),
        (".mesync", "id"),
        ("a", ""),
    ] {
        server.put(path, name, b"evil", &json!({ "mode": 0o104_777 }));
    }
    server.put("", "fine", b"fine", &json!({ "mode": 0o104_777 }));
    fs::create_dir(one.m.home().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(one.m.home().join("elsewhere"), one.at("link")).unwrap();
    server.put("link", "in", b"evil", &json!({}));
    one.pass(&[]);
    assert_eq!(one.tree()["fine"], "fine");
    let names: Vec<_> = fs::read_dir(one.m.home())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        !names.iter().any(|n| n == "out")
            && fs::read_dir(one.m.home().join("elsewhere"))
                .unwrap()
                .next()
                .is_none(),
        "{names:?}"
    );
    assert!(
        one.tree()
            .values()
            .filter(|content| *content == "evil")
            .count()
            <= 1,
        "{:?}",
        one.tree()
    );
}

#[test]
fn entries_that_cannot_be_kept_there_are_named_and_the_rest_is_synced() {
    let (server, one, two) = two();
    one.put("empty", "");
    one.put("long", vec![7; 3_000_000]);
    one.put("fine", "x");
    fs::create_dir(one.at("nothing-in-it")).unwrap();
    std::os::unix::fs::symlink("fine", one.at("link")).unwrap();
    let ran = one.pass(&[]);
    assert!(
        ran.status != 0 && ran.out.contains("not in sync: 1 sent"),
        "{ran:?}"
    );
    for what in [
        "does not take empty files",
        "does not take a file of 3000000 bytes",
        "a symbolic link is not kept",
    ] {
        assert_eq!(ran.out.matches(what).count(), 1, "{what}: {ran:?}");
    }
    assert_eq!(stored(&server), of(&[("fine", "x")]));
    assert!(
        one.at("nothing-in-it").exists(),
        "what only this machine has is not deleted"
    );
    fs::remove_dir(one.at("nothing-in-it")).unwrap();
    one.put("nothing-in-it", "a file now");
    fs::create_dir(one.at("another")).unwrap();
    one.pass(&[]);
    fs::remove_dir(one.at("another")).unwrap();
    server.put("", "another", b"a file there", &json!({}));
    one.pass(&[]);
    two.sync();
    assert_eq!(
        (
            one.tree()["another"].as_str(),
            two.tree()["nothing-in-it"].as_str()
        ),
        ("a file there", "a file now")
    );
    server.remove("another");
    server.remove("nothing-in-it");
    one.pass(&[]);
    // a name that becomes too long is not deleted there because of that
    one.put("fine", vec![8; 3_000_000]);
    one.pass(&[]);
    two.sync();
    assert_eq!(
        (stored(&server), two.tree()),
        (of(&[("fine", "x")]), of(&[("fine", "x")]))
    );

    server.put("", "bad", b"right", &json!({}));
    server.spoil("bad");
    let ran = two.pass(&[]);
    assert!(
        ran.out.contains("is not what it has announced") && !two.at("bad").exists(),
        "{ran:?}"
    );
    server.put("", "bad", b"right again", &json!({}));
    two.sync();
    assert_eq!(two.tree()["bad"], "right again");
}

/// Nobody remembers there what a change has come to.
#[test]
fn an_answer_that_is_lost_makes_no_second_edit() {
    let (server, one, two) = two();
    one.put("f", "base");
    one.put("g", "moved");
    one.put("h", "deleted");
    one.put("i", "stays");
    one.sync();
    two.sync();
    let once = |what: &dyn Fn(), wants: &[(&str, &str)]| {
        what();
        // a request is sent again once, on a new connection
        server.lose_answers(2);
        one.pass(&[]);
        assert_eq!(server.answers_to_lose(), 0);
        one.sync();
        two.sync();
        let wants = of(wants);
        assert_eq!(
            (one.tree(), two.tree(), stored(&server)),
            (wants.clone(), wants.clone(), wants)
        );
    };
    once(
        &|| one.put("f", "edited"),
        &[
            ("f", "edited"),
            ("g", "moved"),
            ("h", "deleted"),
            ("i", "stays"),
        ],
    );
    once(
        &|| one.rename("g", "d/g"),
        &[
            ("d/g", "moved"),
            ("f", "edited"),
            ("h", "deleted"),
            ("i", "stays"),
        ],
    );
    once(
        &|| fs::remove_file(one.at("h")).unwrap(),
        &[("d/g", "moved"), ("f", "edited"), ("i", "stays")],
    );
    once(
        &|| one.put("new", "new"),
        &[
            ("d/g", "moved"),
            ("f", "edited"),
            ("i", "stays"),
            ("new", "new"),
        ],
    );
}

#[test]
fn a_server_that_is_not_there_is_said() {
    let (_server, one, _) = two();
    let mut command = one.m.command(["sync", "-w", one.at("").to_str().unwrap()]);
    command
        .env("XDG_CONFIG_HOME", one.m.home().join("none"))
        .env("MESYNC_SERVER_URL", "http://127.0.0.1:1");
    program::ran(&mut command).check(69, "connection refused");
}
