//! The message half of a client: a spool of plain files, where every change of state is one rename.
//!
//! It knows neither the file half nor the internals of the hub; the data that travel are in `wire`.

mod aside;
pub mod exchange;
pub mod hooks;
pub mod identity;
pub mod inbox;
pub mod local_events;
pub mod lock;
pub mod outbox;
pub mod plan;
pub mod seen;
pub mod spool;
mod tick_event;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use uuid::Uuid;

use crate::clock;

/// The four directories that a user looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    Outbox,
    Inbox,
    Sent,
    Failed,
}

impl Queue {
    pub const ALL: [Queue; 4] = [Queue::Outbox, Queue::Inbox, Queue::Sent, Queue::Failed];

    pub fn name(self) -> &'static str {
        match self {
            Queue::Outbox => "outbox",
            Queue::Inbox => "inbox",
            Queue::Sent => "sent",
            Queue::Failed => "failed",
        }
    }

    pub fn dir(self, base: &Path) -> PathBuf {
        base.join(self.name())
    }
}

/// `YYYYMMDDTHHmmss_<uuid>.json`: the name of a message in every directory and on every machine.
pub fn file_name(created: SystemTime, id: Uuid) -> String {
    format!("{}_{id}.json", clock::compact(created))
}

/// The time and the id in a name made by [`file_name`].
pub fn parse_file_name(name: &str) -> Option<(SystemTime, Uuid)> {
    let (time, id) = name.strip_suffix(".json")?.split_once('_')?;
    let parsed = (clock::parse_compact(time)?, Uuid::try_parse(id).ok()?);
    // accept one spelling only: otherwise two names could mean one message
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// Names that never count as messages: hidden, temporary, or a reason beside a failed message.
pub fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(b".")
        || [&b".tmp"[..], b".part", b"~"]
            .iter()
            .any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        let id = Uuid::from_u128(7);
        let name = file_name(clock::from_millis(1_795_257_000_000), id);
        assert_eq!(
            parse_file_name(&name),
            Some((clock::from_millis(1_795_257_000_000), id))
        );
        assert_eq!(parse_file_name(&name.to_uppercase()), None);
        assert_eq!(parse_file_name(&name.replace('-', "")), None);
        assert!(
            is_hidden(b".x.json")
                && is_hidden(b"x.json.part")
                && is_hidden(b"x~")
                && !is_hidden(b"x.json")
        );
    }
}
