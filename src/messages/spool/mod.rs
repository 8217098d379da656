//! The part of the spool that commands use: write, list, find, retry and remove messages.
//!
//! Plain files only, and every change of state is one rename, link or unlink, so it works without a hub and a daemon,
//! and beside them. It neither sends nor receives: other modules exchange messages with the hub.

mod outgoing;
pub mod survey;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use uuid::Uuid;

use super::{Queue, file_name, hooks, is_hidden, parse_file_name};
use crate::error::{Error, Kind, Result, plain};
use crate::wire::{MAX_MESSAGE, Message};
use crate::{clock, disk};

pub use outgoing::{IdGenerator, Outgoing, send, send_all};

/// The file beside `failed/NAME`: `failed/NAME.reason`.
const REASON_SUFFIX: &[u8] = b".reason";
/// Maximum length of the first line of a reason.
const MAX_REASON: usize = 4096;
/// A younger reason without a message may be that of a message that the daemon is about to move there.
const REASON_GRACE: std::time::Duration = std::time::Duration::from_secs(60);
/// Fewer characters of an id would match too many messages.
const LEAST_ID: usize = 4;

/// One file in a queue.
#[derive(Debug)]
pub struct QueueEntry {
    pub queue: Queue,
    pub name: OsString,
    pub path: PathBuf,
    pub size: u64,
    /// From the message, or else from the file name.
    pub id: Option<Uuid>,
    /// From the file name, or else from the message, or else the last change of the file.
    pub time: SystemTime,
    /// The message without its payload and unknown fields, which for a whole queue may exceed the memory; or why it is
    /// not a message.
    pub message: std::result::Result<Message, String>,
    /// The first line of the reason for its failure.
    pub reason: Option<String>,
    /// Its hook has failed: see [`hooks::retry`].
    pub hook_failed: bool,
}

impl QueueEntry {
    /// Its id, or its file name: what [`find`] accepts.
    pub fn label(&self) -> String {
        self.id
            .map_or_else(|| disk::show(&self.name), |id| id.to_string())
    }
}

/// Creates missing directories, accessible to this user only. Existing ones keep their mode: the user may have
/// opened the outbox to others.
pub fn create(base: &Path) -> Result<()> {
    disk::create_dir(base)?;
    Queue::ALL
        .iter()
        .try_for_each(|q| disk::create_dir(&q.dir(base)))?;
    ["hooks", "state", "state/hooks"]
        .iter()
        .try_for_each(|d| disk::create_dir(&base.join(d)))
}

/// The messages of a queue: the outbox in the order of sending, the others by name, and so by time. A missing directory
/// counts as empty.
pub fn list(base: &Path, queue: Queue) -> Result<Vec<QueueEntry>> {
    let mut entries = look_at(
        base,
        names(base, queue)?
            .into_iter()
            .map(|name| (queue, name))
            .collect(),
    )?;
    if queue == Queue::Outbox {
        // stable: by name within a priority
        entries.sort_by_key(|e| {
            e.message
                .as_ref()
                .map_or(crate::wire::Priority::Low, |m| m.priority)
        });
    }
    Ok(entries)
}

/// The file names of a queue in order, without hidden ones.
pub(super) fn names(base: &Path, queue: Queue) -> Result<Vec<OsString>> {
    let reason = |name: &[u8]| queue == Queue::Failed && name.ends_with(REASON_SUFFIX);
    let mut names = all_names(&queue.dir(base))?;
    names.retain(|name| !is_hidden(name.as_bytes()) && !reason(name.as_bytes()));
    names.sort();
    Ok(names)
}

fn all_names(dir: &Path) -> Result<Vec<OsString>> {
    let failed = |e: io::Error| Error::io(format!("read {}", dir.display()), &e);
    match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|e| e.map(|e| e.file_name()).map_err(failed))
            .collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        // not "cannot create", which a permission error means elsewhere
        Err(e) => Err(Error {
            kind: Kind::Io,
            ..failed(e)
        }),
    }
}

/// Reads one file. `None`: it has just been moved away.
fn read(base: &Path, queue: Queue, name: OsString) -> Result<Option<QueueEntry>> {
    let path = queue.dir(base).join(&name);
    let meta = match std::fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| Error::io(format!("read {}", path.display()), &e))?,
    };
    let message = match meta
        .is_file()
        .then(|| disk::read_at_most(&path, MAX_MESSAGE))
    {
        None => Err("it is not a regular file".into()),
        Some(Err(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Some(Err(e)) => Err(format!("it cannot be read: {}", plain(&e))),
        // the parser only knows how much was read
        Some(Ok(_)) if meta.len() > MAX_MESSAGE as u64 => Err(too_large(meta.len())),
        Some(Ok(text)) => Message::parse(&text).map_err(|e| e.to_string()),
    };
    let message = message.map(|m| Message {
        payload: None,
        extra: Default::default(),
        ..m
    });
    let named = name.to_str().and_then(parse_file_name);
    let created = || clock::parse_rfc3339(message.as_ref().ok()?.created_at.as_deref()?);
    Ok(Some(QueueEntry {
        queue,
        size: meta.len(),
        id: message
            .as_ref()
            .ok()
            .and_then(|m| m.id)
            .or(named.map(|(_, id)| id)),
        time: named
            .map(|(time, _)| time)
            .or_else(created)
            .or_else(|| meta.modified().ok())
            .unwrap_or(SystemTime::UNIX_EPOCH),
        reason: if queue == Queue::Failed {
            read_reason(&path)
        } else {
            None
        },
        message,
        hook_failed: false,
        name,
        path,
    }))
}

fn too_large(size: u64) -> String {
    format!(
        "it has {size} bytes; a message may have {MAX_MESSAGE}: send a reference to the data instead"
    )
}

/// The path of the reason for a file in `failed/`. `None` if that name would be too long.
pub fn reason_path(failed: &Path) -> Option<PathBuf> {
    let mut name = failed.file_name()?.as_bytes().to_vec();
    name.extend_from_slice(REASON_SUFFIX);
    (name.len() <= 255).then(|| failed.with_file_name(OsString::from_vec(name)))
}

fn read_reason(failed: &Path) -> Option<String> {
    let bytes = disk::read_at_most(&reason_path(failed)?, MAX_REASON).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .next()
        .map(|l| l.trim().to_string())
        .filter(|l| !l.is_empty())
}

/// Finds the message that a user means: by its id, by at least four characters of its beginning or end, or by its file
/// name (also as [`disk::show`] prints it). Several entries are returned only if one message is in several queues.
pub fn find(base: &Path, what: &OsStr) -> Result<Vec<QueueEntry>> {
    let mut all = Vec::new();
    for queue in Queue::ALL {
        all.extend(names(base, queue)?.into_iter().map(|name| (queue, name)));
    }
    let shown = what.to_str().unwrap_or_default();
    let by_name: Vec<_> = all
        .iter()
        .filter(|(_, name)| name == what || disk::show(name) == shown)
        .cloned()
        .collect();
    let is_meant = |id: Uuid| matches_id(id, shown);
    let named_id = |name: &OsString| name.to_str().and_then(parse_file_name).map(|(_, id)| id);
    let by_id = || {
        all.iter()
            .filter(|(_, name)| named_id(name).is_some_and(is_meant))
            .cloned()
            .collect()
    };
    let mut hits = look_at(base, if by_name.is_empty() { by_id() } else { by_name })?;
    if hits.is_empty() {
        // placed in the outbox under another name, and not picked up yet
        let others = all
            .into_iter()
            .filter(|(_, name)| named_id(name).is_none())
            .collect();
        hits = look_at(base, others)?;
        hits.retain(|e| e.id.is_some_and(is_meant));
    }
    let mut labels: Vec<String> = hits.iter().map(QueueEntry::label).collect();
    labels.sort();
    labels.dedup();
    match labels.len() {
        0 => Err(Error::new(
            Kind::Failed,
            format!("there is no message {}", disk::show(what)),
        )
        .hint("at least 4 characters of its id, or its file name: see mesync list")),
        1 => Ok(hits),
        n => {
            let some = labels[..n.min(4)].join(", ");
            let more = if n > 4 {
                format!(" and {} more", n - 4)
            } else {
                String::new()
            };
            Err(Error::new(
                Kind::Failed,
                format!("{n} messages match {}: {some}{more}", disk::show(what)),
            )
            .hint("give more characters of the id"))
        }
    }
}

/// Whether the typed text is this id, or a prefix or suffix of it; upper case and dashes do not matter.
pub fn matches_id(id: Uuid, typed: &str) -> bool {
    let typed: String = typed
        .chars()
        .filter(|c| *c != '-')
        .flat_map(char::to_lowercase)
        .collect();
    let id = id.simple().to_string();
    typed.len() >= LEAST_ID && (id.starts_with(&typed) || id.ends_with(&typed))
}

fn look_at(base: &Path, files: Vec<(Queue, OsString)>) -> Result<Vec<QueueEntry>> {
    // sorted
    let failed_hooks = hooks::failed(base)?;
    let failed = |name: &OsStr| {
        name.to_str().is_some_and(|name| {
            failed_hooks
                .binary_search_by(|f| f.as_str().cmp(name))
                .is_ok()
        })
    };
    let mut entries = Vec::new();
    for (queue, name) in files {
        let Some(mut entry) = read(base, queue, name)? else {
            continue;
        };
        entry.hook_failed = queue == Queue::Inbox && failed(&entry.name);
        entries.push(entry);
    }
    Ok(entries)
}

/// Moves a failed message back to the outbox, under a name with a new time, because the time limit counts from there. Its
/// id and content remain. Refused, with the reason, if it is not a message.
///
/// After a crash at any point it is in `failed/`, in `outbox/` or in both under one id, of which the hub accepts one.
pub fn retry(base: &Path, entry: &QueueEntry, now: SystemTime) -> Result<PathBuf> {
    let shown = entry.label();
    if entry.queue != Queue::Failed {
        return Err(Error::new(
            Kind::Failed,
            format!(
                "cannot retry {shown}: it is in {}, not in failed",
                entry.queue.name()
            ),
        ));
    }
    if let Err(why) = &entry.message {
        let hint = format!("correct or remove {}", disk::show(entry.path.as_os_str()));
        return Err(Error::new(Kind::Failed, format!("cannot retry {shown}: {why}")).hint(hint));
    }
    let failed = |e: io::Error| Error::io(format!("retry {shown}"), &e);
    create(base)?;
    // the user may have just corrected it
    disk::sync_file(&entry.path).map_err(failed)?;
    let (id, path) = match entry.id {
        Some(id) => (id, entry.path.clone()),
        None => name_after_id(entry, now).map_err(failed)?,
    };
    let queued = Queue::Outbox.dir(base).join(file_name(now, id));
    match disk::link_or_copy(&path, &queued) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && same_file(&path, &queued) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let what = format!(
                "cannot retry {shown}: {} is in the outbox",
                queued.display()
            );
            return Err(Error::new(Kind::Busy, what).hint("try again in a second"));
        }
        other => other.map_err(failed)?,
    }
    disk::sync_dir(disk::parent(&queued)).map_err(failed)?;
    remove_with_reason(&path).map_err(failed)?;
    Ok(queued)
}

/// Gives a message without an id one in its name, durably: a second attempt after a crash must send it under the same
/// id.
fn name_after_id(entry: &QueueEntry, now: SystemTime) -> io::Result<(Uuid, PathBuf)> {
    let id = IdGenerator::default().next(now);
    let path = entry.path.with_file_name(file_name(now, id));
    disk::rename_noreplace(&entry.path, &path)?;
    if let (Some(old), Some(new)) = (reason_path(&entry.path), reason_path(&path)) {
        // there may be none, and it is only information for users
        let _ = disk::rename_noreplace(&old, &new);
    }
    disk::sync_dir(disk::parent(&path))?;
    Ok((id, path))
}

fn same_file(a: &Path, b: &Path) -> bool {
    let number = |p: &Path| {
        std::fs::symlink_metadata(p)
            .map(|m| (m.dev(), m.ino()))
            .ok()
    };
    number(a).is_some_and(|n| Some(n) == number(b))
}

fn remove_with_reason(failed: &Path) -> io::Result<()> {
    remove(failed)?;
    reason_path(failed).map_or(Ok(()), |reason| remove(&reason))
}

/// Unlinks a file; a missing file is no error.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The result of [`flush`].
#[derive(Debug, Default)]
pub struct FlushCounts {
    pub removed: u64,
    /// Why some files could not be removed.
    pub kept: Vec<Error>,
}

/// Removes all messages of a queue, and the reasons beside failed ones. Records in `state/` stay: received messages do
/// not return, and their hooks still run. Refused for the outbox.
pub fn flush(base: &Path, queue: Queue, now: SystemTime) -> Result<FlushCounts> {
    if queue == Queue::Outbox {
        return Err(Error::new(Kind::Usage, "will not flush the outbox: the hub does not have its messages yet, so they would be lost")
            .hint("remove single files there by hand"));
    }
    let dir = queue.dir(base);
    let mut flushed = FlushCounts::default();
    for name in names(base, queue)? {
        let path = dir.join(&name);
        let removed = if queue == Queue::Failed {
            remove_with_reason(&path)
        } else {
            remove(&path)
        };
        match removed {
            Ok(()) => flushed.removed += 1,
            Err(e) => flushed.kept.push(Error::io(
                format!("remove {}", disk::show(path.as_os_str())),
                &e,
            )),
        }
    }
    if queue == Queue::Failed {
        remove_orphaned_reasons(&dir, now)?;
    }
    Ok(flushed)
}

/// Removes the reasons whose messages are gone. A reason is written before its message is moved, so a recent one may be
/// waiting for it.
fn remove_orphaned_reasons(dir: &Path, now: SystemTime) -> Result<()> {
    for name in all_names(dir)? {
        let Some(message) = name.as_bytes().strip_suffix(REASON_SUFFIX) else {
            continue;
        };
        let path = dir.join(&name);
        let old = |m: std::fs::Metadata| {
            m.modified()
                .is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > REASON_GRACE))
        };
        if !dir.join(OsStr::from_bytes(message)).exists()
            && std::fs::symlink_metadata(&path).is_ok_and(old)
        {
            remove(&path).map_err(|e| Error::io(format!("remove {}", path.display()), &e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
