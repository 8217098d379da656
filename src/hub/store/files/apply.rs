//! Applies operations on files to the tables. The operation, the group's inputs and the tables decide everything.
//!
//! It opens no transaction, touches no chunk on the disk and reads no clock.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::super::ops::{Group, Outcome};
use super::rows::{KeyOutcome, Row};
use super::tables::FileTables;
use crate::clock;
use crate::database::DbResult;
use crate::database::table::ReadableTable;
use crate::hub::store::ops::files::{Author, Bytes, Changed, FileChange, FileOp, KeyLookup, Put};
use crate::wire::files::{Chunk, Hash, Name, OldName};
use crate::wire::revision::{Condition, Revision, Tag};

/// Versions of one file that are kept at most.
pub const VERSIONS: usize = crate::config::limits::FILE_VERSIONS;

/// Numbers in [`super::schema::ACTIONS`].
const CREATED: u8 = 0;
const UPDATED: u8 = 1;
const DELETED: u8 = 2;

/// Applies one operation. After an error the tables are half changed: the transaction must be dropped.
pub fn apply(t: &mut FileTables<'_>, group: &Group, op: &FileOp) -> DbResult<Outcome> {
    match op {
        FileOp::Change(changes) => {
            let changed = changes
                .iter()
                .map(|change| match change {
                    FileChange::Put(new) => once(t, group, &new.author, |t| put(t, group, new)),
                    FileChange::Delete {
                        id,
                        condition,
                        author,
                    } => once(t, group, author, |t| {
                        delete(t, group, *id, *condition, author)
                    }),
                })
                .collect::<DbResult<_>>()?;
            Ok(Outcome::Changed(changed))
        }
        FileOp::Restore {
            id,
            rev,
            condition,
            author,
        } => {
            let changed = once(t, group, author, |t| {
                restore(t, group, *id, *rev, *condition, author)
            })?;
            Ok(Outcome::Changed(vec![changed]))
        }
        FileOp::Want(hashes) => {
            hashes
                .iter()
                .try_for_each(|hash| t.want(*hash, group.wall))?;
            Ok(Outcome::Done)
        }
        // chunks in files have been placed already
        FileOp::Mend(_) => Ok(Outcome::Done),
        FileOp::Ask { knows, .. } if !t.has_history(*knows)? => {
            Ok(Outcome::Changed(vec![Changed::OtherHistory]))
        }
        FileOp::Ask { host, key, .. } => ask(t, group.now, host, *key).map(Outcome::Asked),
    }
}

/// The outcome of an operation, as stored under its key. A refused one is not stored, and may be retried with the same key.
enum Came {
    Done(KeyOutcome),
    Refused(Changed),
}

/// Runs an operation unless its key was used before; then it returns the earlier outcome.
fn once(
    t: &mut FileTables<'_>,
    group: &Group,
    author: &Author,
    act: impl FnOnce(&mut FileTables<'_>) -> DbResult<Came>,
) -> DbResult<Changed> {
    if !t.has_history(author.knows)? {
        return Ok(Changed::OtherHistory);
    }
    let key = author.key.map(|key| (author.host.as_str(), key.as_u128()));
    if let Some(key) = key
        && let Some(done) = t
            .keys
            .get(key)?
            .map(|row| KeyOutcome::from_bytes(row.value()))
            .transpose()?
    {
        return Ok(answer(done));
    }
    match act(t)? {
        Came::Refused(why) => Ok(why),
        Came::Done(done) => {
            if let Some(key) = key {
                remember(t, group.now, key, &done)?;
            }
            Ok(answer(done))
        }
    }
}

fn remember(t: &mut FileTables<'_>, now: u64, key: (&str, u128), end: &KeyOutcome) -> DbResult<()> {
    t.changed = true;
    let number = t.key_ages.last()?.map_or(0, |(number, _)| number.value()) + 1;
    t.key_ages.insert(number, (now, key.0, key.1))?;
    t.keys.insert(key, end.to_bytes().as_slice())?;
    Ok(())
}

fn answer(done: KeyOutcome) -> Changed {
    let boxed = |row: Option<&Row>| row.map(|row| Box::new(row.record()));
    let renamed = boxed(done.rows().get(1));
    let Some(record) = boxed(done.rows().first()) else {
        return Changed::Burnt;
    };
    match done {
        KeyOutcome::Created(_) => Changed::Created { record, renamed },
        KeyOutcome::Updated(_) => Changed::Updated { record, renamed },
        KeyOutcome::Deleted(_) => Changed::Deleted(record),
        KeyOutcome::Unchanged(_) | KeyOutcome::Burnt => Changed::Unchanged(record),
    }
}

fn ask(t: &mut FileTables<'_>, now: u64, host: &str, key: Uuid) -> DbResult<KeyLookup> {
    let key = (host, key.as_u128());
    let known = t
        .keys
        .get(key)?
        .map(|row| KeyOutcome::from_bytes(row.value()))
        .transpose()?;
    let done = match known {
        Some(done) => done,
        None => {
            remember(t, now, key, &KeyOutcome::Burnt)?;
            KeyOutcome::Burnt
        }
    };
    let mut asked = KeyLookup {
        done: done != KeyOutcome::Burnt,
        made: Vec::new(),
        current: Vec::new(),
    };
    for row in done.rows() {
        asked.made.push(row.record());
        asked
            .current
            .extend(t.by_name(&row.name)?.map(|row| row.record()));
    }
    Ok(asked)
}

/// A tombstone has a revision, but counts as no file.
fn holds(condition: Condition, current: Option<&Row>) -> bool {
    match condition {
        Condition::None => true,
        Condition::Match(wanted) => current.is_some_and(|row| is_at(row, wanted)),
        Condition::Absent => current.is_none_or(|row| !row.is_live()),
    }
}

/// A row without a tag is of another history than a revision with one.
fn is_at(row: &Row, wanted: Revision) -> bool {
    row.rev == wanted.rev && (wanted.tag.is_unknown() || wanted.tag == row.tag)
}

fn precondition(current: Option<&Row>) -> Came {
    Came::Refused(Changed::Precondition(
        current.map(|row| Box::new(row.record())),
    ))
}

/// The new content of a name, from any source.
struct NewContent {
    chunks: Vec<Chunk>,
    /// The row, except for the fields that the change decides.
    row: Row,
}

fn put(t: &mut FileTables<'_>, group: &Group, put: &Put) -> DbResult<Came> {
    let current = t.by_name(&put.name)?;
    if !holds(put.condition, current.as_ref()) {
        return Ok(precondition(current.as_ref()));
    }
    let wanted = |from: &OldName| Revision {
        rev: from.if_match,
        tag: from.tag,
    };
    let from = match put.from.as_ref().map(|from| {
        (
            Name {
                path: from.path.clone(),
                name: from.name.clone(),
            },
            wanted(from),
        )
    }) {
        Some((name, at)) if name != put.name => match t.by_name(&name)? {
            Some(row) if row.is_live() && is_at(&row, at) => Some(row),
            other => return Ok(precondition(other.as_ref())),
        },
        _ => None,
    };
    let row = Row {
        id: current.as_ref().map_or(put.fresh, |row| row.id),
        name: put.name.clone(),
        rev: 0,
        tag: Tag::default(),
        kind: put.kind,
        size: put.size,
        sha256: put.sha256,
        mode: put.mode,
        mtime: put.mtime.clone(),
        content_type: put.content_type.clone().unwrap_or_default(),
        extra: put.extra.clone(),
        created: group.wall,
        updated: group.wall,
        deleted: None,
        replaced: None,
        host: put.author.host.clone(),
        renamed_to: None,
        aged: group.now,
    };
    let lost = give_again(t, &put.chunks)?;
    if !lost.is_empty() {
        return Ok(Came::Refused(if group.full {
            Changed::DiskFull
        } else {
            Changed::Missing(lost)
        }));
    }
    if let (Some(current), None) = (&current, &from)
        && (is_the_same(current, &row)
            || (put.condition == Condition::None && is_stale(t, current, &row)?))
    {
        return Ok(Came::Done(KeyOutcome::Unchanged(vec![current.clone()])));
    }
    if group.full {
        return Ok(Came::Refused(Changed::DiskFull));
    }
    let missing = take_chunks(t, group.now, &put.chunks)?;
    if !missing.is_empty() {
        return Ok(Came::Refused(Changed::Missing(missing)));
    }
    let chunks = put.chunks.iter().map(|(chunk, _)| *chunk).collect();
    let overwrites = put.condition == Condition::None;
    change(
        t,
        group,
        NewContent { chunks, row },
        current,
        from,
        overwrites,
    )
    .map(Came::Done)
}

fn is_the_same(current: &Row, new: &Row) -> bool {
    let equal_mode = new.mode.is_none() || current.mode == new.mode;
    let equal_mtime = new.mtime.is_none() || equal_times(&current.mtime, &new.mtime);
    current.is_live() && equal_bytes(current, new) && equal_mode && equal_mtime
}

fn equal_bytes(a: &Row, b: &Row) -> bool {
    (a.kind, a.size, a.sha256) == (b.kind, b.size, b.sha256)
}

fn equal_times(a: &Option<String>, b: &Option<String>) -> bool {
    let time = |text: &Option<String>| clock::parse_rfc3339(text.as_deref()?);
    a == b || time(a).is_some_and(|a| time(b) == Some(a))
}

/// Whether `new` is the same time, or that without its fraction of a second.
fn is_time_of(new: &Option<String>, old: &Option<String>) -> bool {
    let since = |text: &Option<String>| {
        clock::parse_rfc3339(text.as_deref()?)?
            .duration_since(std::time::UNIX_EPOCH)
            .ok()
    };
    let whole =
        |new: Duration| since(old).is_some_and(|old| new == Duration::from_secs(old.as_secs()));
    equal_times(old, new) || since(new).is_some_and(whole)
}

/// A client that does not know the later changes uploads an older version again, as the first scan of a directory does that
/// was not synced for a while. The writer of the current revision knows the later changes, so it means to go back. Whole
/// seconds also match, because `s3ec` keeps no fraction of the times that it downloads.
fn is_stale(t: &FileTables<'_>, current: &Row, new: &Row) -> DbResult<bool> {
    if current.host == new.host || new.mtime.is_none() {
        return Ok(false);
    }
    for rev in t.version_revs(current.id.as_u128())? {
        if t.version(current.id, rev)?
            .is_some_and(|old| equal_bytes(&old, new) && is_time_of(&new.mtime, &old.mtime))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Replaces the stored bytes of known chunks, which may be damaged, by those given. Returns the lost chunks that were not
/// given, each once.
fn give_again(t: &mut FileTables<'_>, chunks: &[(Chunk, Bytes)]) -> DbResult<Vec<Hash>> {
    let mut lost = BTreeSet::new();
    for (chunk, bytes) in chunks {
        let is_lost = match bytes {
            Bytes::Inline(bytes) if bytes.len() as u64 == chunk.size && t.has_chunk(chunk)? => {
                t.mend(chunk.sha256, Some(bytes))?;
                false
            }
            Bytes::Inline(_) => false,
            Bytes::Lost => true,
            Bytes::Known | Bytes::Staged(_) => t.is_wanted(chunk.sha256)?,
        };
        if is_lost {
            lost.insert(chunk.sha256);
        }
    }
    Ok(lost.into_iter().collect())
}

/// Adds these chunks to the tables. Returns those that are missing, each once.
fn take_chunks(t: &mut FileTables<'_>, now: u64, chunks: &[(Chunk, Bytes)]) -> DbResult<Vec<Hash>> {
    let mut missing = BTreeSet::new();
    for (chunk, bytes) in chunks {
        if t.has_chunk(chunk)? {
            continue;
        }
        match bytes {
            Bytes::Inline(bytes)
                if bytes.len() as u64 == chunk.size && t.chunks.get(&chunk.sha256.0)?.is_none() =>
            {
                t.add_chunk(chunk.sha256, chunk.size, Some(bytes), now)?;
            }
            _ => drop(missing.insert(chunk.sha256)),
        }
    }
    Ok(missing.into_iter().collect())
}

/// Gives a name a new revision: the former one becomes a version, and the old name of a renamed file a tombstone.
fn change(
    t: &mut FileTables<'_>,
    group: &Group,
    content: NewContent,
    current: Option<Row>,
    from: Option<Row>,
    overwrites: bool,
) -> DbResult<KeyOutcome> {
    let live = current.as_ref().filter(|row| row.is_live());
    let created = live.map_or(group.wall, |row| row.created);
    let row = Row {
        rev: t.next_rev(),
        tag: t.tag,
        created,
        ..content.row
    };
    if let Some(current) = &current {
        t.retire(current, group.now, group.wall)?;
        keep_newest_versions(t, current, group.now)?;
    }
    t.stand(&row, &content.chunks)?;
    let (action, overwrote) = match live {
        Some(replaced) => (UPDATED, overwrites.then_some(replaced.rev)),
        None => (CREATED, None),
    };
    t.event(action, &row, group.wall, overwrote)?;
    let mut rows = vec![row];
    if let Some(from) = from {
        let (host, to) = (rows[0].host.clone(), rows[0].name.clone());
        rows.push(bury(t, group, from, host, Some(to))?);
    }
    Ok(if action == CREATED {
        KeyOutcome::Created(rows)
    } else {
        KeyOutcome::Updated(rows)
    })
}

/// Replaces a file by a tombstone.
fn bury(
    t: &mut FileTables<'_>,
    group: &Group,
    current: Row,
    host: String,
    renamed_to: Option<Name>,
) -> DbResult<Row> {
    t.retire(&current, group.now, group.wall)?;
    keep_newest_versions(t, &current, group.now)?;
    let (rev, wall) = (t.next_rev(), group.wall);
    let row = Row {
        rev,
        tag: t.tag,
        updated: wall,
        deleted: Some(wall),
        host,
        renamed_to,
        aged: group.now,
        ..current
    };
    t.stand(&row, &[])?;
    t.event(DELETED, &row, wall, None)?;
    Ok(row)
}

fn keep_newest_versions(t: &mut FileTables<'_>, row: &Row, now: u64) -> DbResult<()> {
    let id = row.id.as_u128();
    let revs = t.version_revs(id)?;
    for rev in revs.iter().take(revs.len().saturating_sub(VERSIONS)) {
        t.drop_version(id, *rev, now)?;
    }
    Ok(())
}

fn delete(
    t: &mut FileTables<'_>,
    group: &Group,
    id: Uuid,
    condition: Condition,
    author: &Author,
) -> DbResult<Came> {
    let Some(current) = t.by_id(id)?.filter(Row::is_live) else {
        return Ok(Came::Refused(Changed::NoSuchFile));
    };
    if !holds(condition, Some(&current)) {
        return Ok(precondition(Some(&current)));
    }
    let row = bury(t, group, current, author.host.clone(), None)?;
    Ok(Came::Done(KeyOutcome::Deleted(vec![row])))
}

fn restore(
    t: &mut FileTables<'_>,
    group: &Group,
    id: Uuid,
    rev: Option<u64>,
    condition: Condition,
    author: &Author,
) -> DbResult<Came> {
    let Some(current) = t.by_id(id)? else {
        return Ok(Came::Refused(Changed::NoSuchFile));
    };
    if !holds(condition, Some(&current)) {
        return Ok(precondition(Some(&current)));
    }
    let stands = || Came::Done(KeyOutcome::Unchanged(vec![current.clone()]));
    if current.is_live() && rev == Some(current.rev) {
        return Ok(stands());
    }
    let rev = match rev {
        Some(rev) => Some(rev),
        None => t.version_revs(id.as_u128())?.pop(),
    };
    let version = rev.map(|rev| t.version(id, rev)).transpose()?.flatten();
    let Some(version) = version else {
        return Ok(Came::Refused(Changed::NoSuchVersion));
    };
    if is_the_same(&current, &version) {
        return Ok(stands());
    }
    if group.full {
        return Ok(Came::Refused(Changed::DiskFull));
    }
    let chunks = t.chunks_of(&version)?;
    let mut lost = Vec::new();
    for chunk in &chunks {
        lost.extend(t.is_wanted(chunk.sha256)?.then_some(chunk.sha256));
    }
    if !lost.is_empty() {
        return Ok(Came::Refused(Changed::Missing(lost)));
    }
    let row = Row {
        updated: group.wall,
        replaced: None,
        host: author.host.clone(),
        aged: group.now,
        ..version
    };
    change(
        t,
        group,
        NewContent { chunks, row },
        Some(current),
        None,
        false,
    )
    .map(Came::Done)
}
