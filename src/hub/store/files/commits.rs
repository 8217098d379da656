//! The chain of commits: tells whether a client's revision is in this hub's history, and finds the last common one.
//!
//! It is needed because a hub whose disk was restored uses its numbers again. This file only reads; `tables` adds rows.

use redb::TableDefinition;
use uuid::Uuid;

use super::super::Store;
use crate::database::DbResult;
use crate::database::table::{OpenTable, ReadableTable};
use crate::error::Result;
use crate::wire::revision::{Revision, Tag};

/// rev -> tag, hub time, opened. One row for each commit with revisions, under the last of them. The first commit after a
/// start also has the latest revision at that start: only there can the history have been replaced by an older one.
pub const COMMITS: TableDefinition<u64, (u64, u64, Option<u64>)> =
    TableDefinition::new("file_commits");

/// Whether a client's revision is in this hub's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    Yes,
    /// Too old: the hub no longer knows.
    Forgotten,
    /// Its number is unused, or was used for another change.
    No,
}

/// One row of the chain: the revisions after the previous row, through `last`, have this tag.
struct CommitRow {
    last: u64,
    tag: Tag,
    opened: Option<u64>,
}

/// The commit that made a revision, or the first one after it.
fn commit_of(
    table: &impl ReadableTable<u64, (u64, u64, Option<u64>)>,
    rev: u64,
) -> DbResult<Option<CommitRow>> {
    let row = table.range(rev..)?.next().transpose()?;
    Ok(row.map(|(last, row)| CommitRow {
        last: last.value(),
        tag: Tag(row.value().0),
        opened: row.value().2,
    }))
}

/// Nothing is known of a revision without a tag.
pub fn knows(
    commits: &impl ReadableTable<u64, (u64, u64, Option<u64>)>,
    at: Revision,
) -> DbResult<Known> {
    if at.tag.is_unknown() {
        return Ok(Known::Yes);
    }
    let oldest = commits.first()?.map_or(0, |(last, _)| last.value());
    Ok(match commit_of(commits, at.rev)? {
        Some(commit) if commit.tag == at.tag => Known::Yes,
        // it may be of a commit before the oldest kept one
        Some(commit)
            if commit.last == oldest
                && commit.opened.is_none_or(|opened| at.rev <= opened)
                && at.rev < oldest =>
        {
            Known::Forgotten
        }
        _ => Known::No,
    })
}

/// The tag of a revision, if it is known.
pub fn tag_of(
    commits: &impl ReadableTable<u64, (u64, u64, Option<u64>)>,
    rev: u64,
) -> DbResult<Tag> {
    Ok(commit_of(commits, rev)?.map_or(Tag::default(), |commit| commit.tag))
}

impl Store {
    /// Whether a revision may be in this hub's history, as far as the chain tells.
    pub fn is_ours(&self, at: Revision) -> Result<bool> {
        self.read(|tx| Ok(knows(&tx.table(COMMITS)?, at)? != Known::No))
    }

    /// The last revision that is common to this hub and a client that knows `points`, from a hub of `epoch`; 0: none.
    ///
    /// It is never too high: later rows are different changes on the two sides. It lies between the last point that is known
    /// here and the first that is not; if this hub was started between them, it is the revision at that start.
    pub fn common(&self, epoch: Uuid, points: &[Revision]) -> Result<u64> {
        let mut points: Vec<Revision> = points
            .iter()
            .filter(|point| !point.tag.is_unknown())
            .copied()
            .collect();
        points.sort_unstable();
        self.read(|tx| {
            let (commits, mut known) = (tx.table(COMMITS)?, 0);
            for point in &points {
                if knows(&commits, *point)? == Known::Yes {
                    known = point.rev;
                }
            }
            if known == 0 && epoch != self.epoch {
                return Ok(0);
            }
            let unknown = points
                .iter()
                .find(|point| point.rev > known)
                .map_or(u64::MAX, |point| point.rev);
            let mut before = known;
            for row in commits.range(known + 1..)? {
                let (last, row) = row?;
                if let Some(opened) = row.value().2.filter(|opened| *opened >= known) {
                    return Ok(if opened < unknown { opened } else { known });
                }
                if before >= unknown {
                    return Ok(known);
                }
                before = last.value();
            }
            // no commit since this hub's start
            Ok(
                if (known..unknown).contains(&self.opened) && before == self.opened {
                    self.opened
                } else {
                    known
                },
            )
        })
    }
}
