//! Messages that this machine makes for itself, for its own hooks: they go through no queue and to no hub.
//!
//! Their types begin with [`crate::wire::OWN_TYPES`], which nobody can send. There is a record of the hook only, and a run of it as
//! of any other.

use std::path::Path;

use serde_json::json;
use uuid::Uuid;

use super::file_name;
use super::hooks::{self, Record, program, records_dir};
use crate::clock;
use crate::disk;
use crate::error::{Error, Result};
use crate::wire::Message;

/// Sees to it that the hook for this type runs, if there is one; whether there is.
pub fn announce(base: &Path, host: &str, kind: &str, payload: serde_json::Value) -> Result<bool> {
    // not that for all the others: it waits for messages
    if base.join("hooks").join(kind).symlink_metadata().is_err() {
        return Ok(false);
    }
    match program(base, kind) {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(false),
        Err(why) => {
            log::warn!("{why}");
            return Ok(false);
        }
    }
    let (id, now) = (Uuid::now_v7(), clock::now());
    let message = json!({"id": id, "type": kind, "source": host, "target": host, "priority": "normal",
        "created_at": clock::rfc3339(now), "payload": payload});
    let record = Record { message: file_name(now, id), kind: kind.into(), attempts: Some(0) };
    let path = records_dir(base).join(record.file_name());
    let temporary = disk::temporary(&path);
    let written = disk::write_temporary(&temporary, message.to_string().as_bytes(), 0o600).and_then(|_| disk::rename(&temporary, &path));
    written.map_err(|e| Error::io(format!("write {}", path.display()), &e))?;
    Ok(true)
}

/// Who it is from, of the content of such a message: [`Message::parse`] refuses its type.
pub fn read(text: &[u8]) -> Message {
    let message: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    Message { source: message["source"].as_str().map(Into::into), ..Message::default() }
}

/// Whether a record is of such a message.
pub fn is_own(record: &hooks::Record) -> bool {
    record.kind.starts_with(crate::wire::OWN_TYPES)
}
