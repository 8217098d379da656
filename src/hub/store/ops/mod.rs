//! The operations of the store as plain data: groups of operations with all of their inputs, and the outcomes.
//!
//! Pure: no table, no clock, no randomness; the same groups in the same order give the same tables.

pub mod files;
pub mod shared;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::config::limits;
use crate::error::Error;
use crate::wire::files::Chunk;
use crate::wire::revision::Tag;
use crate::wire::{Message, PostResult};
use files::{Bytes, Changed, FileLimits, FileOp, KeyLookup};
use shared::LogOp;

/// Settings of admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Milliseconds for which a message that names no `ttl` is kept.
    pub ttl: u64,
    /// Targeted messages that may wait for one host.
    pub queue_messages: u64,
    /// Bytes of JSON that may wait for one host.
    pub queue_bytes: u64,
    /// Bytes of JSON of all messages together.
    pub space: u64,
    /// Names of machines, including those that are only named as targets.
    #[serde(default = "most_hosts", skip_serializing_if = "is_most_hosts")]
    pub hosts: u64,
    pub files: FileLimits,
}

/// What entries of a log mean that do not say it.
fn most_hosts() -> u64 {
    limits::HOSTS
}

fn is_most_hosts(hosts: &u64) -> bool {
    *hosts == limits::HOSTS
}

impl Limits {
    pub fn of(hub: &crate::config::HubSettings) -> Limits {
        Limits {
            ttl: hub.message_ttl.as_millis() as u64,
            queue_messages: hub.queue_messages,
            queue_bytes: hub.queue_bytes,
            space: hub.message_space,
            hosts: hub.max_hosts,
            files: FileLimits {
                version_ttl: hub.version_ttl.as_millis() as u64,
            },
        }
    }
}

/// One transaction.
#[derive(Debug, Clone)]
pub struct Group {
    /// Hub time in milliseconds: never decreases, see [`resume`].
    pub now: u64,
    /// The wall clock in milliseconds, recorded so that the next start knows how long the hub was off.
    pub wall: u64,
    /// The disk has less than its reserve free: new data is refused, all else continues.
    pub full: bool,
    /// Drawn for this transaction: distinguishes its changes to files from those with the same numbers in another history.
    pub tag: Tag,
    /// The latest revision when the store was opened.
    pub opened: u64,
    pub limits: Limits,
    pub ops: Vec<Op>,
}

impl Group {
    /// For the log of a bucket, whose entries have times and tags of their own.
    pub fn for_shared_log(limits: Limits, ops: Vec<Op>) -> Group {
        Group {
            now: 0,
            wall: 0,
            full: false,
            tag: Tag::default(),
            opened: 0,
            limits,
            ops,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Op {
    /// Messages of one request, in order.
    Post(Vec<Incoming>),
    /// A host pulls: this registers it, adopts its instance if none is known, and acknowledges everything through `through`.
    Pull {
        host: String,
        instance: Option<Uuid>,
        through: u64,
    },
    /// An earlier pull that was kept in memory. It registers no host, and is ignored for another instance.
    Seen {
        host: String,
        instance: Option<Uuid>,
        through: u64,
        seen: u64,
    },
    /// Registers a host that has not pulled yet.
    PutHost { host: String },
    /// A host gets no more broadcasts until it pulls again; targeted messages stay.
    Mute { host: String },
    /// Lets another instance act as the host; `None`: the next that calls.
    Rebind {
        host: String,
        instance: Option<Uuid>,
    },
    /// Removes a host and its queue.
    DeleteHost { host: String },
    /// Removes some messages that no host waits for.
    Sweep,
    /// An operation on files.
    File(FileOp),
    /// An operation on the shared log itself; see [`shared`].
    Log(LogOp),
}

impl Op {
    /// The bytes that go into the tables as content.
    pub fn inline_bytes(&self) -> u64 {
        self.chunks()
            .map(|(_, bytes)| match bytes {
                Bytes::Inline(bytes) => bytes.len() as u64,
                _ => 0,
            })
            .sum()
    }

    /// The chunks that the operation names, with their bytes.
    pub fn chunks(&self) -> impl Iterator<Item = &(Chunk, Bytes)> {
        let op = if let Op::File(op) = self {
            Some(op)
        } else {
            None
        };
        op.into_iter().flat_map(FileOp::chunks)
    }

    pub fn chunks_mut(&mut self) -> impl Iterator<Item = &mut (Chunk, Bytes)> {
        let op = if let Op::File(op) = self {
            Some(op)
        } else {
            None
        };
        op.into_iter().flat_map(FileOp::chunks_mut)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// One result for each message, in order, and the hosts to notify.
    Posted {
        results: Vec<PostResult>,
        wakes: Vec<Wake>,
    },
    /// The pull is recorded: its answer may be sent.
    Pulled,
    Done,
    NoSuchHost,
    /// Another instance acts under this name.
    OtherInstance,
    TooManyHosts,
    /// Nothing was stored: the disk has less than its reserve free.
    DiskFull,
    /// `more`: the sweep reached its bound before the end.
    Swept {
        more: bool,
    },
    /// Too many requests wait already, or the hub is stopping. Nothing has changed.
    Busy,
    /// One outcome for each file, in order.
    Changed(Vec<Changed>),
    /// To [`FileOp::Ask`].
    Asked(KeyLookup),
    /// The transaction failed. Nothing has changed or, after a failed sync, the outcome is unknown.
    Failed(Error),
}

/// The hosts with new messages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wake {
    /// All subscribers to events of files.
    Files,
    Host(String),
    /// Every host except this one, which does not receive its own broadcasts.
    AllBut(String),
}

/// A checked message with an id and a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incoming {
    pub id: Uuid,
    pub source: String,
    /// `None`: a broadcast.
    pub target: Option<String>,
    /// Milliseconds, if the message has them.
    pub ttl: Option<u64>,
    /// The text that receivers get.
    pub json: String,
    pub digest: [u8; 32],
}

impl Incoming {
    /// Decides whether `caller`, a host, may post a message; `None`: a caller that may act for any host.
    ///
    /// The error is for the sender; the hub adds no field, so a missing one is refused.
    pub fn admit(message: &Message, caller: Option<&str>) -> Result<Incoming, String> {
        let id = message
            .id
            .filter(|id| !id.is_nil())
            .ok_or("it has no \"id\": every message needs a UUID of its own")?;
        let source = message
            .source
            .clone()
            .ok_or("it has no \"source\": the name of the host that sends it")?;
        if let Some(host) = caller.filter(|host| *host != source) {
            return Err(format!(
                "\"source\" is \"{source}\", but this key belongs to \"{host}\""
            ));
        }
        let json = message.to_json();
        if json.len() > crate::wire::MAX_MESSAGE {
            return Err(format!(
                "it has {} bytes; a message may have {}",
                json.len(),
                crate::wire::MAX_MESSAGE
            ));
        }
        let digest = digest(&json);
        Ok(Incoming {
            id,
            source,
            target: message.target.clone(),
            ttl: message.ttl.map(|s| s * 1000),
            json,
            digest,
        })
    }
}

/// Two messages with one id are *equal* if this is equal: the SHA-256 of [`Message::to_json`] without insignificant whitespace.
///
/// So the order and spacing of fields, the case of host names, and a `null` or absent `target` or `priority: normal` do not
/// count. Within `payload` and unknown fields everything else does: the order of keys, `1.0` against `1`, `"\u0041"` against
/// `"A"`. A sender repeats a message with the same bytes, and a deeper comparison would lose digits of long numbers.
pub fn digest(json: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    let (bytes, mut from, mut in_string, mut escaped) = (json.as_bytes(), 0, false, false);
    for (i, b) in bytes.iter().enumerate() {
        if in_string {
            in_string = escaped || *b != b'"';
            escaped = !escaped && *b == b'\\';
        } else if *b == b'"' {
            in_string = true;
        } else if matches!(b, b' ' | b'\t' | b'\r' | b'\n') {
            hash.update(&bytes[from..i]);
            from = i + 1;
        }
    }
    hash.update(&bytes[from..]);
    hash.finalize().into()
}

/// The longest time off, in milliseconds, that is added to hub time.
const LONGEST_OFF: u64 = 30 * 86_400_000;

/// The hub time at a start, in milliseconds. All ages are counted from it, and so messages expire by it.
///
/// The wall clock alone must not decide this: a router boots in 1970 and jumps to the present minutes later, which would
/// expire everything that it has accepted. So hub time follows the monotonic clock while the hub runs, and the wall clock
/// only for the time off. `stored` is (hub time, wall clock) of the last commit. A difference that is negative or longer than
/// 30 days counts as none: either a clock is wrong, or after so long it is harmless to keep everything a while longer.
pub fn resume(stored: Option<(u64, u64)>, wall: u64) -> u64 {
    match stored {
        None => wall,
        Some((age, then)) => {
            age + wall
                .checked_sub(then)
                .filter(|off| *off <= LONGEST_OFF)
                .unwrap_or(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_means_equal_but_for_insignificant_whitespace() {
        let parse = |text: &str| digest(&Message::parse(text.as_bytes()).unwrap().to_json());
        let check =
            |a: &str, b: &str, equal: bool| assert_eq!(parse(a) == parse(b), equal, "{a} {b}");
        check(
            r#"{"type":"x","payload":{"a": [1,  2]}}"#,
            "{\"payload\":{\"a\":[1,2]},\r\n \"type\":\"x\"}",
            true,
        );
        check(
            r#"{"type":"x","payload":"a b"}"#,
            r#"{"type":"x","payload":"ab"}"#,
            false,
        );
        check(
            r#"{"type":"x","payload":"a\" b"}"#,
            r#"{"type":"x","payload":"a\"b"}"#,
            false,
        );
        check(
            r#"{"type":"x","payload":"a\\", "z": 1}"#,
            r#"{"type":"x","payload":"a\\","z":1}"#,
            true,
        );
        check(
            r#"{"type":"x","target":null,"priority":"normal"}"#,
            r#"{"type":"x"}"#,
            true,
        );
        check(
            r#"{"type":"x","target":"Web"}"#,
            r#"{"type":"x","target":"web"}"#,
            true,
        );
        check(
            r#"{"type":"x","payload":1.0}"#,
            r#"{"type":"x","payload":1}"#,
            false,
        );
        check(r#"{"type":"x","ttl":5}"#, r#"{"type":"x"}"#, false);
    }

    #[test]
    fn a_caller_posts_only_as_itself() {
        let check = |text: &str, caller: Option<&str>, wants: &str| {
            let got = Incoming::admit(&Message::parse(text.as_bytes()).unwrap(), caller);
            let got = got.map_or_else(
                |why| why,
                |m| format!("{} {:?} {:?}", m.source, m.target, m.ttl),
            );
            assert!(got.contains(wants), "{text} {caller:?}: {got}");
        };
        let id = "019359a0-0000-7000-8000-000000000001";
        check(
            &format!(r#"{{"type":"x","id":"{id}","source":"A","target":"B","ttl":60}}"#),
            Some("a"),
            r#"a Some("b") Some(60000)"#,
        );
        check(
            &format!(r#"{{"type":"x","id":"{id}","source":"a"}}"#),
            None,
            "a None None",
        );
        check(
            &format!(r#"{{"type":"x","id":"{id}","source":"a"}}"#),
            Some("b"),
            r#""source" is "a", but this key belongs to "b""#,
        );
        check(
            &format!(r#"{{"type":"x","id":"{id}"}}"#),
            None,
            "no \"source\"",
        );
        check(r#"{"type":"x","source":"a"}"#, None, "no \"id\"");
    }

    #[test]
    fn hub_time_survives_wrong_clocks() {
        let day = 86_400_000;
        let check =
            |stored, wall, wants| assert_eq!(resume(stored, wall), wants, "{stored:?} {wall}");
        check(None, 5 * day, 5 * day);
        check(Some((100, 5 * day)), 6 * day, 100 + day); // off for a day
        check(Some((5 * day, 5 * day)), 0, 5 * day); // booted in 1970
        check(Some((60, 60)), 20_000 * day, 60); // and the clock was set later
    }
}
