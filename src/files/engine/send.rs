//! Sends changes to the hub. Each has a key that is durable before the request, and is settled
//! before anything else happens at its paths.
//!
//! A row in a response to a failed condition is not believed: the response does not say which epoch
//! it is from, and may come from a hub that was set back to before the local edit. The feed reports
//! the row.

use crate::config::watch::SyncMode;
use crate::files::plan::{
    BaseRow, DIR_MODE, Entry, Local, RemoteRow, Stamp, is_below, local_mode, local_mtime, parent,
};
use crate::wire::files::Hash;
use crate::wire::revision::Revision;

use super::traits::{
    ChangeOutcome, CompletedChange, ExpectedRow, Fault, HubChange, OldPath, OpenKey, Write,
};
use super::{Engine, Interrupted, PathResult, PathState};

/// Files that are examined as the source of a rename, or as a copy of the same bytes.
pub(super) const CANDIDATES: usize = 16;

/// Files with the same bytes that are asked whether one of them was moved.
pub(super) const MAX_EQUAL_FILES: usize = 1000;

/// A change to send, with what it needs besides the request.
pub(super) struct OutgoingChange<'a> {
    pub path: String,
    pub entry: Option<Entry>,
    pub condition: ExpectedRow,
    pub from: Option<OldPath>,
    /// The local file whose bytes are sent; `None`: the hub has everything it needs.
    pub local: Option<&'a Local>,
    /// The change describes this tree.
    pub ours: bool,
}

/// Where the rows that a change made can be read again.
#[derive(Clone, Copy)]
enum RowSource {
    ByHub,
    /// A server cannot keep them.
    HereOnly,
}

impl Engine {
    /// Sends a change and records the response. Without a response the key stays open.
    pub(super) fn send(&self, generation: u64, outgoing: OutgoingChange) -> PathResult {
        let change = HubChange {
            path: outgoing.path,
            key: self.env.ambient.fresh(),
            condition: outgoing.condition,
            entry: outgoing.entry,
            from: outgoing.from,
            newest: self.newest(),
        };
        let names: Vec<String> = std::iter::once(&change.path)
            .chain(change.from.as_ref().map(|f| &f.path))
            .cloned()
            .collect();
        let key = OpenKey {
            key: change.key,
            names,
            ours: outgoing.ours,
            seen: outgoing.local.map(|l| l.stamp),
        };
        self.commit(generation, &[Write::OpenKey(key.clone())])?;
        let answer = match outgoing.local {
            Some(local) => self.env.transfer.upload(&change, local),
            None => self.env.hub.change(&change),
        };
        if let Err(Fault::Refused(_)) = &answer {
            // this is a response too: the change was not made
            self.settled(generation, &key, None, &[], RowSource::ByHub)?;
        }
        let answer = answer?;
        match &answer {
            ChangeOutcome::Noted(made) => self
                .settled(generation, &key, Some(made), made, RowSource::HereOnly)
                .map(|()| true),
            ChangeOutcome::Made(made) => {
                self.settled(generation, &key, Some(made), made, RowSource::ByHub)?;
                let (path, from) = (
                    change.path.as_str(),
                    change.from.as_ref().map(|f| f.path.as_str()),
                );
                self.env.ambient.done(if change.entry.is_some() {
                    CompletedChange::Sent { path, from }
                } else {
                    CompletedChange::Deleted { path }
                });
                Ok(true)
            }
            ChangeOutcome::Differs(_) | ChangeOutcome::NotDone | ChangeOutcome::Moved => {
                // the feed reports what the hub has
                self.settled(generation, &key, None, &[], RowSource::ByHub)?;
                Err(Interrupted::Again(
                    "the file or the hub's version changed while it was sent",
                ))
            }
        }
    }

    /// Asks what became of an open key; a key that the hub does not know was never used and never
    /// will be. For a rename, the new name asks for both.
    pub(super) fn settle(&self, path: &str, known: &PathState, key: &OpenKey) -> PathResult {
        if let Some(first) = key.names.first().filter(|first| *first != path) {
            return Err(Interrupted::WaitFor(first.clone()));
        }
        let asked = self.env.hub.ask(key.key, self.newest())?;
        let made = asked.made.as_deref();
        self.settled(
            known.generation,
            key,
            made,
            &asked.current,
            RowSource::ByHub,
        )?;
        key.names
            .iter()
            .filter(|name| *name != path)
            .for_each(|name| {
                self.offer(name);
            });
        Ok(true)
    }

    /// Writes what a change made and closes its key, in one transaction.
    fn settled(
        &self,
        generation: u64,
        key: &OpenKey,
        made: Option<&[(String, RemoteRow)]>,
        current: &[(String, RemoteRow)],
        kept: RowSource,
    ) -> Result<(), Interrupted> {
        // ignore names that were not part of the change
        let ours = |rows: &[(String, RemoteRow)]| {
            rows.iter()
                .filter(|(path, _)| key.names.contains(path))
                .cloned()
                .collect::<Vec<_>>()
        };
        let (made, current) = (ours(made.unwrap_or_default()), ours(current));
        let mut writes = Vec::new();
        for (path, row) in &made {
            let base = self.env.state.rows(path)?.base;
            if key.ours && self.env.tree.ignored(path) {
                // the path leaves the base; the old base would mean that this change was never made
                writes.push(Write::Base(path.clone(), BaseRow::default()));
            } else if key.ours && row.rev > base.rev {
                let seen = row
                    .entry
                    .and(key.seen)
                    .filter(|_| key.names.first() == Some(path));
                writes.push(Write::Base(
                    path.clone(),
                    BaseRow {
                        rev: row.rev,
                        lost: false,
                        entry: row.entry,
                        seen,
                    },
                ));
            }
        }
        writes.extend(Engine::remote_writes(&made));
        writes.extend(Engine::remote_writes(&current));
        // the hub has forgotten it since: a feed that is past it does not report it again
        let gone = made
            .iter()
            .filter(|(path, _)| !current.iter().any(|(p, _)| p == path));
        writes.extend(gone.map(|(path, row)| Write::Unlisted {
            path: path.clone(),
            through: row.rev,
        }));
        let mut points: Vec<Revision> = made
            .iter()
            .chain(&current)
            .map(|(_, row)| row.at())
            .filter(|at| !at.tag.is_unknown())
            .collect();
        points.sort_unstable();
        if !points.is_empty() {
            writes.push(Write::Points(points));
        }
        writes.push(Write::CloseKey(key.clone()));
        match kept {
            // without it, the hub is asked about the key again
            RowSource::ByHub => self.commit_soon(generation, &writes)?,
            RowSource::HereOnly => self.commit(generation, &writes)?,
        }
        made.iter()
            .filter(|(_, row)| row.entry.is_none())
            .try_for_each(|(path, _)| self.offer_above(path))
    }

    /// Sends the local version to the hub.
    pub(super) fn upload(
        &self,
        path: &str,
        known: &PathState,
        local: &Local,
        mode: u32,
    ) -> PathResult {
        if self.merge_mode(path, known, local, mode)? {
            return Ok(true);
        }
        let mtime = local_mtime(known.base(), local);
        let entry = Entry {
            mode,
            mtime,
            ..local.entry
        };
        let condition = match known.remote().entry {
            Some(_) => ExpectedRow::Rev(known.remote().at()),
            None => ExpectedRow::Nothing,
        };
        let from = self.claim_old_name(path, known, local)?;
        let old = from.as_ref().map(|f| f.path.clone());
        let outgoing = OutgoingChange {
            path: path.to_string(),
            entry: Some(entry),
            condition,
            from,
            local: Some(local),
            ours: true,
        };
        let sent = self.send(known.generation, outgoing);
        if let Some(old) = &old {
            let mut queue = self.queue();
            queue.release(old);
            // a delete that waits for this upload is pending again
            queue.offer(old);
        }
        sent
    }

    /// Adopts the hub's mode before an edit is sent, and stores it at once: a mode that a user sets
    /// later is then a change from it. `true`: done; plan again.
    pub(super) fn merge_mode(
        &self,
        path: &str,
        known: &PathState,
        local: &Local,
        mode: u32,
    ) -> PathResult {
        let (Some(entry), true) = (known.base().entry, mode != local_mode(known.base(), local))
        else {
            return Ok(false);
        };
        // the content is as far out of sync as before
        let nothing = Stamp {
            inode: 0,
            size: 0,
            mtime: 0,
            ctime: 0,
            mode,
        };
        let seen = Some(Stamp {
            mode,
            ..known.base().seen.unwrap_or(nothing)
        });
        let then = BaseRow {
            entry: Some(Entry { mode, ..entry }),
            seen,
            ..known.base().clone()
        };
        self.change_metadata(path, known, local, (mode, local.entry.mtime), then)
    }

    /// Finds and claims the former name of this content, if it was renamed here, perhaps onto an
    /// existing name.
    fn claim_old_name(
        &self,
        path: &str,
        known: &PathState,
        local: &Local,
    ) -> Result<Option<OldPath>, Interrupted> {
        if brings(known, local).is_none() {
            return Ok(None);
        }
        // ancestors of this name are directories by now, and descendants cannot have existed
        let apart = |old: &String| old != path && !is_below(path, old) && !is_below(old, path);
        // of many equal files, most still exist
        let gone = self.queue().deleted(&local.entry.hash, CANDIDATES);
        let equal = self
            .env
            .state
            .with_hash(&local.entry.hash, MAX_EQUAL_FILES)?;
        let mut is_busy = false;
        for old in gone.into_iter().chain(equal).filter(apart) {
            // its own work item reports any error
            if !matches!(self.env.tree.stamp(&old), Ok(None)) {
                continue;
            }
            if !self.queue().claim(&old) {
                is_busy = true;
                continue;
            }
            match self.was_renamed(&old, local) {
                Ok(Some(rev)) => return Ok(Some(OldPath { path: old, rev })),
                Ok(None) => self.queue().release(&old),
                Err(stop) => {
                    self.queue().release(&old);
                    return Err(stop);
                }
            }
        }
        if is_busy {
            Err(Interrupted::Again("its former name is being synced"))
        } else {
            Ok(None)
        }
    }

    /// The revision of `old` if it was in sync with these bytes and is only missing here.
    fn was_renamed(&self, old: &str, local: &Local) -> Result<Option<Revision>, Interrupted> {
        let rows = self.env.state.rows(old)?;
        let same = rows.base.entry.is_some_and(|e| e.same_body(&local.entry))
            && rows.base.is_at(&rows.remote);
        let quiet = rows.key.is_none() && rows.intent.is_none() && !self.env.tree.ignored(old);
        // a name that cannot be examined is not gone
        let gone = || match self.env.tree.stamp(old) {
            Err(Fault::Later(_) | Fault::Refused(_)) => Ok(false),
            shown => shown.map(|stamp| stamp.is_none()),
        };
        let gone = same && quiet && gone()?;
        Ok(gone.then_some(rows.remote.at()))
    }

    /// Deletes a path on the hub that was deleted here.
    pub(super) fn delete(&self, path: &str, known: &PathState) -> PathResult {
        // this may be half of a rename; the other half then includes this delete
        if let Some(entry) = known
            .base()
            .entry
            .filter(|e| !e.is_dir() && known.node.is_none())
            && self.queue().has_twin(path, &entry.hash)
        {
            return Err(Interrupted::Again(
                "a new file here has the same content: it may have been renamed",
            ));
        }
        if known.base().entry.is_some_and(|e| e.is_dir()) {
            let below = self.live_below(path)?;
            if below.going {
                return Err(Interrupted::Again(
                    "the directory is deleted after its content",
                ));
            }
            if below.comes && self.options.mode != SyncMode::SendOnly {
                // something new is in it on the hub: it stays, with its mode
                return self.place(
                    path,
                    known,
                    None,
                    known.remote().entry.map_or(DIR_MODE, |theirs| theirs.mode),
                );
            }
        }
        self.pass_guard(path, known)?;
        let condition = ExpectedRow::Rev(known.remote().at());
        let outgoing = OutgoingChange {
            path: path.to_string(),
            entry: None,
            condition,
            from: None,
            local: None,
            ours: true,
        };
        self.send(known.generation, outgoing)
    }

    /// Offers the directory that lost this entry, which may be an entry of its own now, or the
    /// nearest existing ancestor.
    fn offer_above(&self, path: &str) -> Result<(), Interrupted> {
        for up in std::iter::successors(parent(path), |p| parent(p)) {
            self.offer(up);
            match self.env.tree.stamp(up) {
                Ok(None) => {}
                Ok(Some(_)) | Err(Fault::Later(_) | Fault::Refused(_)) => break,
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(())
    }
}

/// The hash of content that is new at its name.
pub(super) fn brings(known: &PathState, local: &Local) -> Option<Hash> {
    let same = known
        .base()
        .entry
        .is_some_and(|base| base.same_body(&local.entry));
    (!local.entry.is_dir() && !same).then_some(local.entry.hash)
}
