//! Stores the hub's changes page by page: rows and cursor in one transaction, whether or not they
//! can be applied.
//!
//! It changes nothing in the tree; each stored row makes its path pending.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLockWriteGuard};

use uuid::Uuid;

use crate::files::plan::{BaseRow, RemoteRow};
use crate::relpath;
use crate::wire::revision::Revision;

use super::pages::{each_below, each_page};
use super::traits::{CallResult, ChangesResult, Fault, Feed, RowPage, Rows, Write};
use super::{Engine, lock};

/// Own changes that the feed has not reported; the paths of others are examined once more.
const MAX_OWN_CHANGES: usize = 4096;

/// The result of a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollResult {
    /// Poll again at once.
    More,
    /// There are no more changes.
    Drained,
    /// Another hub: everything known was forgotten. Scan the whole tree, and poll again at once.
    NewEpoch,
    /// The hub was set back to this revision; what was in sync after it is sent again. Handle like
    /// `NewEpoch`.
    SetBack(u64),
    /// Another thread is polling.
    Busy,
}

impl Engine {
    /// Fetches and stores one page.
    pub fn poll(&self) -> CallResult<PollResult> {
        let Ok(_one) = self.polling.try_lock() else {
            return Ok(PollResult::Busy);
        };
        let feed = self.env.state.feed()?;
        if feed.generation != self.generation() {
            // the commit that forgot all rows failed, but had taken effect
            self.forgotten(self.lock_generation(), feed.generation)?;
            return Ok(PollResult::NewEpoch);
        }
        match self
            .env
            .hub
            .changes(feed.cursor, self.newest(), feed.began)?
        {
            ChangesResult::Gone => {
                *lock(&self.drained) = false;
                let start = Feed {
                    cursor: 0,
                    listing: false,
                    began: None,
                    ..feed
                };
                self.env
                    .state
                    .commit(&[Write::Feed(start), Write::NothingListed])?;
                Ok(PollResult::More)
            }
            ChangesResult::OtherHistory => self.compare(feed, feed.epoch),
            ChangesResult::Page(page) if page.epoch != feed.epoch || page.rev < feed.cursor => {
                self.compare(feed, page.epoch)
            }
            ChangesResult::Page(page) => self.store(feed, page),
        }
    }

    /// Handles a hub whose epoch or history changed: it was either set back, or is another hub. For
    /// another hub all rows are meaningless: equal files are adopted, all others are new on both
    /// sides.
    fn compare(&self, feed: Feed, epoch: Uuid) -> CallResult<PollResult> {
        let points = self.env.state.points()?;
        let through = if points.is_empty() {
            0
        } else {
            self.env.hub.common(feed.epoch, &points)?
        };
        let generation = self.lock_generation();
        let (mut writes, polled) = match through {
            0 => (vec![Write::ForgetAll], PollResult::NewEpoch),
            through => {
                let mut writes = self.incomplete_renames(through)?;
                writes.push(Write::SetBack { through });
                (writes, PollResult::SetBack(through))
            }
        };
        let start = Feed {
            epoch,
            generation: feed.generation + 1,
            ..Feed::default()
        };
        writes.push(Write::Feed(start));
        self.env.state.commit(&writes)?;
        self.forgotten(generation, start.generation)?;
        Ok(polled)
    }

    /// Forgets the deletes that were half of a rename on the hub, of which the other half is not in
    /// sync here: sent again alone, they would delete the only copy.
    fn incomplete_renames(&self, through: u64) -> CallResult<Vec<Write>> {
        let state = self.env.state.as_ref();
        let mut writes = Vec::new();
        each_below::<Fault>(state, "", |path: &str, rows: &Rows| {
            let is_delete = rows.base.entry.is_none() && rows.base.rev > through;
            if let Some(to) = rows.remote.renamed_to.as_ref().filter(|_| is_delete)
                && state.rows(to)?.base.entry.is_none()
            {
                writes.push(Write::Base(path.to_string(), BaseRow::default()));
            }
            Ok(true)
        })?;
        Ok(writes)
    }

    /// Keeps all threads from committing until the guard is dropped.
    fn lock_generation(&self) -> RwLockWriteGuard<'_, u64> {
        self.generation
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn forgotten(&self, mut generation: RwLockWriteGuard<'_, u64>, now: u64) -> CallResult<()> {
        *lock(&self.newest) = self.env.state.points()?.last().copied().unwrap_or_default();
        *generation = now;
        drop(generation);
        *lock(&self.own) = OwnChanges::default();
        *lock(&self.drained) = false;
        self.queue().forget_examined();
        Ok(())
    }

    fn store(&self, feed: Feed, page: RowPage) -> CallResult<PollResult> {
        let listing = feed.listing || feed.cursor == 0;
        let began = if listing {
            feed.began.or(page.began).or(Some(page.rev))
        } else {
            None
        };
        let cursor = page.last.unwrap_or(feed.cursor);
        let mut at = Feed {
            cursor,
            listing,
            began,
            ..feed
        };
        let points = points(&page);
        // whatever the hub sends, no name may lead outside the directory
        let named: Vec<(String, RemoteRow)> = page
            .rows
            .into_iter()
            .filter(|(path, _)| relpath::check(path).is_ok())
            .collect();
        let paths: Vec<String> = {
            // a response has brought the others: their paths were examined after it
            let mut own = lock(&self.own);
            let news = named
                .iter()
                .filter(|(_, row)| !own.take(row.at()) || listing);
            news.map(|(path, _)| path.clone()).collect()
        };
        self.expect_moves(&named);
        let rows = named.into_iter().map(|(path, row)| Write::Remote {
            path,
            row,
            listed: listing,
        });
        let mut writes: Vec<Write> = rows.collect();
        if page.last.is_none() && page.more {
            // a hub that always reports more changes would be polled forever
            return Ok(PollResult::Drained);
        }
        if points
            .last()
            .is_some_and(|last| at != feed || *last > self.newest())
        {
            writes.push(Write::Points(points));
        }
        writes.push(Write::Feed(at));
        if at != feed || writes.len() > 1 {
            // with a sync: a cursor that is lost while a page is fetched after it would leave rows out
            self.written(self.env.state.commit(&writes))?;
            self.heard(&writes);
        }
        if !page.more && listing {
            self.end_listing(page.rev)?;
            at = Feed {
                listing: false,
                began: None,
                ..at
            };
            self.env
                .state
                .commit(&[Write::Feed(at), Write::NothingListed])?;
        }
        // offer the page as a whole: no thread may decide about one path as if the others had not
        // changed
        let mut queue = self.queue();
        paths.iter().for_each(|path| {
            queue.offer(path);
        });
        drop(queue);
        let news = std::mem::replace(&mut *lock(&self.drained), !page.more) == page.more;
        if news || !paths.is_empty() {
            self.wake(false);
        }
        Ok(if page.more {
            PollResult::More
        } else {
            PollResult::Drained
        })
    }

    /// Treats everything that the listing did not name as deleted on the hub. It may be repeated,
    /// because the end of the listing is stored last.
    fn end_listing(&self, through: u64) -> CallResult<()> {
        let read = |after: &str, most| self.env.state.not_listed(after, most);
        each_page(read, String::as_str, |paths| {
            let writes: Vec<Write> = paths
                .iter()
                .map(|path| Write::Unlisted {
                    path: path.clone(),
                    through,
                })
                .collect();
            self.env.state.commit(&writes)?;
            for path in paths {
                self.offer(path);
            }
            Ok(true)
        })
    }

    /// Writes the rows of responses to this client's requests; they may be older than what the feed
    /// has reported.
    pub(super) fn remote_writes(rows: &[(String, RemoteRow)]) -> impl Iterator<Item = Write> + '_ {
        rows.iter().map(|(path, row)| Write::Remote {
            path: path.clone(),
            row: row.clone(),
            listed: false,
        })
    }
}

/// Changes of this client that its state has from the hub's responses, until the feed reports them.
#[derive(Debug, Default)]
pub(super) struct OwnChanges(BTreeSet<Revision>);

impl OwnChanges {
    pub(super) fn add(&mut self, made: impl Iterator<Item = Revision>) {
        self.0.extend(made);
        while self.0.len() > MAX_OWN_CHANGES {
            self.0.pop_first();
        }
    }

    fn take(&mut self, at: Revision) -> bool {
        self.0.remove(&at)
    }
}

/// One point for each commit on a page, and the newest one, since the absence of other rows is
/// information too.
fn points(page: &RowPage) -> Vec<Revision> {
    let latest = Revision {
        rev: page.rev,
        tag: page.tag,
    };
    let rows = page
        .rows
        .iter()
        .map(|(_, row)| row.at())
        .chain([latest])
        .filter(|at| !at.tag.is_unknown());
    let mut points: Vec<Revision> = Vec::new();
    for at in rows {
        match points.last_mut() {
            Some(last) if last.tag == at.tag => *last = at,
            _ => points.push(at),
        }
    }
    points
}
