//! Writes messages to the outbox.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use uuid::Uuid;

use super::create;
use crate::config::limits;
use crate::error::{Error, Kind, Result};
use crate::messages::{Queue, file_name};
use crate::wire::Message;
use crate::{clock, disk};

/// Generates ids within one process, in order.
pub struct IdGenerator(uuid::ContextV7);

impl Default for IdGenerator {
    fn default() -> IdGenerator {
        IdGenerator(uuid::ContextV7::new().with_additional_precision())
    }
}

impl IdGenerator {
    /// A version 7 id of the given time, with a finer resolution than milliseconds.
    pub(super) fn next(&self, now: SystemTime) -> Uuid {
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
        Uuid::new_v7(uuid::Timestamp::from_unix(&self.0, seconds, nanos))
    }
}

/// A message for [`send_all`].
pub struct Outgoing {
    pub id: Uuid,
    time: SystemTime,
    json: String,
}

impl Outgoing {
    /// Fills in a missing id and time, and refuses what the hub would refuse.
    pub fn new(mut message: Message, ids: &IdGenerator, now: SystemTime) -> Result<Outgoing> {
        let id = *message.id.get_or_insert_with(|| ids.next(now));
        message
            .created_at
            .get_or_insert_with(|| clock::rfc3339(now));
        let json = message.to_json() + "\n";
        Message::parse(json.as_bytes())
            .map_err(|e| Error::new(Kind::Usage, format!("cannot send the message: {e}")))?;
        Ok(Outgoing {
            id,
            time: now,
            json,
        })
    }

    /// The size of its file.
    pub fn size(&self) -> usize {
        self.json.len()
    }

    /// Its file in the outbox.
    pub fn path(&self, base: &Path) -> PathBuf {
        Queue::Outbox.dir(base).join(file_name(self.time, self.id))
    }
}

/// Writes one message to the outbox, like [`send_all`].
pub fn send(base: &Path, message: Message, now: SystemTime) -> Result<(Uuid, PathBuf)> {
    let outgoing = Outgoing::new(message, &IdGenerator::default(), now)?;
    let path = outgoing.path(base);
    send_all(base, std::slice::from_ref(&outgoing)).map(|()| (outgoing.id, path))
}

/// Writes messages to the outbox; when it returns they survive a power loss.
///
/// One sync for all contents if there are many, otherwise one for each; then one for their names. After an error
/// some of them may be in the outbox.
pub fn send_all(base: &Path, messages: &[Outgoing]) -> Result<()> {
    create(base)?;
    let outbox = Queue::Outbox.dir(base);
    let failed = |path: &Path, e: io::Error| Error::io(format!("write {}", path.display()), &e);
    let at_once = messages.len() >= limits::SYNCFS_FROM && disk::syncfs_reports_errors();
    let mut unnamed = TemporaryFiles::default();
    for message in messages {
        let path = message.path(base);
        let temporary = disk::temporary(&path);
        let file = disk::write_temporary(&temporary, message.json.as_bytes(), 0o600)
            .map_err(|e| failed(&path, e))?;
        unnamed.0.push(temporary);
        let owned = disk::give_to_owner(&outbox, &file);
        let synced = owned.and_then(|()| if at_once { Ok(()) } else { file.sync_all() });
        synced.map_err(|e| failed(&path, e))?;
    }
    if at_once {
        disk::sync_filesystem(&outbox).map_err(|e| failed(&outbox, e))?;
    }
    for message in messages {
        let path = message.path(base);
        disk::rename_noreplace(&disk::temporary(&path), &path).map_err(|e| failed(&path, e))?;
    }
    unnamed.0.clear();
    // the daemon may have sent them already, so they are not removed
    disk::sync_dir(&outbox)
        .map_err(|e| failed(&outbox, e).hint("the messages are in the outbox, and may be sent"))
}

/// Files under temporary names; those that do not get their lasting names are removed when this is
/// dropped.
#[derive(Default)]
struct TemporaryFiles(Vec<PathBuf>);

impl Drop for TemporaryFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
