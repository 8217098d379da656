//! Records of messages that this machine generated for its own hooks: their types begin with
//! [`crate::wire::OWN_TYPES`].

use super::HookRecord;
use crate::wire::Message;

/// Reads the sender from such a message, whose type [`Message::parse`] refuses.
pub fn read(text: &[u8]) -> Message {
    let message: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    Message {
        source: message["source"].as_str().map(Into::into),
        ..Message::default()
    }
}

/// Whether a record belongs to such a message.
pub fn is_own(record: &HookRecord) -> bool {
    record.kind.starts_with(crate::wire::OWN_TYPES)
}
