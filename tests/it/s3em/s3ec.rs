//! The published `s3ec` 0.2.3, the real program, against our hub: each of its commands, and what its users suffered with the
//! server it was made for, as far as a hub can mend it.
//!
//! `make test` installs it under target/interop; S3EC names another one. Without it the tests say so and are left out, but
//! not where CI is set.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::s3ec::{
    Theirs, is_thorough, latest, listing, noise, set_mtime, streams, tree, world,
};
use crate::support::world::{World, wait_for};

#[test]
fn every_command_for_single_files_works() {
    let world = world();
    let Some(theirs) = Theirs::new(&world, "one") else {
        return;
    };
    let work = theirs.work();
    assert!(theirs.ok(&["ls"]).contains("No files found"));
    fs::write(work.join("a.txt"), "hello").unwrap();
    fs::set_permissions(work.join("a.txt"), fs::Permissions::from_mode(0o640)).unwrap();
    set_mtime(&work.join("a.txt"), 1_600_000_000);
    let id = theirs.upload("a.txt", "docs/2026").expect("new");
    assert_eq!(theirs.upload("a.txt", "docs/2026"), None, "nothing changed");
    fs::write(work.join("b"), "in the root").unwrap();
    theirs.upload("b", "");

    let info = theirs.info(&id);
    let of = |key: &str| info[key].as_str().unwrap();
    assert_eq!(
        (
            of("path"),
            of("name"),
            of("content_type"),
            info["size"].as_u64()
        ),
        ("docs/2026", "a.txt", "text/plain", Some(5))
    );
    assert_eq!(
        of("mtime").trim_end_matches("+00:00").trim_end_matches('Z'),
        "2020-09-13T12:26:40.123456789"
    );
    assert_eq!(info["mode"].as_u64(), Some(0o100_640));
    let all = theirs.ok(&["ls"]);
    assert!(
        all.contains("docs/2026/a.txt")
            && all.lines().count() == 2
            && all.lines().next().unwrap().ends_with("b"),
        "{all}"
    );
    assert_eq!(theirs.ok(&["ls", "--path", "docs"]).lines().count(), 1);
    assert_eq!(theirs.ok(&["ls", "--search", "a.t"]).lines().count(), 1);
    assert_eq!(
        theirs
            .ok(&["ls", "--limit", "1", "--offset", "1"])
            .lines()
            .count(),
        1
    );

    theirs.ok(&["download", &id, "-o", "back/again.txt"]);
    let meta = fs::metadata(work.join("back/again.txt")).unwrap();
    assert_eq!(
        (
            fs::read(work.join("back/again.txt")).unwrap(),
            meta.mode(),
            meta.mtime()
        ),
        (b"hello".to_vec(), 0o100_640, 1_600_000_000)
    );
    assert!(theirs.ok(&["rm", &id]).contains("Deleted"));
    assert_eq!(listing(&world).keys().collect::<Vec<_>>(), ["b"]);
    let gone = theirs.run(&["download", &id]);
    assert!(!gone.status.success(), "it was deleted");

    // deleted and made again with the same bytes: it is there again, under its id
    assert_eq!(
        theirs.upload("a.txt", "docs/2026").as_deref(),
        Some(id.as_str())
    );
    assert_eq!(
        listing(&world).keys().collect::<Vec<_>>(),
        ["b", "docs/2026/a.txt"]
    );
}

#[test]
fn files_of_any_length_and_name_are_returned_unchanged() {
    let world = world();
    let Some(theirs) = Theirs::new(&world, "one") else {
        return;
    };
    let most = if is_thorough() { 1 << 30 } else { 20 << 20 };
    for (i, length) in [
        1,
        1023,
        16 << 10,
        (16 << 10) + 1,
        64 << 10,
        (64 << 10) + 1,
        (8 << 20) - 1,
        8 << 20,
        (8 << 20) + 1,
        most,
    ]
    .iter()
    .enumerate()
    {
        fs::write(theirs.work().join("f"), noise(i as u64, *length)).unwrap();
        let id = theirs.upload("f", "lengths").expect("new bytes");
        theirs.ok(&["download", &id, "-o", "back"]);
        assert_eq!(theirs.info(&id)["size"].as_u64(), Some(*length as u64));
        assert!(
            fs::read(theirs.work().join("back")).unwrap()
                == fs::read(theirs.work().join("f")).unwrap(),
            "{length}"
        );
    }
    // s3ec itself refuses to send an empty file
    let names = [
        "with space",
        "it's \"quoted\"",
        "100%20",
        "semi;colon",
        "back\\slash",
        "new\nline",
        "Größe 😀",
        "-dash",
        "[x]{y}",
        "a&b=c+d",
        "#x?",
    ];
    for name in names {
        fs::write(theirs.work().join(name), name).unwrap();
        for _ in 0..2 {
            theirs.upload(name, "odd names/ü;%");
        }
    }
    let listed = listing(&world);
    let found: BTreeSet<&str> = listed
        .keys()
        .filter_map(|name| name.strip_prefix("odd names/ü;%/"))
        .collect();
    assert_eq!(found, names.into_iter().collect(), "each once");
    for name in names {
        let id = listed[&format!("odd names/ü;%/{name}")]["id"]
            .as_str()
            .unwrap();
        theirs.ok(&["download", id, "-o", "named"]);
        assert_eq!(
            fs::read_to_string(theirs.work().join("named")).unwrap(),
            name
        );
    }
    let refused = theirs.run(&["upload", "--path", "a/../../b", "with space"]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("422"),
        "{refused:?}"
    );
}

/// Their other machine saw 200 of 500 files. Each request of s3ec costs it 50 ms of CPU, so most of the files get there by our
/// own commands, and are on both machines; those that have to travel stand on the first and on the last page.
#[test]
fn thousands_of_files_are_listed_to_the_last_one() {
    let world = world();
    let (Some(one), Some(two)) = (Theirs::new(&world, "one"), Theirs::new(&world, "two")) else {
        return;
    };
    let count = if is_thorough() { 5000 } else { 2010 };
    let write = |theirs: &Theirs, n: usize| {
        let dir = theirs.work().join(format!("d{}", n / 100));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), format!("content {n}")).unwrap();
        set_mtime(&dir.join(format!("f{n}")), 1_600_000_000);
    };
    let rare = |n: usize| n < 5 || n + 5 >= count;
    for n in 0..count {
        write(&one, n);
        if !rare(n) {
            write(&two, n);
        }
    }
    let ours = world
        .hub_command()
        .current_dir(two.work())
        .args(["upload", "-q", "-r", "."])
        .output()
        .unwrap();
    assert!(ours.status.success(), "{ours:?}");
    assert_eq!(listing(&world).len(), count - 10);
    one.ok(&["sync", "-w", "."]);
    assert_eq!(listing(&world).len(), count);
    two.ok(&["sync", "-w", "."]);
    assert!(tree(&two.work()) == tree(&one.work()));
    let before = latest(&world);
    one.ok(&["sync", "-w", "."]);
    two.ok(&["sync", "-w", "."]);
    assert_eq!(
        latest(&world),
        before,
        "nothing changed, so nothing is counted"
    );
}

/// With their own server the first sync of a machine with old copies overwrote what others had changed since.
#[test]
fn a_stale_directory_does_not_undo_changes_of_others() {
    let world = world();
    let (Some(one), Some(two)) = (Theirs::new(&world, "one"), Theirs::new(&world, "two")) else {
        return;
    };
    fs::write(one.work().join("f"), "old").unwrap();
    set_mtime(&one.work().join("f"), 1_600_000_000);
    one.upload("f", "");
    two.ok(&["sync", "-w", "."]);
    // s3ec keeps whole seconds only; the stale copy is the one that was uploaded
    fs::write(two.work().join("f"), "new, and longer").unwrap();
    two.upload("f", "");
    one.ok(&["sync", "-w", "."]);
    let id = listing(&world)["f"]["id"].as_str().unwrap().to_string();
    assert_eq!(
        one.info(&id)["size"].as_u64(),
        Some(15),
        "two's version stands"
    );
}

#[test]
fn their_daemons_see_each_other_and_survive_a_restart_of_the_hub() {
    let mut world = world();
    let (Some(mut one), Some(mut two)) = (Theirs::new(&world, "one"), Theirs::new(&world, "two"))
    else {
        return;
    };
    let listening = |world: &World| streams(world) == 2;
    fs::create_dir(one.work().join("sub")).unwrap();
    fs::write(one.work().join("sub/before"), "was there before").unwrap();
    one.start();
    // between its look at the history and its stream a daemon of theirs is deaf
    wait_for("the hub has what was there before", &world, || {
        listing(&world).contains_key("sub/before")
    });
    two.start();
    wait_for("both daemons listen", &world, || listening(&world));
    let same = |world: &World, what: &str, one: &Theirs, two: &Theirs, wants: &[&str]| {
        wait_for(what, world, || {
            let trees = (tree(&one.work()), tree(&two.work()));
            trees.0 == trees.1 && trees.0.keys().map(String::as_str).collect::<Vec<_>>() == wants
        });
    };
    same(&world, "what was there before", &one, &two, &["sub/before"]);
    // renamed in: s3ec would send the half of a file that is still written
    fs::write(one.home.join("x"), "from one").unwrap();
    fs::rename(one.home.join("x"), one.work().join("x")).unwrap();
    same(&world, "one's new file", &one, &two, &["sub/before", "x"]);
    fs::write(two.home.join("y"), noise(1, 3 << 20)).unwrap();
    fs::rename(two.home.join("y"), two.work().join("sub/y")).unwrap();
    same(
        &world,
        "two's new file of 3 MB",
        &one,
        &two,
        &["sub/before", "sub/y", "x"],
    );
    fs::remove_file(two.work().join("x")).unwrap();
    same(&world, "two's delete", &one, &two, &["sub/before", "sub/y"]);

    // their tokens outlive the hub that gave them, and what happened meanwhile is in the history
    world.kill_hub();
    world.start_hub();
    wait_for("both daemons listen again", &world, || listening(&world));
    fs::write(one.home.join("z"), "after the restart").unwrap();
    fs::rename(one.home.join("z"), one.work().join("z")).unwrap();
    same(
        &world,
        "one's file after the restart",
        &one,
        &two,
        &["sub/before", "sub/y", "z"],
    );

    two.stop();
    fs::write(one.home.join("w"), "while two was away").unwrap();
    fs::rename(one.home.join("w"), one.work().join("w")).unwrap();
    wait_for("the hub has w", &world, || {
        listing(&world).contains_key("w")
    });
    two.start();
    same(
        &world,
        "what happened while two was away",
        &one,
        &two,
        &["sub/before", "sub/y", "w", "z"],
    );
}

#[test]
fn a_key_with_few_rights_lets_it_see_its_directory_alone() {
    let world = world();
    let Some(full) = Theirs::new(&world, "full") else {
        return;
    };
    for name in ["open", "secret"] {
        fs::write(full.work().join(name), format!("{name} content")).unwrap();
    }
    let open = full.upload("open", "a").unwrap();
    let secret = full.upload("secret", "b").unwrap();
    let mut limited = Theirs::with(&world, "limited", &["--read-only", "--files", "a"]).unwrap();
    let listed = limited.ok(&["ls"]);
    assert!(
        listed.contains("a/open") && listed.lines().count() == 1,
        "{listed}"
    );
    assert!(limited.ok(&["ls", "--path", "b"]).contains("No files"));
    limited.ok(&["download", &open, "-o", "open"]);
    let back = fs::read(limited.work().join("open")).unwrap();
    assert_eq!(back, b"open content");
    for args in [
        &["download", &secret, "-o", "stolen"][..],
        &["info", &secret],
        &["rm", &secret],
        &["rm", &open],
        &["upload", "--path", "a", "--", "open"],
        &["upload", "--path", "b", "--", "open"],
    ] {
        let out = limited.run(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success(), "{args:?}: {said}");
        assert!(!said.contains("secret"), "{args:?}: {said}");
    }
    // its daemon takes the part that it may read, and hears of that alone
    limited.start();
    wait_for("its stream", &world, || streams(&world) > 0);
    fs::write(full.work().join("secret"), "another secret").unwrap();
    full.upload("secret", "b").unwrap();
    fs::write(full.work().join("later"), "later content").unwrap();
    full.upload("later", "a").unwrap();
    let has = |name: &str| {
        let tree = tree(&limited.work());
        tree.keys().any(|path| path.ends_with(name))
    };
    wait_for("the later file", &world, || has("later"));
    assert!(!has("secret"), "{:?}", tree(&limited.work()).keys());
    let log = fs::read_to_string(limited.home.with_extension("log")).unwrap();
    assert!(!log.contains("secret"), "{log}");
    assert_eq!(
        listing(&world).keys().collect::<Vec<_>>(),
        ["a/later", "a/open", "b/secret"]
    );
}
