//! The body of `POST /api/messages`: one object or an array of them, each admitted or rejected with a reason.
//!
//! Pure: it knows neither the store nor the connection.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::hub::store::ops::Incoming;
use crate::wire::{MAX_BATCH, Message, PostResult, Status};

/// A parsed request.
pub struct MessageBatch {
    /// One for each message, in order; `None`: the store decides.
    pub results: Vec<Option<PostResult>>,
    /// The messages that the store decides about, in order.
    pub admitted: Vec<Incoming>,
}

/// Why a whole request is refused: status and words.
pub type BatchRefusal = (u16, String);

/// Parses a body. `caller`: the only allowed source; `None`: any. `may_send` decides about each message.
pub fn read(
    body: &[u8],
    caller: Option<&str>,
    may_send: &dyn Fn(&Message) -> Result<(), String>,
) -> Result<MessageBatch, BatchRefusal> {
    let texts = match body.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'[') => match serde_json::from_slice(body).map_err(not_json)? {
            RawMessages(Some(texts)) => texts,
            RawMessages(None) => {
                return Err((
                    413,
                    format!("the request has more than {MAX_BATCH} messages: send them in several"),
                ));
            }
        },
        Some(b'{') => vec![serde_json::from_slice::<&RawValue>(body).map_err(not_json)?],
        _ => {
            return Err((
                400,
                "the body must be a message (a JSON object) or an array of them".into(),
            ));
        }
    };
    let mut batch = MessageBatch {
        results: Vec::with_capacity(texts.len()),
        admitted: Vec::with_capacity(texts.len()),
    };
    for text in texts {
        let text = text.get().as_bytes();
        let admitted = Message::parse(text)
            .map_err(|why| why.to_string())
            .and_then(|m| may_send(&m).and_then(|()| Incoming::admit(&m, caller)));
        batch.results.push(match admitted {
            Ok(message) => {
                batch.admitted.push(message);
                None
            }
            Err(why) => Some(PostResult {
                id: id_of(text),
                status: Status::Rejected,
                error: Some(why),
                warning: None,
                retry: false,
            }),
        });
    }
    Ok(batch)
}

impl MessageBatch {
    /// Fills the missing results with those of the store.
    pub fn fill(results: Vec<Option<PostResult>>, decided: Vec<PostResult>) -> Vec<PostResult> {
        let mut decided = decided.into_iter();
        results
            .into_iter()
            .filter_map(|result| result.or_else(|| decided.next()))
            .collect()
    }
}

fn not_json(e: serde_json::Error) -> BatchRefusal {
    (400, format!("the body is not JSON: {e}"))
}

/// The id of an invalid message, so that its sender can identify it.
fn id_of(text: &[u8]) -> Option<Uuid> {
    #[derive(Deserialize)]
    struct OnlyId {
        id: Option<Uuid>,
    }
    serde_json::from_slice::<OnlyId>(text).ok()?.id
}

/// The elements of an array. `None`: too many, which is detected before they use memory.
struct RawMessages<'a>(Option<Vec<&'a RawValue>>);

impl<'de> Deserialize<'de> for RawMessages<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawMessagesVisitor;
        impl<'de> Visitor<'de> for RawMessagesVisitor {
            type Value = RawMessages<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut texts = Vec::new();
                while texts.len() < MAX_BATCH {
                    match seq.next_element()? {
                        Some(text) => texts.push(text),
                        None => return Ok(RawMessages(Some(texts))),
                    }
                }
                let mut more = false;
                while seq
                    .next_element::<serde::de::IgnoredAny>()
                    .map_err(A::Error::custom)?
                    .is_some()
                {
                    more = true;
                }
                Ok(RawMessages((!more).then_some(texts)))
            }
        }
        deserializer.deserialize_seq(RawMessagesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "019359a0-0000-7000-8000-000000000001";

    fn check(body: &str, caller: Option<&str>, wants: &str) {
        let got = match read(body.as_bytes(), caller, &|_| Ok(())) {
            Err((status, why)) => format!("{status} {why}"),
            Ok(batch) => {
                let words = |r: &Option<PostResult>| match r {
                    None => "?".into(),
                    Some(r) => format!(
                        "{:?} {}",
                        r.id.map(|id| id.to_string()),
                        r.error.as_deref().unwrap_or("")
                    ),
                };
                format!(
                    "{} {:?}",
                    batch.admitted.len(),
                    batch.results.iter().map(words).collect::<Vec<_>>()
                )
            }
        };
        assert!(got.contains(wants), "{:.200}: {got}", body);
    }

    #[test]
    fn whole_requests_fail_only_when_they_cannot_be_read() {
        let good = format!(r#"{{"id":"{ID}","type":"x","source":"a"}}"#);
        check(&good, None, r#"1 ["?"]"#);
        check(
            &format!(" [{good}, {good}]\n"),
            Some("a"),
            r#"2 ["?", "?"]"#,
        );
        check("[]", None, "0 []");
        check(
            &format!("[{good},7,{{\"id\":\"{ID}\"}},{good}]"),
            None,
            "2 [\"?\", \"None it must be one JSON object",
        );
        check(
            &format!("[{{\"id\":\"{ID}\"}}]"),
            None,
            &format!("Some(\\\"{ID}\\\") it has no \\\"type\\\""),
        );
        check(&good, Some("b"), "this key belongs to");
        for (bad, wants) in [
            ("", "400 "),
            ("7", "400 "),
            ("nonsense", "400 "),
            ("[1,", "400 "),
            ("{\"a\":}", "400 "),
            ("[]]", "400 "),
        ] {
            check(bad, None, wants);
        }
        check(
            &format!("{good} {good}"),
            None,
            "400 the body is not JSON: trailing",
        );
        let many = |n: usize| format!("[{}]", vec![good.as_str(); n].join(","));
        check(&many(MAX_BATCH), None, "1000 [");
        check(
            &many(MAX_BATCH + 1),
            None,
            "413 the request has more than 1000",
        );
        let deep = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
        check(&deep, None, "one JSON object");
        assert_eq!(
            read(b"{\"type\":\"\xff\"}", None, &|_| Ok(()))
                .map(|_| ())
                .unwrap_err()
                .0,
            400
        );
    }
}
