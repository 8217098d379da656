//! Downloads the hub's version to a temporary name: from a local file that has the bytes, short
//! files several in one request, long files so that an interrupted download resumes.

use std::io::{Read, Write};

use crate::error::{Error, Kind};
use crate::files::engine::traits::*;
use crate::files::plan::{Entry, RemoteRow};
use crate::files::tree::root::fault;
use crate::files::tree::sync_set::SyncSet;
use crate::transfer::{Transfer, TransferStep, source_file};
use crate::wire::files::{
    self, BATCH_BYTES, BATCH_FILE, BATCH_FILES, FetchHead, FetchItem, Hash, SINGLE,
};

use super::early::BegunContent;
use super::{Remote, rows};

/// Bytes that are read at a time.
const COPY_BUFFER_BYTES: usize = 64 * 1024;

/// The result for one short file.
#[derive(Debug, Clone)]
enum SmallContent {
    Bytes(Vec<u8>),
    /// The hub no longer has that revision.
    Gone,
    /// The file must be requested by itself.
    Alone,
}

/// A content that is downloaded together with others.
struct SmallDownload<'a> {
    /// The position in the group.
    at: usize,
    delivery: &'a StageItem<'a>,
}

/// What is done about one delivery before any content is downloaded.
enum DownloadStart {
    Ended(Option<StagedFile>),
    Small,
}

impl Remote {
    pub(super) fn fetch_all(&self, all: &[StageItem<'_>]) -> Vec<CallResult<Option<StagedFile>>> {
        let (mut results, mut small) = (Vec::with_capacity(all.len()), Vec::new());
        let mut synced = SyncSet::default();
        for (at, delivery) in all.iter().enumerate() {
            let made = self.tree.make_directories(delivery.above);
            results.push(
                match made.and_then(|()| self.begin(delivery, &mut synced)) {
                    Ok(DownloadStart::Ended(staged)) => Ok(staged),
                    Ok(DownloadStart::Small) => {
                        small.push(SmallDownload { at, delivery });
                        Ok(None)
                    }
                    Err(fault) => Err(fault),
                },
            );
        }
        for some in take_batches(small) {
            let contents = self.fetch_together(&some);
            for (download, content) in some.into_iter().zip(contents) {
                results[download.at] = self.stage_small(download.delivery, content, &mut synced);
            }
        }
        self.tree.sync_staged(results, synced)
    }

    /// Stages everything that needs no small download.
    fn begin(&self, delivery: &StageItem<'_>, synced: &mut SyncSet) -> CallResult<DownloadStart> {
        let StageItem {
            path,
            row,
            entry,
            sources,
            ..
        } = *delivery;
        match entry.kind {
            files::EntryKind::Dir => {
                return self.tree.stage_dir(path, entry).map(DownloadStart::Ended);
            }
            files::EntryKind::Symlink => return Ok(DownloadStart::Small),
            files::EntryKind::File => {}
        }
        if let Some(staged) = self.tree.stage_copy(path, entry, sources, synced)? {
            return Ok(DownloadStart::Ended(Some(staged)));
        }
        match entry.size {
            _ if !sources.contains(&ContentSource::Hub) => Ok(DownloadStart::Ended(None)),
            // a check that may fail is made before the request
            0..=BATCH_FILE => self
                .tree
                .room_for(entry.size)
                .map(|()| DownloadStart::Small),
            size if size <= SINGLE => self.medium(path, row, entry).map(DownloadStart::Ended),
            _ => self.long(path, row, entry).map(DownloadStart::Ended),
        }
    }

    fn stage_small(
        &self,
        delivery: &StageItem<'_>,
        content: CallResult<SmallContent>,
        synced: &mut SyncSet,
    ) -> CallResult<Option<StagedFile>> {
        let StageItem {
            path, row, entry, ..
        } = *delivery;
        let bytes = match content? {
            SmallContent::Bytes(bytes) => bytes,
            SmallContent::Gone => return Ok(None),
            SmallContent::Alone => {
                let (mut bytes, most) = (Vec::new(), entry.size.min(BATCH_FILE));
                let is_there = self.stream(path, row, most, &mut |piece| {
                    bytes.extend_from_slice(piece);
                    Ok(())
                })?;
                if !is_there {
                    return Ok(None);
                }
                bytes
            }
        };
        if bytes.len() as u64 != entry.size || Hash::of(&bytes) != entry.hash {
            return Err(self.damaged(path));
        }
        let staged = if entry.kind == files::EntryKind::Symlink {
            self.tree.stage_link(path, &bytes, entry)?
        } else {
            let Some(mut temporary) = self.tree.temporary(path, entry.size)? else {
                return Ok(None);
            };
            temporary
                .write_all(&bytes)
                .map_err(|e| fault("write beside", path, &e))?;
            temporary.finish_with(entry, synced)?
        };
        staged.map_or_else(|| Err(self.damaged(path)), |staged| Ok(Some(staged)))
    }

    fn fetch_together(&self, all: &[SmallDownload<'_>]) -> Vec<CallResult<SmallContent>> {
        // an empty file needs no request
        let wanted: Vec<&StageItem<'_>> = all
            .iter()
            .map(|small| small.delivery)
            .filter(|delivery| delivery.entry.size > 0)
            .collect();
        let items: Vec<FetchItem> = wanted
            .iter()
            .map(|delivery| FetchItem {
                id: delivery.row.id,
                rev: delivery.row.rev,
                tag: delivery.row.tag,
            })
            .collect();
        let mut found: Vec<CallResult<SmallContent>> = Vec::with_capacity(items.len());
        let take = |head: FetchHead, body: &mut dyn Read| {
            let most = wanted[found.len()].entry.size.min(BATCH_FILE);
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
        };
        let fetched = if items.is_empty() {
            Ok(())
        } else {
            self.called(self.hub.fetch(&items, take))
        };
        if let Err(fault) = fetched {
            found.resize(items.len(), Err(fault));
        }
        let mut found = found.into_iter();
        let empty = || Ok(SmallContent::Bytes(Vec::new()));
        all.iter()
            .map(|small| match small.delivery.entry.size {
                0 => empty(),
                _ => found.next().unwrap_or_else(empty),
            })
            .collect()
    }

    /// Passes the bytes of a revision to `take`, up to the announced size. `false`: the hub no
    /// longer has it.
    fn stream(
        &self,
        path: &str,
        row: &RemoteRow,
        size: u64,
        take: &mut dyn FnMut(&[u8]) -> CallResult<()>,
    ) -> CallResult<bool> {
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
            let bytes = &buffer[..left.min(n as u64) as usize];
            // one more byte than announced is too many, and changes the hash
            if n == 0 || bytes.len() < n {
                return Ok(true);
            }
            take(bytes)?;
            left -= n as u64;
            self.traffic.down(TransferStep::Passed(n as u64));
        }
    }

    fn medium(&self, path: &str, row: &RemoteRow, entry: &Entry) -> CallResult<Option<StagedFile>> {
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

    fn long(&self, path: &str, row: &RemoteRow, entry: &Entry) -> CallResult<Option<StagedFile>> {
        let begun = self.begin_long(path, entry.hash)?;
        let staged = self.long_alone(path, row, entry, begun);
        self.end_long(entry.hash);
        staged
    }

    fn long_alone(
        &self,
        path: &str,
        row: &RemoteRow,
        entry: &Entry,
        begun: Option<BegunContent>,
    ) -> CallResult<Option<StagedFile>> {
        let (partial, begun) = match begun {
            Some(BegunContent { file, begun }) => (file, Some(begun)),
            None => (self.tree.partial(entry.hash)?, None),
        };
        let step = |step: TransferStep<'_>| self.traffic.down(step);
        let transfer = Transfer::once(&self.hub, true, &step);
        let record = rows::fetched(&self.name(path)?, row);
        if let Err(no_room) = partial.check_room(&self.tree, entry.size) {
            // with holes it may fit
            let filled = transfer.filled(&record).map_err(|_| no_room.clone())?;
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
        match transfer.fill_file(&record, file, begun, old) {
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
            Err(failure) if failure.is_local() => Err(if failure.error.kind == Kind::Busy {
                Fault::NoSpace(failure.error)
            } else {
                Fault::Later(failure.error)
            }),
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

/// Divides downloads into requests that the hub answers in one response.
fn take_batches(all: Vec<SmallDownload<'_>>) -> Vec<Vec<SmallDownload<'_>>> {
    let (mut batches, mut bytes) = (Vec::<Vec<SmallDownload<'_>>>::new(), 0);
    for download in all {
        bytes += download.delivery.entry.size;
        match batches.last_mut() {
            Some(last) if last.len() < BATCH_FILES && bytes <= BATCH_BYTES => last.push(download),
            _ => {
                bytes = download.delivery.entry.size;
                batches.push(vec![download]);
            }
        }
    }
    batches
}
