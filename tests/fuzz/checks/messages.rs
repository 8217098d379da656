//! Messages and batches of them.

use std::time::{Duration, SystemTime};

use mesync::internals::hub::messages::batch as hub_batch;
use mesync::internals::messages::plan;
use mesync::internals::wire::{Message, NotAMessage, PullAnswer};
use mesync::internals::{messages, wire};
use uuid::Uuid;

use super::is_plain;

const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;
/// 2026-11-21, in seconds.
const NOW: u64 = 1_795_257_000;

/// A message, from a file or from a hub that may be hostile: an accepted one obeys the rules, and stays the same when it
/// is sent on.
pub fn message(bytes: &[u8]) {
    if let Ok(page) = serde_json::from_slice::<PullAnswer>(bytes) {
        page.messages
            .iter()
            .for_each(|numbered| one_message(numbered.message.get().as_bytes()));
    }
    one_message(bytes);
}

fn one_message(text: &[u8]) {
    let message = match Message::parse(text) {
        Ok(message) => message,
        Err(NotAMessage::Syntax(why) | NotAMessage::Content(why)) => {
            // a quoted text is shortened and escaped
            assert!(
                !why.is_empty() && why.len() < 1000 && !why.contains(char::is_control),
                "{why:?}"
            );
            return;
        }
    };
    assert!(text.len() <= wire::MAX_MESSAGE);
    assert!(
        is_plain(&message.kind, 64) && !message.kind.starts_with(wire::OWN_TYPES),
        "{:?}",
        message.kind
    );
    for host in [&message.source, &message.target].into_iter().flatten() {
        assert!(
            is_plain(host, 63) && *host == host.to_ascii_lowercase(),
            "{host:?}"
        );
    }
    assert!(
        message
            .ttl
            .is_none_or(|ttl| (1..=wire::ID_MEMORY / 2).contains(&ttl))
    );
    assert!(message.extra.keys().all(|name| {
        ![
            "id",
            "type",
            "source",
            "target",
            "priority",
            "created_at",
            "ttl",
            "payload",
        ]
        .contains(&name.as_str())
    }));
    let json = message.to_json();
    let same = |json: &str| {
        json.len() > wire::MAX_MESSAGE
            || Message::parse(json.as_bytes()).is_ok_and(|m| m.to_json() == json)
    };
    assert!(same(&json), "{json}");

    // the way of a file through the outbox: it gets a name, and with it what it lacks
    let (fresh, written, now) = (Uuid::from_u128(7), EPOCH, EPOCH + Duration::from_secs(NOW));
    let content = plan::FileContent::Message(message.clone());
    let found = plan::CheckedFile {
        name: Some("x.json"),
        age: None,
        arrived: true,
        content,
    };
    let plan::OutboxStep::Rename(name) = plan::step(&found, written, now, fresh) else {
        panic!("a new file is not renamed")
    };
    let (_, id) = messages::parse_file_name(&name).expect("a name that was just made");
    assert_eq!(id, message.id.unwrap_or(fresh));
    let complete = plan::complete(message, &name, "web-1").expect("a name that was just made");
    assert!(complete.id == Some(id) && complete.source.is_some() && complete.created_at.is_some());
    assert!(same(&complete.to_json()), "{}", complete.to_json());
}

/// The body of a post: each message is stored as it will be handed out, or rejected with words.
pub fn batch(bytes: &[u8]) {
    for caller in [None, Some("web-1")] {
        let batch = match hub_batch::read(bytes, caller, &|_| Ok(())) {
            Ok(batch) => batch,
            Err((status, why)) => {
                assert!(matches!(status, 400 | 413) && !why.is_empty() && why.len() < 1000);
                continue;
            }
        };
        assert!(batch.results.len() <= wire::MAX_BATCH);
        assert_eq!(
            batch
                .results
                .iter()
                .filter(|result| result.is_none())
                .count(),
            batch.admitted.len()
        );
        for rejected in batch.results.iter().flatten() {
            assert!(
                rejected.status == wire::Status::Rejected
                    && rejected
                        .error
                        .as_ref()
                        .is_some_and(|why| (1..1000).contains(&why.len()))
            );
        }
        for incoming in &batch.admitted {
            assert!(!incoming.id.is_nil() && incoming.json.len() <= wire::MAX_MESSAGE);
            assert!(
                caller.is_none_or(|host| host == incoming.source),
                "{} sent as {}",
                caller.unwrap_or_default(),
                incoming.source
            );
            let message =
                Message::parse(incoming.json.as_bytes()).expect("what is stored is a message");
            assert_eq!(message.to_json(), incoming.json);
            assert_eq!(
                (message.id, message.source.as_ref(), &message.target),
                (Some(incoming.id), Some(&incoming.source), &incoming.target)
            );
            assert_eq!(message.ttl.map(|seconds| seconds * 1000), incoming.ttl);
            // the client, which asks for nothing else, can take it
            let page = format!(
                r#"{{"epoch":"{}","messages":[{{"seq":1,"message":{}}}],"more":false}}"#,
                Uuid::nil(),
                incoming.json
            );
            assert!(
                serde_json::from_str::<PullAnswer>(&page)
                    .is_ok_and(|page| page.messages[0].message.get() == incoming.json)
            );
        }
    }
}
