//! Records of messages that this machine made for its own hooks: their types begin with [`crate::wire::OWN_TYPES`].

use super::Record;
use crate::wire::Message;

/// Who it is from, of the content of such a message: [`Message::parse`] refuses its type.
pub fn read(text: &[u8]) -> Message {
    let message: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    Message {
        source: message["source"].as_str().map(Into::into),
        ..Message::default()
    }
}

/// Whether a record is of such a message.
pub fn is_own(record: &Record) -> bool {
    record.kind.starts_with(crate::wire::OWN_TYPES)
}
