//! Tests of the spool, with real directories.

use super::*;
use std::time::Duration;

const ID: &str = "01a20036-fe28-7b4d-af6f-5b397f1b51b4";
const OTHER: &str = "01a20036-fe28-7b4d-af6f-5b397f1b0000";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_300_000 + seconds)
}

/// A spool with these files, as `queue/name` and content.
fn spool(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path()).unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn seen(base: &Path, queue: Queue) -> Vec<String> {
    let show = |e: &QueueEntry| {
        format!(
            "{} {:?} {:?}",
            disk::show(&e.name),
            e.message.as_ref().map(|m| m.priority),
            e.reason
        )
    };
    list(base, queue).unwrap().iter().map(show).collect()
}

#[test]
fn sent_messages_are_complete_and_in_order() {
    let dir = spool(&[]);
    let message = |priority| Message {
        kind: "x".into(),
        priority,
        ..Message::default()
    };
    for (i, p) in ["low", "normal", "high", "high"].iter().enumerate() {
        let (id, path) = send(
            dir.path(),
            message(crate::wire::Priority::parse(p).unwrap()),
            at(i as u64),
        )
        .unwrap();
        assert_eq!(
            path.file_name().unwrap().to_str(),
            Some(file_name(at(i as u64), id).as_str())
        );
    }
    let order: Vec<_> = list(dir.path(), Queue::Outbox)
        .unwrap()
        .iter()
        .map(|e| (e.message.as_ref().unwrap().priority.name(), e.time))
        .collect();
    assert_eq!(
        order,
        [
            ("high", at(2)),
            ("high", at(3)),
            ("normal", at(1)),
            ("low", at(0))
        ]
    );
    let huge = Some(serde_json::value::to_raw_value(&"x".repeat(MAX_MESSAGE)).unwrap());
    let refused = send(
        dir.path(),
        Message {
            payload: huge,
            ..message(Default::default())
        },
        at(9),
    )
    .unwrap_err();
    assert!(
        refused.kind == Kind::Usage && refused.what.contains("send a reference"),
        "{refused}"
    );
    assert_eq!(
        std::fs::read_dir(Queue::Outbox.dir(dir.path()))
            .unwrap()
            .count(),
        4
    );
}

#[test]
fn ids_of_one_machine_sort_by_time() {
    let new_id = |now| IdGenerator::default().next(now);
    let ids: Vec<Uuid> = (0..50)
        .map(|i| new_id(at(0) + Duration::from_micros(i)))
        .collect();
    assert!(ids.is_sorted() && new_id(SystemTime::UNIX_EPOCH - Duration::from_secs(5)) < ids[0]);
    let one_process = IdGenerator::default();
    let ids: Vec<Uuid> = (0..5_000).map(|_| one_process.next(at(0))).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "at one time");
}

#[test]
fn every_message_is_listed_with_its_problem() {
    let dir = spool(&[
        ("failed/b.json", "{\"type\":\"x\"}"),
        ("failed/b.json.reason", "hub said no\nsecond line"),
        ("failed/a.json", "nonsense"),
        ("failed/.c.json.tmp", ""),
        ("failed/d.part", ""),
        ("outbox/e.reason", "{\"type\":\"x\"}"),
    ]);
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("failed/link")).unwrap();
    let wants = [
        "a.json Err(\"it is not JSON: expected ident at line 1 column 2\") None",
        "b.json Ok(Normal) Some(\"hub said no\")",
        "link Err(\"it is not a regular file\") None",
    ];
    assert_eq!(seen(dir.path(), Queue::Failed), wants);
    // the suffix has a meaning only in failed/
    assert_eq!(
        seen(dir.path(), Queue::Outbox),
        ["e.reason Ok(Normal) None"]
    );
    assert_eq!(seen(&dir.path().join("nowhere"), Queue::Inbox), [""; 0]);
}

#[test]
fn a_message_is_found_by_id_prefix_suffix_or_file_name() {
    let (name, other) = (
        format!("inbox/20261121T103000_{ID}.json"),
        format!("sent/20261121T103000_{OTHER}.json"),
    );
    let dropped = format!("{{\"type\":\"x\",\"id\":\"{}\"}}", Uuid::from_u128(0xabcd));
    let dir = spool(&[
        (&name, "{}"),
        (&other, "{}"),
        ("outbox/drop\n.json", &dropped),
        ("failed/-x", ""),
    ]);
    let check = |what: &str, wants: &str| {
        let got = match find(dir.path(), OsStr::new(what)) {
            Ok(entries) => entries
                .iter()
                .map(|e| format!("{}/{}", e.queue.name(), disk::show(&e.name)))
                .collect::<Vec<_>>()
                .join(" "),
            Err(e) => e.to_string(),
        };
        assert!(got.starts_with(wants), "{what}: {got}");
    };
    check(ID, &name);
    check(&ID.to_uppercase().replace('-', ""), &name);
    check("51b4", &name);
    check("7f1b-0000", &other);
    check(
        "01a20036",
        "2 messages match 01a20036: 01a20036-fe28-7b4d-af6f-5b397f1b0000, 01a2",
    );
    check("1b4", "there is no message 1b4 (at least 4 characters");
    check(&name[6..], &name);
    check("abcd", "outbox/drop\\n.json");
    check("drop\n.json", "outbox/drop\\n.json");
    check("drop\\n.json", "outbox/drop\\n.json");
    check("-x", "failed/-x");
    check("../inbox", "there is no message ../inbox");
    std::fs::copy(
        dir.path().join(&name),
        dir.path().join(name.replace("inbox", "sent")),
    )
    .unwrap();
    check(ID, &format!("{name} {}", name.replace("inbox", "sent")));
}

#[test]
fn a_retried_message_keeps_its_id_and_its_time_limit_begins_anew() {
    let old = format!("20200101T000000_{ID}.json");
    let dir = spool(&[
        (&format!("failed/{old}"), "{\"type\":\"x\"}"),
        (&format!("failed/{old}.reason"), "too old"),
    ]);
    let entry = || find(dir.path(), OsStr::new(ID)).unwrap().remove(0);
    let failed = entry();
    let queued = retry(dir.path(), &failed, at(0)).unwrap();
    assert_eq!(
        queued,
        dir.path()
            .join("outbox")
            .join(file_name(at(0), ID.parse().unwrap()))
    );
    assert_eq!(
        std::fs::read_dir(dir.path().join("failed"))
            .unwrap()
            .count(),
        0
    );
    assert!(
        retry(dir.path(), &entry(), at(1))
            .unwrap_err()
            .what
            .contains("it is in outbox, not in failed")
    );
    // as after a crash between link and unlink, in the same second and later: nothing is lost, and the id is the
    // same
    let again = |now| {
        disk::link_or_copy(&queued, &failed.path).unwrap();
        retry(dir.path(), &failed, now).unwrap()
    };
    assert_eq!(again(at(0)), queued);
    assert_eq!(
        again(at(5)),
        queued.with_file_name(file_name(at(5), ID.parse().unwrap()))
    );
    assert!(!failed.path.exists());
    // another file of that name is not touched
    std::fs::write(&failed.path, "{\"type\":\"other\"}").unwrap();
    assert_eq!(
        retry(dir.path(), &failed, at(5)).unwrap_err().kind,
        Kind::Busy
    );
    assert!(failed.path.exists());
}

#[test]
fn an_invalid_message_stays_failed_until_it_is_corrected() {
    let dir = spool(&[
        ("failed/mine.json", "{\"payload\":1}"),
        ("failed/mine.json.reason", "no type"),
    ]);
    let entry = || list(dir.path(), Queue::Failed).unwrap().remove(0);
    let refused = retry(dir.path(), &entry(), at(0)).unwrap_err().to_string();
    assert!(
        refused.contains("cannot retry mine.json: it has no \"type\"")
            && refused.contains("correct or remove"),
        "{refused}"
    );
    std::fs::write(entry().path, "{\"type\":\"x\"}").unwrap();
    let queued = retry(dir.path(), &entry(), at(0)).unwrap();
    assert!(parse_file_name(queued.file_name().unwrap().to_str().unwrap()).is_some());
    assert_eq!(
        std::fs::read_dir(dir.path().join("failed"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn flush_removes_messages_and_their_reasons_and_nothing_else() {
    let dir = spool(&[
        ("failed/a", ""),
        ("failed/a.reason", ""),
        ("failed/gone.reason", ""),
        ("failed/.b.tmp", ""),
        ("inbox/c", ""),
        ("state/hooks/c.0", ""),
        ("outbox/d", ""),
    ]);
    std::fs::create_dir(dir.path().join("failed/dir")).unwrap();
    let now = crate::clock::now();
    let failed = flush(dir.path(), Queue::Failed, now).unwrap();
    assert_eq!(
        (failed.removed, failed.kept.len()),
        (1, 1),
        "{:?}",
        failed.kept
    );
    assert!(
        dir.path().join("failed/gone.reason").exists(),
        "its message may be about to come"
    );
    assert_eq!(
        flush(dir.path(), Queue::Failed, now + REASON_GRACE * 2)
            .unwrap()
            .removed,
        0
    );
    assert!(
        !dir.path().join("failed/gone.reason").exists()
            && dir.path().join("failed/.b.tmp").exists()
    );
    assert_eq!(flush(dir.path(), Queue::Inbox, now).unwrap().removed, 1);
    assert!(dir.path().join("state/hooks/c.0").exists());
    assert_eq!(
        flush(dir.path(), Queue::Outbox, now).unwrap_err().kind,
        Kind::Usage
    );
    assert!(dir.path().join("outbox/d").exists());
}
