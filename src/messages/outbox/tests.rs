//! The outbox without a hub: messages that are read again, and messages that are held.

use std::fs::{File, FileTimes};

use super::*;
use crate::wire::{Message, Status};

fn outbox(dir: &Path, messages: &[(&str, Option<&str>)]) -> Outbox {
    std::fs::create_dir_all(Queue::Outbox.dir(dir)).unwrap();
    std::fs::create_dir_all(Queue::Sent.dir(dir)).unwrap();
    for (kind, target) in messages {
        let message = Message {
            kind: kind.to_string(),
            target: target.map(String::from),
            ..Message::default()
        };
        super::super::spool::send(dir, message, clock::now()).unwrap();
    }
    let mut outbox = Outbox::new(dir, "here", Duration::from_secs(60), true);
    outbox.scan().unwrap();
    outbox
}

fn results(batch: &Batch, status: impl Fn(&str) -> Status) -> Vec<PostResult> {
    let of = |text: &String| status(&Message::parse(text.as_bytes()).unwrap().kind);
    let result = |text: &String| PostResult {
        id: None,
        status: of(text),
        error: Some("the queue is full".into()),
        warning: None,
        retry: true,
    };
    batch.texts.iter().map(result).collect()
}

#[test]
fn an_outbox_is_read_again_when_its_directory_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = outbox(dir.path(), &[("a", None)]);
    let path = Queue::Outbox.dir(dir.path());
    assert!(outbox.may_have_changed(), "its mtime is too fresh to tell");
    let make_old = || {
        let old = FileTimes::new().set_modified(clock::now() - Duration::from_secs(60));
        File::open(&path).unwrap().set_times(old).unwrap();
    };
    make_old();
    assert!(outbox.may_have_changed(), "it was too fresh at the scan");
    outbox.scan().unwrap();
    assert!(!outbox.may_have_changed());
    std::fs::write(path.join("new.json"), "{").unwrap();
    assert!(outbox.may_have_changed());
    make_old();
    outbox.scan().unwrap();
    // the age of an unfinished file is that of its own mtime
    assert!(!outbox.may_have_changed() && !outbox.is_empty());
    std::fs::remove_dir_all(&path).unwrap();
    assert!(outbox.may_have_changed());
}

#[test]
fn a_full_queue_holds_the_messages_of_its_target_only() {
    let dir = tempfile::tempdir().unwrap();
    let full = [("full", Some("web-1")); 20];
    let mut outbox = outbox(
        dir.path(),
        &[&full[..], &[("free", Some("web-2"))]].concat(),
    );
    let answer = |kind: &str| match kind {
        "full" => Status::Rejected,
        _ => Status::Queued,
    };
    let batch = outbox.batch().unwrap().unwrap();
    assert_eq!(batch.texts.len(), 21);
    assert_eq!(outbox.answered(&batch, &results(&batch, answer), 0), 1);
    assert!(outbox.batch().unwrap().is_none());
    let words = outbox.trouble().unwrap();
    assert_eq!(words, "messages to web-1 wait: the queue is full");
    let end = outbox.look_again().unwrap().unwrap();
    assert!(end > clock::monotonic());
}
