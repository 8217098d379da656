//! Everything that travels between client and hub: messages and the answers about them, and the rules for their names.
//!
//! Pure: no I/O, no clock, no randomness. It knows neither side: what each does with these is not its business.

pub mod files;
pub mod join;
pub mod revision;

pub use crate::error::brief;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::clock;

/// One message as JSON, at most.
pub const MAX_MESSAGE: usize = 256 * 1024;
/// Messages in one request, at most.
pub const MAX_BATCH: usize = 1000;
/// Bytes of one request with messages, at most.
pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Seconds for which both sides remember message ids: a deadline and a TTL together must not exceed it.
pub const ID_MEMORY: u64 = 14 * 86_400;
/// Types that begin so are made by mesync itself and never travel.
pub const OWN_TYPES: &str = "mesync.";
/// Seconds between two keep-alive comments in an event stream.
pub const KEEP_ALIVE: u64 = 15;
/// Field of a message: how many hooks have led to it, one message of a hook at a time.
pub const HOPS_FIELD: &str = "hops";
/// Environment of a hook: the hops of the message that it runs for.
pub const HOPS_VARIABLE: &str = "MESYNC_HOPS";
/// Hops of a message, at most: hooks that answer each other would never end.
pub const MAX_HOPS: u64 = 3;
/// File in the hub's data directory with the key for clients of the same user on the same machine.
pub const LOCAL_KEY: &str = "local.key";
/// File in the hub's data directory that a running hub holds locked; it says where the hub listens.
pub const HUB_LOCK: &str = "lock";

/// Ordered so that the most urgent one is smallest.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    pub const NAMES: [&str; 3] = ["high", "normal", "low"];

    pub fn name(self) -> &'static str {
        Priority::NAMES[self as usize]
    }

    pub fn parse(text: &str) -> Option<Priority> {
        [Priority::High, Priority::Normal, Priority::Low]
            .into_iter()
            .find(|p| p.name() == text)
    }
}

/// A message as found in a file or a request: fields may be missing, unknown ones are kept.
///
/// The payload is kept letter for letter, so no number loses a digit.
#[derive(Debug, Clone, Default)]
pub struct Message {
    pub id: Option<Uuid>,
    pub kind: String,
    pub source: Option<String>,
    pub target: Option<String>,
    pub priority: Priority,
    /// RFC 3339.
    pub created_at: Option<String>,
    pub ttl: Option<u64>,
    pub payload: Option<Box<RawValue>>,
    /// Fields that we do not know, kept as they are.
    pub extra: BTreeMap<String, Box<RawValue>>,
}

/// Why a file is not a message, in words for its writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAMessage {
    /// Not (yet) JSON: it may be half written.
    Syntax(String),
    /// JSON, but wrong.
    Content(String),
}

impl fmt::Display for NotAMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotAMessage::Syntax(why) | NotAMessage::Content(why) => f.write_str(why),
        }
    }
}

impl Message {
    /// Reads one message; checks every field that is there, and that `type` is.
    pub fn parse(text: &[u8]) -> Result<Message, NotAMessage> {
        let content = |why: String| NotAMessage::Content(why);
        if text.len() > MAX_MESSAGE {
            return Err(content(too_long(text.len() as u64)));
        }
        let fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(text).map_err(|e| {
                if e.is_data() {
                    // not in serde_json's words, which quote a string to its end
                    content(format!(
                        "it must be one JSON object, not {}",
                        brief(&String::from_utf8_lossy(&text[..text.len().min(240)]))
                    ))
                } else {
                    NotAMessage::Syntax(format!("it is not JSON: {e}"))
                }
            })?;
        let mut m = Message::default();
        let mut has_type = false;
        for (name, raw) in fields {
            let null = raw.get() == "null";
            let string = || {
                serde_json::from_str::<String>(raw.get()).map_err(|_| {
                    content(format!(
                        "\"{name}\" must be a string, not {}",
                        brief(raw.get())
                    ))
                })
            };
            match name.as_str() {
                "type" => {
                    m.kind = string()?;
                    check_type(&m.kind).map_err(content)?;
                    has_type = true;
                }
                "payload" => m.payload = Some(raw),
                "id" | "source" | "target" | "priority" | "created_at" | "ttl" if null => {}
                "id" => {
                    let text = string()?;
                    let id = Uuid::try_parse(&text).map_err(|_| {
                        content(format!("\"id\" must be a UUID, not {}", brief(&text)))
                    })?;
                    m.id = Some(id);
                }
                "source" => m.source = Some(check_host(&string()?).map_err(content)?),
                "target" => m.target = Some(check_host(&string()?).map_err(content)?),
                "priority" => {
                    let text = string()?;
                    m.priority = Priority::parse(&text).ok_or_else(|| {
                        content(format!(
                            "\"priority\" must be high, normal or low, not {}",
                            brief(&text)
                        ))
                    })?;
                }
                "created_at" => {
                    let text = string()?;
                    clock::parse_rfc3339(&text).ok_or_else(|| {
                        content(format!(
                            "\"created_at\" must be a time such as 2026-11-21T10:30:00Z, not {}",
                            brief(&text)
                        ))
                    })?;
                    m.created_at = Some(text);
                }
                "ttl" => {
                    m.ttl =
                        Some(serde_json::from_str(raw.get()).ok().filter(|ttl| (1..=ID_MEMORY / 2).contains(ttl)).ok_or_else(|| {
                            content(format!(
                                "\"ttl\" must be a whole number of seconds from 1 to {}, not {}",
                                ID_MEMORY / 2,
                                brief(raw.get())
                            ))
                        })?);
                }
                _ => {
                    m.extra.insert(name, raw);
                }
            }
        }
        if !has_type {
            return Err(content(
                "it has no \"type\": add one, such as \"type\": \"task.event\"".into(),
            ));
        }
        Ok(m)
    }

    /// How many hooks have led to it; no more than [`MAX_HOPS`], whatever it says. What is no number has another meaning to its sender.
    pub fn hops(&self) -> u64 {
        let hops = self
            .extra
            .get(HOPS_FIELD)
            .map_or(0.0, |raw| serde_json::from_str(raw.get()).unwrap_or(0.0));
        (hops as u64).min(MAX_HOPS)
    }

    /// The message as one JSON object, fields in one fixed order: equal messages give equal text.
    pub fn to_json(&self) -> String {
        let mut out =
            String::with_capacity(200 + self.payload.as_ref().map_or(4, |p| p.get().len()));
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut field = |name: &str, value: &str| {
            out.push(if out.is_empty() { '{' } else { ',' });
            out.push_str(&quoted(name));
            out.push(':');
            out.push_str(value);
        };
        if let Some(id) = self.id {
            field("id", &quoted(&id.to_string()));
        }
        field("type", &quoted(&self.kind));
        if let Some(source) = &self.source {
            field("source", &quoted(source));
        }
        field(
            "target",
            &self.target.as_deref().map_or("null".into(), quoted),
        );
        field("priority", &quoted(self.priority.name()));
        if let Some(at) = &self.created_at {
            field("created_at", &quoted(at));
        }
        if let Some(ttl) = self.ttl {
            field("ttl", &ttl.to_string());
        }
        for (name, raw) in &self.extra {
            field(name, raw.get());
        }
        field("payload", self.payload.as_ref().map_or("null", |p| p.get()));
        out.push('}');
        out
    }
}

/// Why a message of so many bytes cannot be sent.
pub fn too_long(bytes: u64) -> String {
    format!(
        "it has {bytes} bytes; a message may have {MAX_MESSAGE}: send a reference to the data instead"
    )
}

/// `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, and not one of our own: a type names a file in `hooks/` and must never lead out of it.
pub fn check_type(kind: &str) -> Result<(), String> {
    if !plain_name(kind, 64) {
        return Err(format!(
            "\"type\" must be 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit, not \"{}\"",
            brief(kind)
        ));
    }
    if kind.starts_with(OWN_TYPES) {
        return Err(format!(
            "types that begin with \"{OWN_TYPES}\" are made by mesync itself, so \"{}\" cannot be sent",
            brief(kind)
        ));
    }
    Ok(())
}

/// `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`; returns it in lower case, in which host names are compared.
pub fn check_host(name: &str) -> Result<String, String> {
    if plain_name(name, 63) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(format!(
            "a host name is 1 to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit, not \"{}\"",
            brief(name)
        ))
    }
}

fn plain_name(name: &str, most: usize) -> bool {
    name.len() <= most
        && name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// What became of one message of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// On the hub's disk.
    Queued,
    /// The hub had it already: the same as queued.
    Duplicate,
    /// Not taken; `retry` says whether the same again may be later.
    Rejected,
}

/// The answer about one message of `POST /api/messages`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostResult {
    #[serde(default)]
    pub id: Option<Uuid>,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry: bool,
}

/// The answer of `POST /api/messages`: one result a message, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostAnswer {
    pub results: Vec<PostResult>,
}

/// One message of a pull with its number in the hub's log.
#[derive(Debug, Clone, Deserialize)]
pub struct Numbered {
    pub seq: u64,
    pub message: Box<RawValue>,
}

/// A place in a hub's log: the message of this number, and all before it. The epoch says which log, the id that it is still
/// the same one: a disk that was put back to an earlier state gives its numbers anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub epoch: Uuid,
    pub seq: u64,
    /// Nil: not known.
    pub id: Uuid,
}

/// One run of a client: how often it was started, counted on its disk, and what it drew when it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub number: u64,
    pub draw: revision::Tag,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.draw)
    }
}

impl Run {
    pub fn parse(text: &str) -> Option<Run> {
        let (number, draw) = text.split_once('-')?;
        Some(Run {
            number: number.parse().ok()?,
            draw: draw.parse().ok()?,
        })
    }
}

/// Why a machine may not be the one that acted under its name before. The worse is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doubt {
    SetBack,
    Cloned,
}

impl Doubt {
    /// What is wrong, and what to do.
    pub fn words(self, host: &str) -> String {
        match self {
            Doubt::SetBack => format!(
                "\"{host}\" was set back to an earlier state, or is a copy: messages that it took since that state arrive again only as \
                 far as the hub still has them. Run \"mesync hosts rebind {host}\" when that is settled"
            ),
            Doubt::Cloned => format!(
                "two machines act as \"{host}\", one a copy of the other: each message reaches one of them. On the copy, stop mesync, \
                 remove state/instance and state/run, and set a name of its own (MESYNC_HOST_ID); then run \"mesync hosts rebind {host}\""
            ),
        }
    }
}

/// The answer of `GET /api/messages`.
#[derive(Debug, Clone, Deserialize)]
pub struct PullAnswer {
    pub epoch: Uuid,
    pub messages: Vec<Numbered>,
    pub more: bool,
    #[serde(default)]
    pub doubt: Option<Doubt>,
}

/// A row of `GET /api/hosts`. Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    pub name: String,
    #[serde(default)]
    pub first_seen: Option<String>,
    #[serde(default)]
    pub last_seen: Option<String>,
    /// Messages that wait for it.
    pub queued: u64,
    #[serde(default)]
    pub oldest_queued_at: Option<String>,
    /// Seconds since it was seen, by the clock of the hub that nothing sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<u64>,
    /// Unseen for so long that broadcasts are no longer kept for it.
    #[serde(default)]
    pub stale: bool,
    /// It may be a copy of the machine that this name is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
}

/// 403: the key is known, and lacks a right that the request needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LacksRight {
    /// For people: which key lacks which right, and what to do.
    pub error: String,
    /// `read`, `write`, `send`, `receive`, `admin`, or `directory`.
    pub lacks: String,
}

/// A key that has been used since the hub was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUse {
    /// The host that it belongs to.
    pub name: String,
    /// RFC 3339.
    pub used_at: String,
    /// The address of its last request, which may be that of a proxy.
    pub from: String,
}

/// The answer of `POST /api/auth/login`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoginAnswer {
    pub token: String,
    /// RFC 3339, by the hub's clock.
    pub expires_at: String,
}

/// The answer of `GET /api/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub status: String,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub features: Vec<String>,
}

/// The body of every answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, wants: &str) {
        let got = match Message::parse(text.as_bytes()) {
            Ok(m) => m.to_json(),
            Err(NotAMessage::Syntax(why)) => format!("syntax: {why}"),
            Err(NotAMessage::Content(why)) => why,
        };
        assert!(got.contains(wants), "{text}: {got}");
    }

    #[test]
    fn messages_keep_what_they_were_given_and_refuse_with_a_reason() {
        check(
            r#"{"type":"x.y","payload":{"a":12345678901234567890.000001}}"#,
            r#""payload":{"a":12345678901234567890.000001}"#,
        );
        check(
            r#"{"type":"x","target":"Web-1","other":[1, 2]}"#,
            r#""target":"web-1","priority":"normal","other":[1, 2],"payload":null"#,
        );
        check(r#"{"payload":1}"#, "no \"type\"");
        check(r#"{"type":"../../bin/sh"}"#, "must be 1 to 64 letters");
        check(r#"{"type":"mesync.held"}"#, "made by mesync itself");
        check(r#"{"type":"x""#, "syntax: it is not JSON");
        check("[1]", "one JSON object, not [1]");
        check(r#"{"type":"x","id":"7"}"#, "must be a UUID");
        check(r#"{"type":"x","priority":"urgent"}"#, "high, normal or low");
        check(r#"{"type":"x","ttl":0}"#, "from 1 to 604800");
        check(r#"{"type":"x","created_at":"yesterday"}"#, "must be a time");
        check(
            &format!(r#"{{"type":"x","payload":"{}"}}"#, "a".repeat(MAX_MESSAGE)),
            "a message may have 262144",
        );
    }

    #[test]
    fn hops_are_bounded_whatever_a_message_says() {
        let check = |hops: &str, wants: u64| {
            let message =
                Message::parse(format!(r#"{{"type":"x","hops":{hops}}}"#).as_bytes()).unwrap();
            assert_eq!(message.hops(), wants, "{hops}");
            assert!(
                message.to_json().contains(&format!("\"hops\":{hops}")),
                "it travels as it is"
            );
        };
        for (hops, wants) in [
            ("0", 0),
            ("2", 2),
            ("3", 3),
            ("4", 3),
            ("1e300", 3),
            ("99999999999999999999999", 3),
        ] {
            check(hops, wants);
        }
        for other in ["-1", "null", "\"3\"", "[3]", "{}", "true"] {
            check(other, 0);
        }
        assert_eq!(Message::parse(br#"{"type":"x"}"#).unwrap().hops(), 0);
    }

    #[test]
    fn no_reason_is_longer_than_a_line() {
        let long = "a\\u0007\u{1f600}".repeat(10_000);
        let texts = [
            format!("\"{long}\""),
            format!("[\"{long}\"]"),
            format!("{{\"type\":\"{long}\"}}"),
            format!("{{\"type\":\"x\",\"ttl\":\"{long}\"}}"),
        ];
        for text in texts {
            let why = Message::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(why.len() < 1000 && !why.contains(char::is_control), "{why}");
        }
    }

    #[test]
    fn a_deeply_nested_payload_does_not_exhaust_the_stack() {
        let deep = format!(
            r#"{{"type":"x","payload":{}{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        check(&deep, "[[[[");
    }
}
