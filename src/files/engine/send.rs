//! Sends changes to the hub. Each has a key that is durable before the request, and is settled
//! before anything else happens at its paths.
//!
//! A row in a response to a failed condition is not believed: the response does not say which epoch
//! it is from, and may come from a hub that was set back to before the local edit. The feed reports
//! the row.

use crate::config::watch::SyncMode;
use crate::files::plan::{
    BaseRow, DIR_MODE, Entry, LocalEntry, RemoteRow, Stamp, local_mode, local_mtime, parent,
};
use crate::wire::revision::Revision;

use super::renames::OldNames;
use super::step::{MetadataChange, NextStep, OutgoingChange, PathWork, Results};
use super::traits::{
    CallResult, ChangeOutcome, CompletedChange, ExpectedRow, Fault, HubChange, OldPath, OpenKey,
    SendItem, Write,
};
use super::{Engine, Interrupted, PathResult, PathState, lock};

/// A change with its key, and what its response brings.
struct KeyedChange {
    change: HubChange,
    key: OpenKey,
    local: Option<LocalEntry>,
}

/// Where the rows that a change made can be read again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RowSource {
    ByHub,
    /// A server cannot keep them.
    HereOnly,
}

impl Engine {
    /// Sends changes and records the responses. Without a response a key stays open.
    pub(super) fn send_all(&self, all: Vec<PathWork<OutgoingChange>>, results: &mut Results) {
        let claimed: Vec<String> = all
            .iter()
            .filter_map(|work| work.what.claimed.clone())
            .collect();
        let is_guarded = |change: &OutgoingChange| change.entry.is_none();
        let all = self.pass_guard_all(all, is_guarded, results);
        let all: Vec<PathWork<KeyedChange>> = all
            .into_iter()
            .map(|work| work.with(|outgoing| self.keyed(outgoing)))
            .collect();
        let open = |work: &PathWork<KeyedChange>| vec![Write::OpenKey(work.what.key.clone())];
        let opened = self.commit_each(&all, open, Engine::commit);
        let opened = results.keep(all, opened);
        let all: Vec<PathWork<KeyedChange>> = opened.into_iter().map(|(work, ())| work).collect();
        let shipments: Vec<SendItem<'_>> = all
            .iter()
            .map(|work| SendItem {
                change: &work.what.change,
                local: work.what.local.as_ref(),
            })
            .collect();
        let answers = if shipments.is_empty() {
            Vec::new()
        } else {
            self.env.transfer.send(&shipments)
        };
        self.answered(all, answers, results);
        let mut queue = self.queue();
        for name in &claimed {
            queue.release(name);
            // a delete that waits for this change is pending again
            queue.offer(name);
        }
    }

    fn keyed(&self, outgoing: OutgoingChange) -> KeyedChange {
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
        KeyedChange {
            change,
            key,
            local: outgoing.local,
        }
    }

    /// Records the responses.
    fn answered(
        &self,
        all: Vec<PathWork<KeyedChange>>,
        answers: Vec<CallResult<ChangeOutcome>>,
        results: &mut Results,
    ) {
        let (mut soon, mut now) = (Vec::new(), Vec::new());
        for (work, answer) in all.into_iter().zip(answers) {
            let (made, source): (&[(String, RemoteRow)], _) = match &answer {
                Ok(ChangeOutcome::Made(rows)) => (rows, RowSource::ByHub),
                Ok(ChangeOutcome::Noted(rows)) => (rows, RowSource::HereOnly),
                // a refusal is a response too: the change was not made. The feed reports what the hub has
                Ok(_) | Err(Fault::Refused(_)) => (&[], RowSource::ByHub),
                Err(fault) => {
                    results.set(&work, Err(fault.clone().into()));
                    continue;
                }
            };
            let made = (!made.is_empty()).then_some(made);
            match self.settlement(&work.what.key, made, made.unwrap_or_default()) {
                Err(stop) => results.set(&work, Err(stop)),
                Ok(writes) => {
                    let work = work.with(|keyed| (keyed, answer, writes));
                    match source {
                        RowSource::ByHub => soon.push(work),
                        RowSource::HereOnly => now.push(work),
                    }
                }
            }
        }
        let writes = |work: &PathWork<(KeyedChange, CallResult<ChangeOutcome>, Vec<Write>)>| {
            work.what.2.clone()
        };
        // without it, the hub is asked about the key again
        let committed = self.commit_each(&soon, writes, Engine::commit_soon);
        let mut ended = results.keep(soon, committed);
        let committed = self.commit_each(&now, writes, Engine::commit);
        ended.extend(results.keep(now, committed));
        for (work, ()) in ended {
            let (keyed, answer, _) = &work.what;
            results.set(&work, self.made(keyed, answer));
        }
    }

    /// Reports a change whose response is recorded.
    fn made(&self, keyed: &KeyedChange, answer: &CallResult<ChangeOutcome>) -> PathResult {
        let change = &keyed.change;
        match answer {
            Err(fault) => Err(fault.clone().into()),
            Ok(ChangeOutcome::Noted(made) | ChangeOutcome::Made(made)) => {
                self.offer_above_tombstones(&keyed.key, made)?;
                if matches!(answer, Ok(ChangeOutcome::Made(_))) {
                    if keyed.key.ours {
                        lock(&self.own).add(made.iter().map(|(_, row)| row.at()));
                    }
                    let (path, from) = (
                        change.path.as_str(),
                        change.from.as_ref().map(|f| f.path.as_str()),
                    );
                    self.env.ambient.done(if change.entry.is_some() {
                        CompletedChange::Sent { path, from }
                    } else {
                        CompletedChange::Deleted { path }
                    });
                }
                Ok(true)
            }
            Ok(ChangeOutcome::Differs(_) | ChangeOutcome::NotDone | ChangeOutcome::FileChanged) => {
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
        let writes = self.settlement(key, made, &asked.current)?;
        self.commit_soon(known.generation, &writes)?;
        self.offer_above_tombstones(key, made.unwrap_or_default())?;
        key.names
            .iter()
            .filter(|name| *name != path)
            .for_each(|name| {
                self.offer(name);
            });
        Ok(true)
    }

    /// What a change made, and the end of its key: writes for one transaction.
    fn settlement(
        &self,
        key: &OpenKey,
        made: Option<&[(String, RemoteRow)]>,
        current: &[(String, RemoteRow)],
    ) -> Result<Vec<Write>, Interrupted> {
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
        Ok(writes)
    }

    /// Offers the directories that lost an entry by a change.
    fn offer_above_tombstones(
        &self,
        key: &OpenKey,
        made: &[(String, RemoteRow)],
    ) -> Result<(), Interrupted> {
        made.iter()
            .filter(|(path, row)| row.entry.is_none() && key.names.contains(path))
            .try_for_each(|(path, _)| self.offer_above(path))
    }

    /// Sends the local version to the hub.
    pub(super) fn upload(
        &self,
        path: &str,
        known: &PathState,
        local: &LocalEntry,
        mode: u32,
        old_names: &mut OldNames,
    ) -> Result<NextStep, Interrupted> {
        if let Some(step) = self.merge_mode(known, local, mode) {
            return Ok(step);
        }
        let from = self.claim_old_name(path, known, local, old_names)?;
        Ok(outgoing(path, known, local, mode, from))
    }

    /// Adopts the hub's mode before an edit is sent, and stores it at once: a mode that a user sets
    /// later is then a change from it. `None`: there is nothing to adopt.
    pub(super) fn merge_mode(
        &self,
        known: &PathState,
        local: &LocalEntry,
        mode: u32,
    ) -> Option<NextStep> {
        let (Some(entry), true) = (known.base().entry, mode != local_mode(known.base(), local))
        else {
            return None;
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
        Some(NextStep::SetMetadata(MetadataChange {
            local: *local,
            mode,
            mtime: local.entry.mtime,
            then,
        }))
    }

    /// Deletes a path on the hub that was deleted here.
    pub(super) fn delete(&self, path: &str, known: &PathState) -> Result<NextStep, Interrupted> {
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
        Ok(NextStep::Send(OutgoingChange {
            path: path.to_string(),
            entry: None,
            condition: ExpectedRow::Rev(known.remote().at()),
            from: None,
            local: None,
            ours: true,
            claimed: None,
        }))
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

/// A local version to send, renamed from another name or not.
pub(super) fn outgoing(
    path: &str,
    known: &PathState,
    local: &LocalEntry,
    mode: u32,
    from: Option<OldPath>,
) -> NextStep {
    let mtime = local_mtime(known.base(), local);
    NextStep::Send(OutgoingChange {
        path: path.to_string(),
        entry: Some(Entry {
            mode,
            mtime,
            ..local.entry
        }),
        condition: match known.remote().entry {
            Some(_) => ExpectedRow::Rev(known.remote().at()),
            None => ExpectedRow::Nothing,
        },
        claimed: from.as_ref().map(|f| f.path.clone()),
        from,
        local: Some(*local),
        ours: true,
    })
}
