//! Any name travels, or is said not to; and which names travel is for rules, prefixes and modes to say.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::support::files::Hub;
use crate::support::tree::{Synced, difference, records, settled};
use crate::support::world::wait_for;

#[test]
fn every_name_travels_or_is_named_as_left_out() {
    let hub = Hub::start();
    let (alpha, beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    let long = ["x".repeat(255), "é".repeat(127), "y".repeat(251) + ".txt"];
    // 1,024 bytes are the most of a whole name
    let deep = |length: usize| -> String {
        let dirs = "d".repeat(100) + "/";
        let mut path = dirs.repeat(length / 101);
        path += &"f".repeat(length - path.len());
        path
    };
    let deepest = [deep(1000), deep(1023), deep(1024)];
    let odd = [
        "a b",
        " leading",
        "trailing ",
        "new\nline",
        "tab\t",
        "cr\r",
        "'",
        "\"",
        "`",
        "$(id)",
        "-rf",
        "--",
        "*",
        "?",
        "\\",
        "a\\b",
        "~",
        "#",
        "%20",
        "%",
        "&",
        ";",
        "con",
        "NUL",
        "com1.txt",
        "aux ",
        "...",
        "..a",
        "a.",
        ".hidden",
        "é",
        "e\u{301}",
        "😀",
        "\u{202e}rtl",
        "\u{feff}",
        "\x01\x02\x1b[31m",
        "\x7f",
        ".mesync-x",
        ".mesync-0123456789abcdef",
        ".mesyncx",
        "x.mesync-0.tmp",
        "a.tmp",
        "sync-conflict",
        "a.sync-conflict-20260101-000000-00000000.txt",
        "A",
        "a",
        "[a]",
        "{a,b}",
        "a:b",
        "a|b",
        "<a>",
        "null",
        "!x",
    ];
    let all = odd.iter().map(|n| n.to_string()).chain(long).chain(deepest);
    let all: Vec<String> = all.collect();
    for (n, name) in all.iter().enumerate() {
        // as a file, and as a directory with one in it
        alpha.put(name, format!("{n}"));
        if name.len() < 256 {
            alpha.put(format!("dirs/{name}/{name}"), format!("in {n}"));
        }
    }
    alpha.pass();
    let said = beta.pass();
    assert_eq!(
        difference(&alpha.tree().unwrap(), &beta.tree().unwrap()),
        "",
        "{said}"
    );
    assert!(beta.names().len() > 2 * odd.len());
    for name in &all {
        alpha.put(name, "edited");
    }
    alpha.pass();
    beta.pass();
    assert!(all.iter().all(|name| beta.text(name) == "edited"));

    // what cannot travel
    let left_out = [&b"\xff\xfe"[..], b"latin-\xe9.txt", b"\xed\xa0\x80"];
    for name in left_out {
        fs::write(alpha.at(OsStr::from_bytes(name)), "x").unwrap();
    }
    alpha.put(".mesync-0123456789abcdef.tmp", "ours");
    let too_deep = format!("{}{}", ("e".repeat(100) + "/").repeat(10), "g".repeat(20));
    alpha.put(&too_deep, "x");
    let _socket = std::os::unix::net::UnixListener::bind(alpha.at("socket")).unwrap();
    let (_, said) = alpha.try_pass(&[]);
    assert_eq!(
        (
            &said["skipped_names"],
            &said["skipped_special"],
            &said["in_sync"]
        ),
        (&4.into(), &1.into(), &true.into()),
        "{said}"
    );
    assert_eq!(said["first_skipped"].as_array().unwrap().len(), 2, "{said}");
    let told = alpha.told(&[]);
    assert!(
        told.contains("socket") && told.contains("4 names skipped"),
        "{told}"
    );
    beta.pass();
    assert!(
        !beta.has("socket")
            && !beta.has(&too_deep)
            && left_out
                .iter()
                .all(|name| !beta.has(OsStr::from_bytes(name)))
    );
}

#[test]
fn rules_apply_both_ways_and_may_change() {
    let hub = Hub::start();
    let (mut alpha, mut beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    for s in [&mut alpha, &mut beta] {
        s.start();
    }
    alpha.put("keep.txt", "keep");
    alpha.put("build/out.o", "object");
    alpha.put("a.log", "log");
    wait_for("all arrive", &hub.world, || {
        beta.has("build/out.o") && beta.has("a.log") && beta.has("keep.txt")
    });
    settled(&hub.world, &[&alpha, &beta]);
    // from now on they are alpha's and beta's own, on both, and on the hub
    alpha.put(".mesyncignore", "*.log\n/build/\n");
    wait_for("the rules arrive", &hub.world, || beta.has(".mesyncignore"));
    settled(&hub.world, &[&alpha, &beta]);
    alpha.put("a.log", "alpha's");
    alpha.put("build/new.o", "new");
    beta.remove("build/out.o");
    beta.put("probe", "x");
    wait_for("what is not ignored travels", &hub.world, || {
        alpha.has("probe")
    });
    assert_eq!(
        (
            beta.text("a.log"),
            beta.has("build/new.o"),
            alpha.text("build/out.o")
        ),
        ("log".into(), false, "object".into())
    );
    assert!(
        records(&hub).contains_key("build/out.o"),
        "a newly ignored file is not deleted"
    );
    // and then not any more: nothing is lost
    beta.remove(".mesyncignore");
    wait_for("the rules are gone", &hub.world, || {
        !alpha.has(".mesyncignore")
    });
    wait_for("what was ignored travels", &hub.world, || {
        beta.text("build/new.o") == "new" && beta.text("build/out.o") == "object"
    });
    wait_for("both logs are there", &hub.world, || {
        [&alpha, &beta].iter().all(|s| {
            s.names()
                .iter()
                .filter(|n| n.contains("a."))
                .any(|n| s.text(n) == "alpha's")
        })
    });
    settled(&hub.world, &[&alpha, &beta]);
}

#[test]
fn changes_are_synced_one_way_if_set() {
    let hub = Hub::start();
    let (alpha, beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    let (sends, takes) = (
        Synced::new(&hub.world, "sends").with(&["--send-only"]),
        Synced::new(&hub.world, "takes").with(&["--receive-only"]),
    );
    alpha.put("f", "one");
    alpha.pass();
    sends.put("s", "from sends");
    takes.put("t", "from takes");
    for machine in [&sends, &takes, &alpha, &takes] {
        machine.try_pass(&[]);
    }
    assert_eq!(
        (
            sends.text("f"),
            takes.text("f"),
            alpha.text("s"),
            alpha.text("t")
        ),
        ("-".into(), "one".into(), "from sends".into(), "-".into())
    );
    assert_eq!(
        (takes.text("s"), takes.text("t")),
        ("from sends".into(), "from takes".into())
    );
    // deletes too
    takes.remove("f");
    alpha.remove("s");
    for machine in [&takes, &alpha, &sends, &beta] {
        machine.try_pass(&[]);
    }
    assert_eq!(
        (beta.text("f"), sends.text("s"), alpha.text("f")),
        ("one".into(), "from sends".into(), "one".into())
    );
    // an edit of both: the receiver keeps its own beside it
    takes.put("f", "mine");
    alpha.put("f", "two");
    for machine in [&alpha, &takes, &alpha] {
        machine.try_pass(&[]);
    }
    assert_eq!(
        (takes.contents("f"), alpha.contents("f")),
        (
            vec!["mine".to_string(), "two".into()],
            vec!["two".to_string()]
        )
    );
}

#[test]
fn one_daemon_keeps_several_directories_each_with_its_place_on_the_hub() {
    let hub = Hub::start();
    let mut alpha = Synced::new(&hub.world, "alpha");
    let mut beta = Synced::new(&hub.world, "beta").with(&["--remote", "photos/2026"]);
    let all = Synced::new(&hub.world, "all");
    let second = hub.world.dir.path().join("second");
    fs::create_dir(&second).unwrap();
    fs::create_dir_all(&alpha.machine.base).unwrap();
    let table = |dir: &std::path::Path, remote: &str| {
        format!(
            "[[watch]]\npath = \"{}\"\nremote = \"{remote}\"\n",
            dir.display()
        )
    };
    let config =
        table(&alpha.dir, "docs") + &table(&second, "photos/2026") + "ignore = [\"*.raw\"]\n";
    fs::write(alpha.machine.base.join("config.toml"), config).unwrap();
    alpha.machine.start_with(&["daemon", "-v"]);
    beta.start();
    alpha.put("d/letter", "dear");
    fs::write(second.join("picture"), "1").unwrap();
    fs::write(second.join("picture.raw"), "1").unwrap();
    beta.put("e/other", "2");
    wait_for("each arrives where it belongs", &hub.world, || {
        fs::read_to_string(second.join("e/other")).is_ok_and(|t| t == "2")
            && beta.text("picture") == "1"
    });
    wait_for("the hub has all", &hub.world, || records(&hub).len() == 3);
    all.pass();
    assert_eq!(
        (all.text("docs/d/letter"), all.text("photos/2026/e/other")),
        ("dear".into(), "2".into())
    );
    assert!(!beta.has("picture.raw") && !beta.has("d") && !alpha.has("e"));
    all.remove("photos/2026/picture");
    all.put("photos/other-year", "not in it");
    all.pass();
    wait_for("the delete arrives", &hub.world, || {
        !second.join("picture").exists() && !beta.has("picture")
    });
    assert!(!beta.has("other-year") && !second.join("other-year").exists());
    assert_eq!(alpha.machine.stop(), Some(0));
}

#[test]
fn an_unsyncable_path_that_is_gone_is_no_longer_named() {
    let hub = Hub::start();
    let remote = [
        "r".repeat(250),
        "r".repeat(250),
        "r".repeat(250),
        "r".repeat(200),
    ]
    .join("/");
    let mut alpha = Synced::new(&hub.world, "alpha").with(&["--remote", &remote]);
    alpha.put(
        format!("d/{}", "x".repeat(200)),
        "too long with what is before it there",
    );
    alpha.put("fine", "fine");
    alpha.start();
    let status = || {
        let out = alpha.machine.run(&["status", "--json"]);
        let said: serde_json::Value =
            serde_json::from_slice(out.stdout.split(|b| *b == b'\n').next().unwrap())
                .unwrap_or_default();
        said["directories"][0].clone()
    };
    wait_for("it is named", &hub.world, || {
        status()["unsyncable_count"] == 1
    });
    fs::rename(alpha.at("d"), hub.world.dir.path().join("elsewhere")).unwrap();
    wait_for("the machine is healthy", &hub.world, || {
        status()["unsyncable_count"] == 0 && status()["condition"] == "in-sync"
    });
}

#[test]
fn a_pipe_that_appears_while_a_daemon_runs_is_left_out_like_any_other() {
    let hub = Hub::start();
    let (mut alpha, mut beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    alpha.start();
    beta.start();
    alpha.put("before", "x");
    wait_for("it arrives", &hub.world, || beta.has("before"));
    assert!(
        std::process::Command::new("mkfifo")
            .arg(alpha.at("pipe"))
            .status()
            .unwrap()
            .success()
    );
    alpha.put("after", "x");
    wait_for("what comes after it arrives", &hub.world, || {
        beta.has("after")
    });
    wait_for("nobody waits for the pipe", &hub.world, || {
        alpha.condition() == "in-sync" && alpha.status()["unsyncable_count"] == 0
    });
    alpha.stop();
    fs::remove_file(alpha.at("before")).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(alpha.at("before"))
            .status()
            .unwrap()
            .success()
    );
    let (status, said) = alpha.try_pass(&[]);
    assert!(
        status == 1 && said["unsyncable"][0]["path"] == "before",
        "a pipe in a file's place is no delete: {said}"
    );
    assert!(beta.has("before"));
}
