//! The state of a machine, which it sends to the hub with each pull, and the condition that the hub derives from it.
//!
//! Pure. The hub does not trust a state: its texts are truncated and made printable, its numbers are only shown.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The header of a request: a [`MachineState`] as JSON in ASCII.
pub const STATE_HEADER: &str = "x-mesync-state";
/// Bytes of that header; a longer one is ignored.
pub const MAX_STATE_BYTES: usize = 1024;
/// Characters of the trouble at most.
const MAX_TROUBLE: usize = 300;
const MAX_VERSION: usize = 32;
/// The longest interval between two states of a machine, sent with other requests or alone.
pub const STATE_INTERVAL: Duration = Duration::from_secs(15);
/// The greatest age of a state when it is sent.
pub const MAX_STATE_AGE: Duration = Duration::from_secs(4);

/// The state of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    pub version: String,
    /// Why the machine is degraded; `None`: it is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Paths that are not in sync, and messages in the outbox.
    #[serde(default)]
    pub pending: u64,
    #[serde(default)]
    pub held_deletes: u64,
    #[serde(default)]
    pub conflict_copies: u64,
    #[serde(default)]
    pub failed_messages: u64,
    #[serde(default)]
    pub failed_hooks: u64,
}

/// The condition of a machine, the worst first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineCondition {
    /// It has not called recently.
    Silent,
    Degraded,
    /// It has sent no state: an older version, or one that runs only sometimes.
    #[default]
    Unknown,
    /// Paths or messages are pending.
    Syncing,
    InSync,
}

impl MachineCondition {
    /// The name in JSON and metrics.
    pub fn name(self) -> &'static str {
        if self == MachineCondition::InSync {
            "in-sync"
        } else {
            self.words()
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            MachineCondition::Silent => "silent",
            MachineCondition::Degraded => "degraded",
            MachineCondition::Unknown => "unknown",
            MachineCondition::Syncing => "syncing",
            MachineCondition::InSync => "in sync",
        }
    }

    /// Whether no person is needed.
    pub fn is_healthy(self) -> bool {
        self >= MachineCondition::Syncing
    }
}

impl MachineState {
    /// The header's value, at most [`MAX_STATE_BYTES`] long.
    pub fn header(&self) -> String {
        serde_json::to_string(&self.clone().bounded()).unwrap_or_default()
    }

    /// Parses a header; `None`: it is not a state.
    pub fn parse(header: &str) -> Option<MachineState> {
        if header.len() > MAX_STATE_BYTES {
            return None;
        }
        serde_json::from_str(header).ok().map(MachineState::bounded)
    }

    fn bounded(self) -> MachineState {
        MachineState {
            version: printable(&self.version, MAX_VERSION),
            trouble: self.trouble.map(|text| printable(&text, MAX_TROUBLE)),
            ..self
        }
    }
}

/// Truncates a text to printable ASCII, so that it is harmless in terminals, pages and headers.
fn printable(text: &str, max: usize) -> String {
    let shown = |c: char| {
        if c == ' ' || c.is_ascii_graphic() && !matches!(c, '"' | '\\') {
            c
        } else if matches!(c, '"' | '\\') {
            '\''
        } else {
            '?'
        }
    };
    text.chars().take(max).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_travels_in_one_short_line_of_ascii() {
        let long = MachineState {
            version: "9".repeat(100),
            trouble: Some("\u{202e}a\"\\\n\u{7}é".to_string() + &"x".repeat(5000)),
            pending: u64::MAX,
            held_deletes: u64::MAX,
            conflict_copies: u64::MAX,
            failed_messages: u64::MAX,
            failed_hooks: u64::MAX,
        };
        let header = long.header();
        assert!(header.len() <= MAX_STATE_BYTES, "{}", header.len());
        assert!(header.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
        let back = MachineState::parse(&header).unwrap();
        assert!(back.trouble.unwrap().starts_with("?a''???x"));
        for bad in [
            "",
            "{}",
            "[]",
            "{\"version\":1}",
            &"x".repeat(MAX_STATE_BYTES + 1),
        ] {
            assert_eq!(MachineState::parse(bad), None, "{bad}");
        }
    }
}
