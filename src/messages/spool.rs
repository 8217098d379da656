//! The part of the spool that commands use: write, list, find, retry and remove messages.
//!
//! Plain files only, and every change of state is one rename, link or unlink, so it works without a hub and a daemon,
//! and beside them. It neither sends nor receives: other modules exchange messages with the hub.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use uuid::Uuid;

use super::{Queue, file_name, hooks, is_hidden, parse_file_name};
use crate::config::limits;
use crate::error::{Error, Kind, Result, plain};
use crate::wire::{MAX_MESSAGE, Message};
use crate::{clock, disk};

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

/// Generates ids within one process, in order.
pub struct Ids(uuid::ContextV7);

impl Default for Ids {
    fn default() -> Ids {
        Ids(uuid::ContextV7::new().with_additional_precision())
    }
}

impl Ids {
    /// A version 7 id of the given time, with a finer resolution than milliseconds.
    fn next(&self, now: SystemTime) -> Uuid {
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
    pub fn new(mut message: Message, ids: &Ids, now: SystemTime) -> Result<Outgoing> {
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
    let outgoing = Outgoing::new(message, &Ids::default(), now)?;
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
    let mut unnamed = Unnamed::default();
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
struct Unnamed(Vec<PathBuf>);

impl Drop for Unnamed {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
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
    let id = Ids::default().next(now);
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
pub struct Flushed {
    pub removed: u64,
    /// Why some files could not be removed.
    pub kept: Vec<Error>,
}

/// Removes all messages of a queue, and the reasons beside failed ones. Records in `state/` stay: received messages do
/// not return, and their hooks still run. Refused for the outbox.
pub fn flush(base: &Path, queue: Queue, now: SystemTime) -> Result<Flushed> {
    if queue == Queue::Outbox {
        return Err(Error::new(Kind::Usage, "will not flush the outbox: the hub does not have its messages yet, so they would be lost")
            .hint("remove single files there by hand"));
    }
    let dir = queue.dir(base);
    let mut flushed = Flushed::default();
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
mod tests {
    use super::*;
    use std::time::Duration;

    const ID: &str = "01a20036-fe28-7b4d-af6f-5b397f1b51b4";
    const OTHER: &str = "01a20036-fe28-7b4d-af6f-5b397f1b0000";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_300_000 + seconds)
    }

    /// A spool with these files, as `queue/name` and content.
    fn spool(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path()).unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    fn seen(base: &Path, queue: Queue) -> Vec<String> {
        let show = |e: &QueueEntry| {
            format!(
                "{} {:?} {:?}",
                disk::show(&e.name),
                e.message.as_ref().map(|m| m.priority),
                e.reason
            )
        };
        list(base, queue).unwrap().iter().map(show).collect()
    }

    #[test]
    fn sent_messages_are_complete_and_in_order() {
        let dir = spool(&[]);
        let message = |priority| Message {
            kind: "x".into(),
            priority,
            ..Message::default()
        };
        for (i, p) in ["low", "normal", "high", "high"].iter().enumerate() {
            let (id, path) = send(
                dir.path(),
                message(crate::wire::Priority::parse(p).unwrap()),
                at(i as u64),
            )
            .unwrap();
            assert_eq!(
                path.file_name().unwrap().to_str(),
                Some(file_name(at(i as u64), id).as_str())
            );
        }
        let order: Vec<_> = list(dir.path(), Queue::Outbox)
            .unwrap()
            .iter()
            .map(|e| (e.message.as_ref().unwrap().priority.name(), e.time))
            .collect();
        assert_eq!(
            order,
            [
                ("high", at(2)),
                ("high", at(3)),
                ("normal", at(1)),
                ("low", at(0))
            ]
        );
        let huge = Some(serde_json::value::to_raw_value(&"x".repeat(MAX_MESSAGE)).unwrap());
        let refused = send(
            dir.path(),
            Message {
                payload: huge,
                ..message(Default::default())
            },
            at(9),
        )
        .unwrap_err();
        assert!(
            refused.kind == Kind::Usage && refused.what.contains("send a reference"),
            "{refused}"
        );
        assert_eq!(
            std::fs::read_dir(Queue::Outbox.dir(dir.path()))
                .unwrap()
                .count(),
            4
        );
    }

    #[test]
    fn ids_of_one_machine_sort_by_time() {
        let new_id = |now| Ids::default().next(now);
        let ids: Vec<Uuid> = (0..50)
            .map(|i| new_id(at(0) + Duration::from_micros(i)))
            .collect();
        assert!(
            ids.is_sorted() && new_id(SystemTime::UNIX_EPOCH - Duration::from_secs(5)) < ids[0]
        );
        let one_process = Ids::default();
        let ids: Vec<Uuid> = (0..5_000).map(|_| one_process.next(at(0))).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "at one time");
    }

    #[test]
    fn every_message_is_listed_with_its_problem() {
        let dir = spool(&[
            ("failed/b.json", "{\"type\":\"x\"}"),
            ("failed/b.json.reason", "hub said no\nsecond line"),
            ("failed/a.json", "nonsense"),
            ("failed/.c.json.tmp", ""),
            ("failed/d.part", ""),
            ("outbox/e.reason", "{\"type\":\"x\"}"),
        ]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("failed/link")).unwrap();
        let wants = [
            "a.json Err(\"it is not JSON: expected ident at line 1 column 2\") None",
            "b.json Ok(Normal) Some(\"hub said no\")",
            "link Err(\"it is not a regular file\") None",
        ];
        assert_eq!(seen(dir.path(), Queue::Failed), wants);
        // the suffix has a meaning only in failed/
        assert_eq!(
            seen(dir.path(), Queue::Outbox),
            ["e.reason Ok(Normal) None"]
        );
        assert_eq!(seen(&dir.path().join("nowhere"), Queue::Inbox), [""; 0]);
    }

    #[test]
    fn a_message_is_found_by_id_prefix_suffix_or_file_name() {
        let (name, other) = (
            format!("inbox/20261121T103000_{ID}.json"),
            format!("sent/20261121T103000_{OTHER}.json"),
        );
        let dropped = format!("{{\"type\":\"x\",\"id\":\"{}\"}}", Uuid::from_u128(0xabcd));
        let dir = spool(&[
            (&name, "{}"),
            (&other, "{}"),
            ("outbox/drop\n.json", &dropped),
            ("failed/-x", ""),
        ]);
        let check = |what: &str, wants: &str| {
            let got = match find(dir.path(), OsStr::new(what)) {
                Ok(entries) => entries
                    .iter()
                    .map(|e| format!("{}/{}", e.queue.name(), disk::show(&e.name)))
                    .collect::<Vec<_>>()
                    .join(" "),
                Err(e) => e.to_string(),
            };
            assert!(got.starts_with(wants), "{what}: {got}");
        };
        check(ID, &name);
        check(&ID.to_uppercase().replace('-', ""), &name);
        check("51b4", &name);
        check("7f1b-0000", &other);
        check(
            "01a20036",
            "2 messages match 01a20036: 01a20036-fe28-7b4d-af6f-5b397f1b0000, 01a2",
        );
        check("1b4", "there is no message 1b4 (at least 4 characters");
        check(&name[6..], &name);
        check("abcd", "outbox/drop\\n.json");
        check("drop\n.json", "outbox/drop\\n.json");
        check("drop\\n.json", "outbox/drop\\n.json");
        check("-x", "failed/-x");
        check("../inbox", "there is no message ../inbox");
        std::fs::copy(
            dir.path().join(&name),
            dir.path().join(name.replace("inbox", "sent")),
        )
        .unwrap();
        check(ID, &format!("{name} {}", name.replace("inbox", "sent")));
    }

    #[test]
    fn a_retried_message_keeps_its_id_and_its_time_limit_begins_anew() {
        let old = format!("20200101T000000_{ID}.json");
        let dir = spool(&[
            (&format!("failed/{old}"), "{\"type\":\"x\"}"),
            (&format!("failed/{old}.reason"), "too old"),
        ]);
        let entry = || find(dir.path(), OsStr::new(ID)).unwrap().remove(0);
        let failed = entry();
        let queued = retry(dir.path(), &failed, at(0)).unwrap();
        assert_eq!(
            queued,
            dir.path()
                .join("outbox")
                .join(file_name(at(0), ID.parse().unwrap()))
        );
        assert_eq!(
            std::fs::read_dir(dir.path().join("failed"))
                .unwrap()
                .count(),
            0
        );
        assert!(
            retry(dir.path(), &entry(), at(1))
                .unwrap_err()
                .what
                .contains("it is in outbox, not in failed")
        );
        // as after a crash between link and unlink, in the same second and later: nothing is lost, and the id is the
        // same
        let again = |now| {
            disk::link_or_copy(&queued, &failed.path).unwrap();
            retry(dir.path(), &failed, now).unwrap()
        };
        assert_eq!(again(at(0)), queued);
        assert_eq!(
            again(at(5)),
            queued.with_file_name(file_name(at(5), ID.parse().unwrap()))
        );
        assert!(!failed.path.exists());
        // another file of that name is not touched
        std::fs::write(&failed.path, "{\"type\":\"other\"}").unwrap();
        assert_eq!(
            retry(dir.path(), &failed, at(5)).unwrap_err().kind,
            Kind::Busy
        );
        assert!(failed.path.exists());
    }

    #[test]
    fn an_invalid_message_stays_failed_until_it_is_corrected() {
        let dir = spool(&[
            ("failed/mine.json", "{\"payload\":1}"),
            ("failed/mine.json.reason", "no type"),
        ]);
        let entry = || list(dir.path(), Queue::Failed).unwrap().remove(0);
        let refused = retry(dir.path(), &entry(), at(0)).unwrap_err().to_string();
        assert!(
            refused.contains("cannot retry mine.json: it has no \"type\"")
                && refused.contains("correct or remove"),
            "{refused}"
        );
        std::fs::write(entry().path, "{\"type\":\"x\"}").unwrap();
        let queued = retry(dir.path(), &entry(), at(0)).unwrap();
        assert!(parse_file_name(queued.file_name().unwrap().to_str().unwrap()).is_some());
        assert_eq!(
            std::fs::read_dir(dir.path().join("failed"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn flush_removes_messages_and_their_reasons_and_nothing_else() {
        let dir = spool(&[
            ("failed/a", ""),
            ("failed/a.reason", ""),
            ("failed/gone.reason", ""),
            ("failed/.b.tmp", ""),
            ("inbox/c", ""),
            ("state/hooks/c.0", ""),
            ("outbox/d", ""),
        ]);
        std::fs::create_dir(dir.path().join("failed/dir")).unwrap();
        let now = crate::clock::now();
        let failed = flush(dir.path(), Queue::Failed, now).unwrap();
        assert_eq!(
            (failed.removed, failed.kept.len()),
            (1, 1),
            "{:?}",
            failed.kept
        );
        assert!(
            dir.path().join("failed/gone.reason").exists(),
            "its message may be about to come"
        );
        assert_eq!(
            flush(dir.path(), Queue::Failed, now + REASON_GRACE * 2)
                .unwrap()
                .removed,
            0
        );
        assert!(
            !dir.path().join("failed/gone.reason").exists()
                && dir.path().join("failed/.b.tmp").exists()
        );
        assert_eq!(flush(dir.path(), Queue::Inbox, now).unwrap().removed, 1);
        assert!(dir.path().join("state/hooks/c.0").exists());
        assert_eq!(
            flush(dir.path(), Queue::Outbox, now).unwrap_err().kind,
            Kind::Usage
        );
        assert!(dir.path().join("outbox/d").exists());
    }
}
