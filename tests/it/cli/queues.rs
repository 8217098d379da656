//! Messages in their queues, as commands write, list, repeat and name them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use crate::support::program::{Mesync, ran};

#[test]
fn send_prints_the_id_and_keeps_the_payload_letter_for_letter() {
    let m = Mesync::new();
    let payload = "{\"n\": 12345678901234567890.000001, \"b\": 1, \"a\": \"\\u00e9\"}";
    let id = m.ok([
        "send",
        "task.event",
        "--payload",
        payload,
        "--target",
        "Web-1",
        "--priority=high",
        "--ttl",
        "60",
    ]);
    let names = m.names("outbox");
    assert!(
        names.len() == 1 && names[0].ends_with(&format!("_{id}.json")),
        "{names:?}"
    );
    let text = std::fs::read_to_string(m.base().join("outbox").join(&names[0])).unwrap();
    assert!(
        text.contains(payload)
            && text.contains("\"source\":\"machine-1\",\"target\":\"web-1\",\"priority\":\"high\""),
        "{text}"
    );
    let mode = |path: &str| std::fs::metadata(m.base().join(path)).unwrap().mode() & 0o777;
    assert_eq!(
        (
            mode("."),
            mode("outbox"),
            mode(&format!("outbox/{}", names[0]))
        ),
        (0o700, 0o700, 0o600)
    );

    assert_eq!(
        m.feed(["send", "x", "--payload-file", "-"], b"[1,\n2]\n")
            .status,
        0
    );
    let file = m.put("payload", "7");
    assert_eq!(
        m.ok([
            "send".as_ref(),
            "x".as_ref(),
            "--payload-file".as_ref(),
            file.as_os_str()
        ])
        .len(),
        36
    );
    assert_eq!(m.ok(["send", "x"]).len(), 36);

    m.run(["send", "x", "--payload", "{\n\"a\":}"]).check(
        2,
        "--payload is not JSON: expected value at line 2 column 5",
    );
    m.run(["send", "x", "--payload", "hello"])
        .check(2, "a text needs double quotes of its own");
    m.run(["send", "x", "--payload", "1", "--payload-file", "-"])
        .check(2, "exclude each other");
    m.run(["send", "x", "--payload-file", "/nonexistent"])
        .check(74, "cannot read /nonexistent: no such file");
    m.feed(["send", "x", "--payload-file", "-"], b"\"a\n\xff\"")
        .check(2, "standard input is not UTF-8 at line 2 column 1");
    m.feed(["send", "x", "--payload-file", "-"], &[b'1'; 300_000])
        .check(2, "has more than 262144 bytes (send a reference");
    m.feed(["send", "x", "--payload-file", "-"], &[b'1'; 262_100])
        .check(2, "a message may have 262144");
    m.run(["send", "../x"])
        .check(2, "\"type\" must be 1 to 64 letters");
    m.run(["send", "mesync.held"])
        .check(2, "made by mesync itself");
    m.run(["send", "x", "--target", "a b"])
        .check(2, "bad value for --target: a host name is");
    m.run(["send", "x", "--ttl", "0"]).check(
        2,
        "\"ttl\" must be a whole number of seconds from 1 to 604800",
    );
    m.run(["send", "x", "--ttl", "soon"])
        .check(2, "bad value for --ttl");
    assert_eq!(m.names("outbox").len(), 4);
}

#[test]
fn files_are_named_in_a_way_that_can_be_understood() {
    let m = Mesync::new();
    m.run(["upload"])
        .check(2, "upload needs FILE (see mesync help upload)");
    m.run(["rm"]).check(2, "rm needs ID|PATH");
    m.run(["download", "a", "b", "c"])
        .check(2, "download does not take \"c\"");
    m.run(["upload", "a", "b", "--name", "c"])
        .check(2, "--name is for one file");
    m.run(["upload", "a", "--path", "../b"])
        .check(2, "bad value for --path: the name leads elsewhere");
    m.run(["ls", "--limit", "some"])
        .check(2, "bad value for --limit: not a whole number");
    m.run(["ls", "--all", "--limit", "1"])
        .check(2, "exclude each other");
    m.run(["restore", "a", "--rev", "x"])
        .check(2, "bad value for --rev");
    m.run(["events", "--since", "soon"])
        .check(2, "neither a time such as");
    m.run(["login", "--api-key", "short"])
        .check(2, "cannot use the key: a key is 8 to 512");
    m.run(["login", "--api-key", "k", "--api-key-file", "f"])
        .check(2, "exclude each other");
    ran(m
        .command(["login", "--api-key", "a-long-enough-key"])
        .env("HOME", "relative"))
    .check(78, "set HOME or XDG_CONFIG_HOME");
    // what one cannot read is no reason for messages to stop
    let login = m.home().join(".config/s3ec/config.toml");
    std::fs::create_dir_all(login.parent().unwrap()).unwrap();
    std::fs::write(&login, "nonsense").unwrap();
    m.run(["ls"])
        .check(78, "line 1 is not TOML (mesync login --server URL)");
    m.run(["send", "x"]).check(0, "");
}

#[test]
fn a_queue_is_a_table_or_one_object_a_line() {
    let m = Mesync::new();
    assert_eq!(m.ok(["list", "inbox"]), "");
    let id = m.ok(["send", "x"]);
    let table = m.ok(["list", "outbox"]);
    assert!(
        table.starts_with("TIME ") && table.lines().count() == 2,
        "{table}"
    );
    let short = table.split(' ').next_back().unwrap();
    assert_eq!((short.len(), id.ends_with(short)), (8, true), "{table}");
    assert!(m.ok(["show", short]).contains(&id));
    assert!(
        table.contains(" 167 B ") && m.ok(["list", "outbox", "--bytes"]).contains(" 167 "),
        "{table}"
    );

    let name = "20261121T103000_01a20036-fe28-7b4d-af6f-5b397f1b51b4.json";
    m.put(
        format!("inbox/{name}"),
        "{\"type\":\"task.event\",\n\"source\":\"web-1\",\"payload\":[1,\n2.0]}",
    );
    m.put(format!("state/hooks/{name}.hello.failed"), "");
    m.put("inbox/odd", "{");
    let json = m.run(["list", "inbox", "--json"]).json();
    let keys = [
        "error",
        "file",
        "hook_failed",
        "id",
        "priority",
        "queue",
        "reason",
        "size",
        "source",
        "target",
        "time",
        "type",
    ];
    assert!(
        json.iter().all(|o| o.as_object().unwrap().keys().eq(keys)),
        "{json:?}"
    );
    assert_eq!(
        (&json[0]["type"], &json[0]["time"], &json[0]["hook_failed"]),
        (
            &"task.event".into(),
            &"2026-11-21T10:30:00.000Z".into(),
            &true.into()
        )
    );
    assert!(
        json[1]["error"]
            .as_str()
            .unwrap()
            .starts_with("it is not JSON"),
        "{json:?}"
    );
    assert!(
        m.ok(["list", "inbox"])
            .lines()
            .nth(1)
            .unwrap()
            .ends_with("51b4  hook failed")
    );

    let shown = m.run(["show", "51b4", "--json"]);
    assert!(
        shown.json().len() == 1
            && shown
                .out
                .contains(r#""message":{"type":"task.event","source":"web-1","payload":[1,2.0]}"#),
        "{shown:?}"
    );
    assert!(
        m.ok(["show", "51b4"])
            .ends_with("{\n  \"type\": \"task.event\",\n  \"source\": \"web-1\",\n  \"payload\": [\n    1,\n    2.0\n  ]\n}")
    );
    assert!(m.ok(["show", "odd"]).ends_with("\n\n{"));
    assert_eq!(
        m.run(["send", "x", "--json"]).json()[0]["id"]
            .as_str()
            .map(str::len),
        Some(36)
    );

    // of a version that recorded neither the order nor the reason
    let hooks = m.run(["list", "hooks", "--json"]).json();
    let keys = [
        "file",
        "hook_failed",
        "id",
        "priority",
        "queue",
        "reason",
        "runs",
        "size",
        "source",
        "time",
        "type",
    ];
    assert!(
        hooks.len() == 1 && hooks[0].as_object().unwrap().keys().eq(keys),
        "{hooks:?}"
    );
    assert_eq!(
        (&hooks[0]["type"], &hooks[0]["reason"]),
        (
            &"hello".into(),
            &"it failed; the hook was removed: mesync flush hooks".into()
        )
    );
    m.run(["retry", "--hooks", "51b4"]).check(
        1,
        "hooks/hello (put it there, or give the hook up: mesync flush hooks)",
    );
    let hook = m.put("hooks/hello", "#!/bin/sh\n");
    std::fs::set_permissions(hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert!(
        m.ok(["list", "hooks"])
            .lines()
            .nth(1)
            .unwrap()
            .ends_with("51b4  failed: it failed")
    );
    m.run(["flush", "sent", "51b4"])
        .check(2, "an ID can be given for hooks only");
    m.run(["flush", "hooks", "0000"]).check(
        1,
        "no hook of a message 0000 has failed (see mesync list hooks)",
    );
    let json = m.run(["retry", "--hooks", "51b4", "--json"]).json();
    assert_eq!(
        (json[0]["done"].as_bool(), m.names("state/hooks")),
        (Some(true), vec![format!("{name}.hello.0")])
    );
    m.run(["retry", "--hooks", "51b4"])
        .check(1, "no hook of a message 51b4 has failed");
    assert_eq!(m.run(["flush", "inbox", "--json"]).json()[0]["removed"], 2);
    m.run(["flush", "outbox"]).check(2, "they would be lost");
    assert_eq!(m.names("outbox").len(), 2);
}

#[test]
fn failed_messages_are_retried_one_by_one_or_all() {
    let m = Mesync::new();
    for (i, content) in ["{\"type\":\"x\"}", "{\"type\":\"y\"}", "{}"]
        .iter()
        .enumerate()
    {
        let name = format!("failed/20200101T000000_01a20036-fe28-7b4d-af6f-5b397f1b000{i}.json");
        m.put(&name, content);
        m.put(format!("{name}.reason"), "hub said no\n");
    }
    let table = m.ok(["list", "failed"]);
    assert!(
        table.lines().count() == 4 && table.lines().skip(1).all(|l| l.ends_with("hub said no")),
        "{table}"
    );
    assert_eq!(
        m.ok(["retry", "0001"]),
        "01a20036-fe28-7b4d-af6f-5b397f1b0001 back in the outbox\n1 message back in the outbox"
    );
    m.run(["retry", "0001"])
        .check(1, "it is in outbox, not in failed");
    let all = m.run(["retry"]);
    all.check(
        1,
        "mesync: cannot retry 01a20036-fe28-7b4d-af6f-5b397f1b0002: it has no \"type\"",
    );
    assert!(
        all.out.ends_with("1 message back in the outbox\n"),
        "{all:?}"
    );
    assert_eq!((m.names("failed").len(), m.names("outbox").len()), (2, 2));
    assert_eq!(m.ok(["flush", "failed"]), "1 message removed from failed");
    assert_eq!(m.names("failed").len(), 0);
    assert_eq!(m.ok(["retry"]), "");
}

#[test]
fn odd_names_are_shown_escaped_and_can_be_named() {
    let m = Mesync::new();
    let long = "n".repeat(255);
    let names = [
        &b"a\nb"[..],
        b"quo\"te's",
        b"\xff\xfe",
        b"-dash",
        b"--json",
        b"\x1b[31mred",
        long.as_bytes(),
    ];
    for name in names {
        m.put("failed/x", "{\"type\":\"x\"");
        let to = m
            .base()
            .join("failed")
            .join(OsString::from_vec(name.to_vec()));
        std::fs::copy(m.base().join("failed/x"), to).unwrap();
    }
    std::fs::remove_file(m.base().join("failed/x")).unwrap();
    let table = m.ok(["list", "failed"]);
    assert_eq!(table.lines().count(), 1 + names.len(), "{table}");
    for shown in [
        "a\\nb",
        "quo\\\"te\\'s",
        "\u{fffd}\u{fffd}",
        "-dash",
        "\\u{1b}[31mred",
        &long,
    ] {
        assert!(table.contains(shown), "{shown}: {table}");
        assert!(m.ok(["show", "--", shown]).ends_with("{\"type\":\"x\""));
    }
    assert_eq!(
        m.run(["list", "failed", "--json"]).json().len(),
        names.len()
    );
    for name in names {
        let name = OsString::from_vec(name.to_vec());
        m.run([OsString::from("retry"), "--".into(), name])
            .check(1, "it is not JSON");
    }
    assert_eq!(m.ok(["flush", "failed"]), "7 messages removed from failed");
}
