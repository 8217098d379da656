//! Removes expired rows, a bounded number at a time: versions, tombstones, events, keys, chunks without a reference.
//!
//! Only the tables and the group decide. The transaction that removes a chunk itself checks that nothing refers to it, and
//! trusts no index in memory, which would not have an upload in progress.

use redb::ReadTransaction;

use super::super::ops::{Group, Op};
use super::commits::COMMITS;
use super::schema::{EVENTS, KEY_AGES, LOOSE, TOMBSTONES, VERSION_AGES};
use super::tables::FileTables;
use crate::config::limits;
use crate::database::DbResult;
use crate::database::table::{OpenTable, ReadableTable};
use crate::hub::store::ops::files::FileLimits;
use crate::hub::store::ops::files::FileOp;
use crate::wire::files::Hash;

/// Rows of each kind that one sweep removes at most; and two for each change of the same group, so that it keeps up.
const MAX_ROWS_PER_SWEEP: usize = 500;
/// Versions that one sweep removes because the disk is full: few, because space is freed only when their chunks are removed.
const SWEEP_FULL: usize = 100;
/// Bytes of short chunks that one sweep moves to other packs, at most: the pages of the former can be used after the commit.
const MAX_MOVED_BYTES: u64 = 2 * 1024 * 1024;
const MAX_MOVED_BYTES_WHEN_FULL: u64 = 128 * 1024;
/// Events and keys that are kept at most; fewer in tests, so that they reach the bound.
pub const EVENTS_KEPT: u64 = if cfg!(test) {
    2000
} else {
    limits::FILE_EVENTS
};
pub const KEYS_KEPT: u64 = if cfg!(test) { 3000 } else { limits::FILE_KEYS };
pub const COMMITS_KEPT: u64 = if cfg!(test) {
    1000
} else {
    limits::FILE_COMMITS
};
const DAY_MILLIS: u64 = 86_400_000;
/// Milliseconds of hub time for which tombstones and idempotency keys are kept.
const TOMBSTONE_MILLIS: u64 = 90 * DAY_MILLIS;
const KEY_MILLIS: u64 = 7 * DAY_MILLIS;
/// How long chunks without a reference are kept: for readers of a removed revision, and for uploads in progress.
const LOOSE_FOR: u64 = DAY_MILLIS;
/// The same on a full disk, when nothing is uploaded, and slow readers fail.
const LOOSE_WHEN_FULL: u64 = 60_000;

/// Hub times through which rows have expired; `None` while hub time is younger than that.
#[derive(Debug, Clone, Copy, Default)]
struct Over {
    versions: Option<u64>,
    tombstones: Option<u64>,
    keys: Option<u64>,
    loose: Option<u64>,
}

impl Over {
    fn at(now: u64, full: bool, limits: FileLimits) -> Over {
        Over {
            versions: now.checked_sub(limits.version_ttl),
            // a deleted file can be restored as long as its versions are kept
            tombstones: now.checked_sub(TOMBSTONE_MILLIS.max(limits.version_ttl)),
            keys: now.checked_sub(KEY_MILLIS),
            loose: now.checked_sub(if full { LOOSE_WHEN_FULL } else { LOOSE_FOR }),
        }
    }
}

/// Removes some expired rows. True: there may be more.
pub fn sweep(t: &mut FileTables<'_>, group: &Group) -> DbResult<bool> {
    let over = Over::at(group.now, group.full, group.limits.files);
    let most = MAX_ROWS_PER_SWEEP + 2 * group.ops.iter().map(changes).sum::<usize>();
    let removed = [
        old_versions(t, over, group.now, most)?,
        oldest_for_room(t, group)?,
        tombstones(t, over, group.now, most)?,
        events(t, most)?,
        keys(t, over, most)?,
        loose_chunks(t, over, most, group.full)?,
        commits(t, over, most)?,
    ];
    Ok(removed.contains(&most))
}

/// Changes that an operation makes at most.
fn changes(op: &Op) -> usize {
    match op {
        Op::File(FileOp::Change(changes)) => changes.len(),
        Op::File(_) => 1,
        _ => 0,
    }
}

/// A sweep would find something.
pub fn is_wanted(tx: &ReadTransaction, now: u64, full: bool, limits: FileLimits) -> DbResult<bool> {
    let over = Over::at(now, full, limits);
    let passed = |at: Option<u64>, through: Option<u64>| {
        at.zip(through).is_some_and(|(at, through)| at <= through)
    };
    let (versions, loose) = (tx.table(VERSION_AGES)?, tx.table(LOOSE)?);
    let oldest = versions.first()?.map(|(key, _)| key.value().0);
    let first_loose = loose.first()?.map(|(key, _)| key.value().0);
    let (keys, tombstones) = (tx.table(KEY_AGES)?, tx.table(TOMBSTONES)?);
    Ok(passed(oldest, over.versions)
        || passed(first_loose, over.loose)
        || (full && oldest.is_some() && first_loose.is_none())
        || passed(
            tombstones.first()?.map(|(key, _)| key.value().0),
            over.tombstones,
        )
        || passed(keys.first()?.map(|(_, row)| row.value().0), over.keys)
        || commit_is_over(&tx.table(COMMITS)?, over)?
        || keys.len()? > KEYS_KEPT
        || tx.table(EVENTS)?.len()? > EVENTS_KEPT)
}

fn old_versions(t: &mut FileTables<'_>, over: Over, now: u64, most: usize) -> DbResult<usize> {
    let Some(through) = over.versions else {
        return Ok(0);
    };
    let range = t
        .version_ages
        .range(..=(through, u128::MAX, u64::MAX))?
        .take(most);
    let old: Vec<(u64, u128, u64)> = range
        .map(|row| Ok(row?.0.value()))
        .collect::<DbResult<_>>()?;
    old.iter()
        .try_for_each(|(_, id, rev)| t.drop_version(*id, *rev, now))?;
    Ok(old.len())
}

/// Removes the oldest versions on a full disk; further ones only after the chunks of the former have been removed.
fn oldest_for_room(t: &mut FileTables<'_>, group: &Group) -> DbResult<usize> {
    if !group.full || t.loose.first()?.is_some() {
        return Ok(0);
    }
    let oldest: Vec<(u64, u128, u64)> = t
        .version_ages
        .iter()?
        .take(SWEEP_FULL)
        .map(|row| Ok(row?.0.value()))
        .collect::<DbResult<_>>()?;
    oldest
        .iter()
        .try_for_each(|(_, id, rev)| t.drop_version(*id, *rev, group.now))?;
    Ok(oldest.len())
}

fn tombstones(t: &mut FileTables<'_>, over: Over, now: u64, most: usize) -> DbResult<usize> {
    let Some(through) = over.tombstones else {
        return Ok(0);
    };
    let range = t.tombstones.range(..=(through, u128::MAX))?.take(most);
    let old: Vec<(u64, u128)> = range
        .map(|row| Ok(row?.0.value()))
        .collect::<DbResult<_>>()?;
    old.iter()
        .try_for_each(|(deleted, id)| t.drop_tombstone(*deleted, *id, now))?;
    Ok(old.len())
}

fn events(t: &mut FileTables<'_>, most: usize) -> DbResult<usize> {
    let surplus = t.events.len()?.saturating_sub(EVENTS_KEPT).min(most as u64);
    for _ in 0..surplus {
        if let Some((rev, _)) = t.events.pop_first()? {
            t.totals.forgotten = rev.value();
        }
    }
    t.changed |= surplus > 0;
    Ok(surplus as usize)
}

fn keys(t: &mut FileTables<'_>, over: Over, most: usize) -> DbResult<usize> {
    let mut removed = 0;
    while removed < most {
        let too_many = t.key_ages.len()? > KEYS_KEPT;
        let Some((at, host, key)) = t.key_ages.first()?.map(|(_, row)| {
            let (at, host, key) = row.value();
            (at, host.to_string(), key)
        }) else {
            break;
        };
        if !too_many && over.keys.is_none_or(|through| at > through) {
            break;
        }
        t.key_ages.pop_first()?;
        t.keys.remove((host.as_str(), key))?;
        removed += 1;
    }
    t.changed |= removed > 0;
    Ok(removed)
}

/// Removes expired commits. The latest one stays: up-to-date clients name it.
fn commits(t: &mut FileTables<'_>, over: Over, most: usize) -> DbResult<usize> {
    let mut removed = 0;
    while removed < most && commit_is_over(&t.commits, over)? {
        t.commits.pop_first()?;
        removed += 1;
    }
    t.changed |= removed > 0;
    Ok(removed)
}

/// Commits are kept as long as tombstones: a client that was away for longer lists everything anyway.
fn commit_is_over(
    commits: &impl ReadableTable<u64, (u64, u64, Option<u64>)>,
    over: Over,
) -> DbResult<bool> {
    let (kept, first) = (
        commits.len()?,
        commits.first()?.map(|(_, row)| row.value().1),
    );
    let old = first
        .zip(over.tombstones)
        .is_some_and(|(at, through)| at <= through);
    Ok(kept > 1 && (old || kept > COMMITS_KEPT))
}

fn loose_chunks(t: &mut FileTables<'_>, over: Over, most: usize, full: bool) -> DbResult<usize> {
    let most_moved = if full {
        MAX_MOVED_BYTES_WHEN_FULL
    } else {
        MAX_MOVED_BYTES
    };
    let Some(through) = over.loose else {
        return Ok(0);
    };
    let range = t.loose.range(..=(through, &[u8::MAX; 32]))?.take(most);
    let loose: Vec<(u64, Hash)> = range
        .map(|row| {
            let row = row?;
            let (since, hash) = row.0.value();
            Ok((since, Hash(*hash)))
        })
        .collect::<DbResult<_>>()?;
    for (since, hash) in loose
        .iter()
        .filter(|(_, hash)| !t.named.contains(hash))
        .copied()
        .collect::<Vec<_>>()
    {
        t.drop_chunk(since, hash)?;
        if t.moved_bytes >= most_moved {
            // the next sweep continues
            return Ok(most);
        }
    }
    Ok(loose.len())
}
