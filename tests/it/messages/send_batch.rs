//! `send --batch`: each line of standard input becomes a message, and what was printed is on the disk.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use crate::support::program::Mesync;

/// The messages of the outbox in the order of their names, as JSON.
fn outbox(m: &Mesync) -> Vec<serde_json::Value> {
    let read = |name: &String| std::fs::read(m.base().join("outbox").join(name)).unwrap();
    let names = m.names("outbox");
    let visible = names.iter().filter(|name| !name.starts_with('.'));
    visible
        .map(|name| serde_json::from_slice(&read(name)).unwrap())
        .collect()
}

fn start(m: &Mesync) -> Child {
    let mut command = m.command(["send", "--batch"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn each_line_is_a_message_and_its_id_is_printed_in_the_same_order() {
    let m = Mesync::new();
    let id = "0198c0de-0000-7000-8000-000000000001";
    let input = format!(
        r#"{{"type":"a","payload":{{"n" : 1.50}},"target":"web-1","priority":"high","ttl":9}}

  {{"type":"b","id":"{id}","source":"other","new":1}}
{{"type":"c"}}"#
    );
    let ran = m.feed(["send", "--batch"], input.as_bytes());
    ran.check(0, "");
    let printed: Vec<&str> = ran.out.lines().collect();
    let sent = outbox(&m);
    let find = |id: &str| sent.iter().find(|message| message["id"] == id).unwrap();
    assert_eq!((printed.len(), printed[1]), (3, id));
    let (a, b, c) = (find(printed[0]), find(id), find(printed[2]));
    assert_eq!((&a["type"], &a["target"]), (&"a".into(), &"web-1".into()));
    assert_eq!((&a["priority"], &a["ttl"]), (&"high".into(), &9.into()));
    assert_eq!((&b["source"], &b["new"]), (&"other".into(), &1.into()));
    assert_eq!(
        (&c["type"], &c["source"]),
        (&"c".into(), &"machine-1".into())
    );
    let text = |name: &String| std::fs::read_to_string(m.base().join("outbox").join(name)).unwrap();
    assert!(
        m.names("outbox")
            .iter()
            .any(|n| text(n).contains(r#"{"n" : 1.50}"#))
    );
    let json = m
        .feed(["send", "--batch", "--json"], b"{\"type\":\"d\"}\n")
        .json();
    assert!(std::path::Path::new(json[0]["path"].as_str().unwrap()).exists());
    m.feed(["send", "--batch"], b"").check(0, "");
    assert_eq!(outbox(&m).len(), 4);
}

#[test]
fn a_line_that_is_no_message_ends_the_batch_and_loses_nothing_before_it() {
    let long = format!(
        "{{\"type\":\"x\",\"payload\":\"{}\"}}",
        "y".repeat(256 * 1024)
    );
    let twice = r#"{"type":"x","id":"0198c0de-0000-7000-8000-000000000001"}"#;
    for (bad, why) in [
        ("nonsense", "cannot send line 3: "),
        ("[1]", "cannot send line 3: it must be one JSON object"),
        ("{\"target\":\"a\"}", "cannot send line 3: "),
        ("{\"type\":\"a/b\"}", "cannot send line 3: "),
        (
            "{\"type\":\"x\",\"target\":\"a b\"}",
            "cannot send line 3: ",
        ),
        ("{\"type\":\"x\"", "cannot send line 3: "),
        ("\u{0}", "cannot send line 3: "),
        (&long, "cannot send line 3: it has more than 262144 bytes"),
        (
            twice,
            "cannot send line 3: id 0198c0de-0000-7000-8000-000000000001 is there twice",
        ),
    ] {
        let m = Mesync::new();
        let input = format!("{twice}\n{{\"type\":\"y\"}}\n{bad}\n{{\"type\":\"z\"}}\n");
        let ran = m.feed(["send", "--batch"], input.as_bytes());
        ran.check(2, why);
        ran.check(
            2,
            "the 2 messages before it are in the outbox, and their ids were printed",
        );
        assert_eq!((ran.out.lines().count(), outbox(&m).len()), (2, 2), "{bad}");
        assert!(m.names("outbox").iter().all(|name| !name.starts_with('.')));
    }
    let m = Mesync::new();
    m.feed(["send", "--batch", "x"], b"")
        .check(2, "--batch does not take");
    m.feed(["send", "--batch", "--ttl", "7"], b"")
        .check(2, "--batch and --ttl exclude each other");
    m.run(["send"]).check(2, "send needs TYPE");
    m.run(["send", "a", "b"]).check(2, "send does not take");
}

#[test]
fn a_single_line_is_sent_at_once() {
    let m = Mesync::new();
    let mut child = start(&m);
    let (mut input, mut ids) = (
        child.stdin.take().unwrap(),
        BufReader::new(child.stdout.take().unwrap()).lines(),
    );
    for n in 1..=3 {
        // half a line is waited for
        write!(input, "{{\"type\":\"x\",").unwrap();
        writeln!(input, "\"payload\":{n}}}").unwrap();
        let id = ids.next().unwrap().unwrap();
        assert!(
            outbox(&m)
                .iter()
                .any(|message| message["id"] == id.as_str()),
            "{n}"
        );
    }
    drop(input);
    assert!(child.wait().unwrap().success() && ids.next().is_none());
}

#[test]
fn printed_ids_survive_a_kill() {
    let m = Mesync::new();
    let mut child = start(&m);
    let (mut input, mut output) = (
        child.stdin.take().unwrap(),
        BufReader::new(child.stdout.take().unwrap()).lines(),
    );
    let feeder = std::thread::spawn(move || {
        // ends when the command is killed
        while writeln!(
            input,
            "{{\"type\":\"x\",\"payload\":\"{}\"}}",
            "y".repeat(100)
        )
        .is_ok()
        {}
    });
    let mut printed: Vec<String> = output.by_ref().take(3_000).map(Result::unwrap).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    printed.extend(output.map_while(Result::ok).filter(|id| id.len() == 36));
    feeder.join().unwrap();
    let there: std::collections::HashSet<String> = outbox(&m)
        .iter()
        .map(|message| message["id"].as_str().unwrap().to_string())
        .collect();
    assert!(
        printed.iter().all(|id| there.contains(id)),
        "{} printed",
        printed.len()
    );
}
