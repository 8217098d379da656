//! Begins to download long files that other machines are still sending, so that little is left to do when one is committed.
//!
//! The engine does not know of it, and nothing depends on it: the bytes are a partial file, which the download of the
//! committed file takes over, and which is removed like any other if there is none. Only files with new names are downloaded
//! early: a changed file costs less as parts, which need its commit.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};
use uuid::Uuid;

use super::Remote;
use crate::error::{Error, Kind};
use crate::files::engine::traits::*;
use crate::files::tree::partial::PartialFile;
use crate::logger::one_line;
use crate::relpath;
use crate::transfer::{BegunFile, EarlyEnd, Transfer, TransferStep};
use crate::wire::files::{Hash, MAX_UPCOMING_FILES, Name, SINGLE, UpcomingFile};

/// Files that were downloaded early and are not committed yet, at most: each may fill the disk.
const MAX_EARLY_FILES: usize = 4;

/// Contents of long files that are being downloaded: two downloads of one content would write the same file.
#[derive(Default)]
pub(super) struct LongDownloads {
    committed: HashSet<Hash>,
    /// Oldest first; the newest may be running.
    early: Vec<EarlyDownload>,
    /// A thread downloads early.
    is_running: bool,
    /// What the last poll has named, and the number of polls.
    announced: Vec<UpcomingFile>,
    polls: u64,
    /// Announcements that are of no more use.
    done: HashSet<Uuid>,
}

/// The download of a file before its commit: it is running, or has ended.
struct EarlyDownload {
    name: Name,
    hash: Hash,
    /// Dropped to stop it.
    running: Sender<()>,
    result: Receiver<BegunContent>,
}

/// A partial file with its verified beginning.
pub(super) struct BegunContent {
    pub(super) file: PartialFile,
    pub(super) begun: BegunFile,
}

/// The work of a thread that downloads early: there is one at a time.
pub struct EarlyWork<'a>(&'a Remote);

impl Drop for EarlyWork<'_> {
    fn drop(&mut self) {
        self.0.long_downloads().is_running = false;
    }
}

impl EarlyDownload {
    /// Stops it; what it has downloaded.
    fn end(self) -> Option<BegunContent> {
        drop(self.running);
        self.result.recv().ok()
    }
}

/// One file to be downloaded early.
struct EarlyTask {
    file: UpcomingFile,
    stopped: Receiver<()>,
    result: Sender<BegunContent>,
}

impl Remote {
    fn long_downloads(&self) -> MutexGuard<'_, LongDownloads> {
        self.long_downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What a poll has named.
    pub(super) fn announced(&self, files: &[UpcomingFile]) {
        let mut downloads = self.long_downloads();
        downloads.announced = files.iter().take(MAX_UPCOMING_FILES).cloned().collect();
        downloads.polls += 1;
        let is_named = |id: &Uuid| files.iter().any(|file| file.id == *id);
        downloads.done.retain(is_named);
    }

    /// Work for a thread that downloads early; `None`: there is nothing to do, or one is running.
    pub fn early_work(&self) -> Option<EarlyWork<'_>> {
        self.next_upcoming()?;
        let is_running = std::mem::replace(&mut self.long_downloads().is_running, true);
        (!is_running).then(|| EarlyWork(self))
    }

    /// A file that is worth downloading now.
    fn next_upcoming(&self) -> Option<UpcomingFile> {
        let announced = {
            let downloads = self.long_downloads();
            let is_open = |file: &&UpcomingFile| {
                !downloads.done.contains(&file.id)
                    && !downloads.committed.contains(&file.checksum_sha256)
            };
            let open = downloads.announced.iter().filter(is_open);
            open.cloned().collect::<Vec<_>>()
        };
        announced.into_iter().find(|file| self.is_new_here(file))
    }

    /// Whether the directory would get the file, has nothing in its place, and has room for it.
    fn is_new_here(&self, file: &UpcomingFile) -> bool {
        let full = file.name.full();
        let Some(path) = self
            .names
            .path(&full)
            .filter(|path| relpath::check(path).is_ok() && !self.tree.ignored(path))
        else {
            return false;
        };
        file.size > SINGLE
            && matches!(self.tree.stamp(path), Ok(None))
            && (self.state.rows(path)).is_ok_and(|rows| rows.remote.entry.is_none())
            && self.tree.room_for(file.size).is_ok()
    }

    /// Marks a content as being downloaded after its commit, and takes over what was downloaded before. Error: another download
    /// of it is running.
    pub(super) fn begin_long(&self, path: &str, hash: Hash) -> CallResult<Option<BegunContent>> {
        let early = {
            let mut downloads = self.long_downloads();
            if !downloads.committed.insert(hash) {
                // the other download's file is a source then
                return Err(Fault::Later(Error::new(
                    Kind::Busy,
                    format!("{path} waits for another file with the same content"),
                )));
            }
            let at = downloads.early.iter().position(|early| early.hash == hash);
            at.map(|at| downloads.early.remove(at))
        };
        Ok(early.and_then(EarlyDownload::end))
    }

    pub(super) fn end_long(&self, hash: Hash) {
        self.long_downloads().committed.remove(&hash);
    }
}

impl EarlyWork<'_> {
    /// Downloads one announced file after another, until there are none. `stopped`: closed when the work on the directory ends.
    pub fn run(self, stopped: &Receiver<()>) {
        let polls = || self.0.long_downloads().polls;
        let mut seen = polls();
        loop {
            while let Some(task) = self.next() {
                if !self.download(task, stopped) {
                    return;
                }
            }
            // a poll in between has started no other thread
            if std::mem::replace(&mut seen, polls()) == seen {
                return;
            }
        }
    }

    fn next(&self) -> Option<EarlyTask> {
        let file = self.0.next_upcoming()?;
        let mut downloads = self.0.long_downloads();
        let hash = file.checksum_sha256;
        if downloads.committed.contains(&hash) {
            return None;
        }
        let ((running, stopped), (result, begun)) = (bounded(0), bounded(1));
        let early = &mut downloads.early;
        let is_like = |old: &EarlyDownload| old.name == file.name || old.hash == hash;
        while let Some(at) = early.iter().position(is_like) {
            let old = early.remove(at);
            // a file that grows while it is sent begins with the same chunks
            if old.hash != hash
                && let Some(content) = old.end()
            {
                content.file.rename(hash);
            }
        }
        while early.len() >= MAX_EARLY_FILES {
            if let Some(content) = early.remove(0).end() {
                content.file.remove();
            }
        }
        early.push(EarlyDownload {
            name: file.name.clone(),
            hash,
            running,
            result: begun,
        });
        Some(EarlyTask {
            file,
            stopped,
            result,
        })
    }

    /// `false`: no other is to be tried now.
    fn download(&self, task: EarlyTask, ended: &Receiver<()>) -> bool {
        let remote = self.0;
        let EarlyTask {
            file: upcoming,
            stopped,
            result,
        } = task;
        let name = upcoming.name.full();
        log::debug!("downloading {} while it is sent", one_line(&name));
        let is_closed =
            |channel: &Receiver<()>| channel.try_recv() == Err(TryRecvError::Disconnected);
        let pause = |time: Duration| {
            if is_closed(&stopped) || is_closed(ended) {
                return false;
            }
            if time.is_zero() {
                return true;
            }
            select! {
                recv(stopped) -> _ => false,
                recv(ended) -> _ => false,
                default(time) => true,
            }
        };
        let download = || {
            let file = remote.tree.partial(upcoming.checksum_sha256)?;
            let open = file.file().map_err(|e| Error::io("write", &e))?;
            let step = |step: TransferStep<'_>| remote.traffic.down(step);
            let transfer = Transfer::once(&remote.hub, true, &step);
            match transfer.download_early(&upcoming, open, &pause) {
                Ok((begun, end)) => Ok((BegunContent { file, begun }, end)),
                Err(failure) => {
                    // of the disk, which may be full, or the list is wrong
                    if failure.is_local() {
                        file.remove();
                    }
                    Err(failure.error)
                }
            }
        };
        let end = match download() {
            Ok((content, end)) => {
                // there is room for one, and the receiver stays until it has it
                let _ = result.send(content);
                end
            }
            Err(e) => {
                log::debug!("cannot download {} early: {e}", one_line(&name));
                EarlyEnd::Over
            }
        };
        let is_over = end == EarlyEnd::Over || is_closed(&stopped);
        if is_over {
            remote.long_downloads().done.insert(upcoming.id);
        }
        is_over
    }
}
