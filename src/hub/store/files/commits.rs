//! The chain of commits: whether a revision that a client names is one of this hub's history, and through where the two agree.
//!
//! A hub whose disk was set back gives its numbers again. It reads; the chain grows in `tables`.

use redb::{ReadableTable, TableDefinition};
use uuid::Uuid;

use super::super::Store;
use crate::error::Result;
use crate::hub::store::meta::Tried;
use crate::wire::revision::{Revision, Tag};

/// rev -> tag, hub time: the last revision of each commit that made some. And the latest revision when the store was opened, of
/// the first commit since: history can only have been set back where a hub was started.
pub const COMMITS: TableDefinition<u64, (u64, u64, Option<u64>)> =
    TableDefinition::new("file_commits");

/// What the hub says of a revision that a client has heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    Yes,
    /// So long ago that the hub does not know any more.
    Forgotten,
    /// Its number is not given yet, or was given to another change.
    No,
}

/// One row of the chain: the revisions after the row before it, through `last`, have this tag.
struct CommitRow {
    last: u64,
    tag: Tag,
    opened: Option<u64>,
}

/// The commit that made a revision, or the first one after it.
fn commit_of(
    table: &impl ReadableTable<u64, (u64, u64, Option<u64>)>,
    rev: u64,
) -> Tried<Option<CommitRow>> {
    let row = table.range(rev..)?.next().transpose()?;
    Ok(row.map(|(last, row)| CommitRow {
        last: last.value(),
        tag: Tag(row.value().0),
        opened: row.value().2,
    }))
}

/// Of a revision without a tag there is nothing to be said.
pub fn knows(
    commits: &impl ReadableTable<u64, (u64, u64, Option<u64>)>,
    at: Revision,
) -> Tried<Known> {
    if at.tag.is_unknown() {
        return Ok(Known::Yes);
    }
    let oldest = commits.first()?.map_or(0, |(last, _)| last.value());
    Ok(match commit_of(commits, at.rev)? {
        Some(commit) if commit.tag == at.tag => Known::Yes,
        // it may be of a commit before the oldest one that is kept
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
pub fn tag_of(commits: &impl ReadableTable<u64, (u64, u64, Option<u64>)>, rev: u64) -> Tried<Tag> {
    Ok(commit_of(commits, rev)?.map_or(Tag::default(), |commit| commit.tag))
}

impl Store {
    /// Whether a revision may be one of this hub's history, as far as it is known.
    pub fn is_ours(&self, at: Revision) -> Result<bool> {
        self.read(|tx| Ok(knows(&tx.open_table(COMMITS)?, at)? != Known::No))
    }

    /// Through which revision a client that has heard of these, from a hub of that epoch, has the same history; 0: they have nothing
    /// in common.
    ///
    /// Never too high: later rows are another change on either side. The answer lies between the last point that is known
    /// here and the first that is not, and there where this hub was started, if it was.
    pub fn common(&self, epoch: Uuid, points: &[Revision]) -> Result<u64> {
        let mut points: Vec<Revision> = points
            .iter()
            .filter(|point| !point.tag.is_unknown())
            .copied()
            .collect();
        points.sort_unstable();
        self.read(|tx| {
            let (commits, mut known) = (tx.open_table(COMMITS)?, 0);
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
            // nothing was changed since this start
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
