//! Downloads the hub's version to a temporary name: from a local file that has the bytes, short
//! files several in one request, long files so that an interrupted download resumes.

use std::io::Write;
use std::sync::PoisonError;

use crate::error::{Error, Kind};
use crate::files::engine::traits::*;
use crate::files::plan::{Entry, RemoteRow};
use crate::files::tree::root::fault;
use crate::transfer::{TransferStep, source_file};
use crate::wire::files::{self, BATCH_FILE, FetchItem, Hash, SINGLE};

use super::{Remote, moving, rows};

/// Bytes that are read at a time.
const COPY_BUFFER_BYTES: usize = 64 * 1024;

/// A request for one short file.
pub struct SmallDownload {
    item: FetchItem,
    /// Maximum size in bytes.
    most: u64,
}

/// The result for one short file.
#[derive(Debug, Clone)]
pub enum SmallContent {
    Bytes(Vec<u8>),
    /// The hub no longer has that revision.
    Gone,
    /// The file must be requested by itself.
    Alone,
}

impl Remote {
    pub(super) fn fetch(
        &self,
        path: &str,
        row: &RemoteRow,
        entry: &Entry,
        sources: &[ContentSource],
    ) -> Called<Option<StagedFile>> {
        match entry.kind {
            files::EntryKind::Dir => return self.tree.stage_dir(path, entry),
            files::EntryKind::Symlink => {
                let Some(target) = self.short(path, row, entry)? else {
                    return Ok(None);
                };
                return self
                    .tree
                    .stage_link(path, &target, entry)?
                    .map_or_else(|| Err(self.damaged(path)), |staged| Ok(Some(staged)));
            }
            files::EntryKind::File => {}
        }
        if let Some(staged) = self.tree.stage_copy(path, entry, sources)? {
            return Ok(Some(staged));
        }
        match entry.size {
            _ if !sources.contains(&ContentSource::Hub) => Ok(None),
            0..=BATCH_FILE => {
                // checks that may fail come before the request
                let Some(mut temporary) = self.tree.temporary(path, entry.size)? else {
                    return Ok(None);
                };
                let bytes = match entry.size {
                    0 => Some(Vec::new()),
                    _ => self.short(path, row, entry)?,
                };
                let Some(bytes) = bytes else { return Ok(None) };
                temporary
                    .write_all(&bytes)
                    .map_err(|e| fault("write beside", path, &e))?;
                temporary
                    .finish(entry)?
                    .map_or_else(|| Err(self.damaged(path)), |staged| Ok(Some(staged)))
            }
            size => {
                let _lane = self.down.enter();
                if size <= SINGLE {
                    self.medium(path, row, entry)
                } else {
                    self.long(path, row, entry)
                }
            }
        }
    }

    /// Returns the bytes of a short file.
    fn short(&self, path: &str, row: &RemoteRow, entry: &Entry) -> Called<Option<Vec<u8>>> {
        let item = FetchItem {
            id: row.id,
            rev: row.rev,
            tag: row.tag,
        };
        match self.fetches.join(
            SmallDownload {
                item,
                most: entry.size.min(BATCH_FILE),
            },
            &|all| self.fetch_together(&all),
        )? {
            SmallContent::Bytes(bytes) => Ok(Some(bytes)),
            SmallContent::Gone => Ok(None),
            SmallContent::Alone => {
                let mut bytes = Vec::new();
                Ok(self
                    .stream(path, row, entry.size.min(BATCH_FILE), &mut |piece| {
                        bytes.extend_from_slice(piece);
                        Ok(())
                    })?
                    .then_some(bytes))
            }
        }
        .and_then(|bytes| match bytes {
            Some(bytes) if bytes.len() as u64 != entry.size || Hash::of(&bytes) != entry.hash => {
                Err(self.damaged(path))
            }
            other => Ok(other),
        })
    }

    fn fetch_together(&self, all: &[SmallDownload]) -> Vec<Called<SmallContent>> {
        let items: Vec<FetchItem> = all.iter().map(|small| small.item).collect();
        let mut found: Vec<Called<SmallContent>> = Vec::with_capacity(all.len());
        let fetched = self.hub.fetch(&items, |head, body| {
            let most = all[found.len()].most;
            let mut bytes = Vec::new();
            found.push(Ok(match head.status {
                200 if head.size <= most => {
                    body.read_to_end(&mut bytes).map_err(|e| {
                        Error::new(Kind::Unreachable, format!("cannot read from the hub: {e}"))
                    })?;
                    self.traffic.down(TransferStep::Passed(bytes.len() as u64));
                    SmallContent::Bytes(bytes)
                }
                404 => SmallContent::Gone,
                _ => SmallContent::Alone,
            }));
            Ok(())
        });
        if let Err(fault) = self.called(fetched) {
            found.resize(all.len(), Err(fault));
        }
        found
    }

    /// Passes the bytes of a revision to `take`, up to the announced size. `false`: the hub no
    /// longer has it.
    fn stream(
        &self,
        path: &str,
        row: &RemoteRow,
        size: u64,
        take: &mut dyn FnMut(&[u8]) -> Called<()>,
    ) -> Called<bool> {
        let mut answer = match self.hub.download(row.id, Some(row.at()), 0, None) {
            Err(failure) if failure.status == 404 && failure.error.kind != Kind::Unreachable => {
                return Ok(false);
            }
            Err(failure) => return Err(self.not_sent(path, failure)),
            other => self.called(other)?,
        };
        let (mut left, mut buffer) = (size, vec![0; COPY_BUFFER_BYTES]);
        loop {
            // a lost connection shows with the next call; this may be one bad file
            let n = answer
                .read(&mut buffer)
                .map_err(|failure| Fault::Later(failure.error))?;
            let bytes = &buffer[..n.min(left as usize)];
            // one more byte than announced is too many, and changes the hash
            if n == 0 || bytes.len() < n {
                return Ok(true);
            }
            take(bytes)?;
            left -= n as u64;
            self.traffic.down(TransferStep::Passed(n as u64));
        }
    }

    fn medium(&self, path: &str, row: &RemoteRow, entry: &Entry) -> Called<Option<StagedFile>> {
        let Some(mut temporary) = self.tree.temporary(path, entry.size)? else {
            return Ok(None);
        };
        let whole = self.stream(path, row, entry.size, &mut |bytes| {
            temporary
                .write_all(bytes)
                .map_err(|e| fault("write beside", path, &e))
        })?;
        if !whole {
            return Ok(None);
        }
        temporary
            .finish(entry)?
            .map_or_else(|| Err(self.damaged(path)), |staged| Ok(Some(staged)))
    }

    fn long(&self, path: &str, row: &RemoteRow, entry: &Entry) -> Called<Option<StagedFile>> {
        let coming = || self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        if !coming().insert(entry.hash) {
            // the other download's file is a source then
            return Err(Fault::Later(Error::new(
                Kind::Busy,
                format!("{path} waits for another file with the same content"),
            )));
        }
        let staged = self.long_alone(path, row, entry);
        coming().remove(&entry.hash);
        staged
    }

    fn long_alone(&self, path: &str, row: &RemoteRow, entry: &Entry) -> Called<Option<StagedFile>> {
        let partial = self.tree.partial(entry)?;
        let step = |step: TransferStep<'_>| self.traffic.down(step);
        let record = rows::fetched(&self.name(path)?, row);
        if let Err(no_room) = partial.check_room(&self.tree, entry.size) {
            // with holes it may fit
            let filled = moving(&self.hub, &step, |mover| mover.filled(&record))
                .map_err(|_| no_room.clone())?;
            partial
                .check_room(&self.tree, filled)
                .map_err(|_| no_room)?;
        }
        let file = partial.file().map_err(|e| fault("write", path, &e))?;
        let old = self
            .tree
            .read(path, None)
            .ok()
            .flatten()
            .and_then(|old| source_file::SourceFile::of(old.file, path.to_string()).ok());
        match moving(&self.hub, &step, |mover| {
            mover.fill_file(&record, file, old)
        }) {
            Ok(true) => {
                self.link.reached();
                partial.finish(&self.tree, path, entry)
            }
            Ok(false) => {
                self.link.reached();
                partial.remove();
                Ok(None)
            }
            Err(failure) if failure.error.kind == Kind::Damaged => {
                partial.remove();
                Err(self.damaged(path))
            }
            // a local disk error
            Err(failure) if failure.status == 0 && failure.error.kind != Kind::Unreachable => {
                Err(if failure.error.kind == Kind::Busy {
                    Fault::NoSpace(failure.error)
                } else {
                    Fault::Later(failure.error)
                })
            }
            Err(failure) => Err(self.not_sent(path, failure)),
        }
    }

    /// The bytes received do not match their row: the path waits for another row.
    fn damaged(&self, path: &str) -> Fault {
        let what = format!(
            "will not take {path}: what hub {} sends is not what it has announced",
            self.hub.url()
        );
        log::warn!("{what}");
        Fault::Refused(
            Error::new(Kind::Damaged, what)
                .hint("\"mesync hub check\" says whether the hub's data are whole"),
        )
    }
}
