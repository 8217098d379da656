//! Messages that this machine generates for its own hooks: they are not queued, and sent to no hub.
//!
//! Their types begin with [`crate::wire::OWN_TYPES`], which cannot be sent. Only a hook record is
//! written, which runs like any other.

use std::path::Path;

use serde_json::json;
use uuid::Uuid;

use super::file_name;
use super::hooks::{self, records_dir};
use crate::clock;
use crate::config::limits;
use crate::disk;
use crate::error::{Error, Result};

/// Records that the hook for this type is to run, if there is one; returns whether there is.
pub fn announce(base: &Path, host: &str, kind: &str, payload: serde_json::Value) -> Result<bool> {
    if base.join("hooks").join(kind).symlink_metadata().is_err() {
        return Ok(false);
    }
    let (id, now) = (Uuid::now_v7(), clock::now());
    let message = json!({"id": id, "type": kind, "source": host, "target": host, "priority": "normal",
        "created_at": clock::rfc3339(now), "payload": payload});
    let dir = records_dir(base);
    let failed = |e: std::io::Error| Error::io(format!("write {}", dir.display()), &e);
    let name = file_name(now, id);
    let Some(record) =
        hooks::new_record(base, hooks::next_order(base).map_err(failed)?, kind, &name)
    else {
        return Ok(false);
    };
    // these events are not limited by any sender
    if record.is_failed() && hooks::failed_news(base).map_err(failed)? >= limits::FAILED_NEWS_HOOKS
    {
        return Ok(false);
    }
    let path = record.path(base);
    let temporary = disk::temporary(&path);
    let written = disk::write_temporary(&temporary, message.to_string().as_bytes(), 0o600)
        .and_then(|_| disk::rename(&temporary, &path));
    written.map_err(failed)?;
    Ok(!record.is_failed())
}
