//! Files to the hub: bytes that the hub has are not sent.
//!
//! A file of up to [`SINGLE`] bytes is sent to a mesync hub in one request, a longer one chunk by chunk, followed by a commit
//! that names them all; an interrupted upload resumes, because the chunks that have arrived are no longer missing. Every
//! change names the revision that it replaces, so no other edit is overwritten between the check and the change. `s3em` gets
//! every file whole, and as a regular file.

use std::collections::HashMap;
use std::io::Read;

use uuid::Uuid;

use super::chunk_sender::ChunkSender;
use super::parts::ReplacedRevision;
use super::small::{FileAttributes, SmallEntry};
use super::source_file::SourceFile;
use super::walk::WalkEntry;
use super::{COPY_BUFFER_BYTES, Transfer, TransferStep, find};
use crate::chunking::{Content, Splitter};
use crate::client::{
    ByteSource, ChangeHeaders, ErrorDetail, HubResult, ListingQuery, UploadOutcome, UploadResponse,
};
use crate::clock;
use crate::error::{Error, Kind};
use crate::wire::files::{
    self, BATCH_FILE, Commit, ExtraMetadata, Hash, Metadata, Name, Record, SINGLE,
};
use crate::wire::revision::{Condition, Revision};

/// Bytes of small files that are collected before they are sent together.
pub const GROUP_BYTES: usize = 2 * 1024 * 1024;
/// Small files that are sent together.
pub(super) const GROUP_FILES: usize = 500;
/// How often a change is retried because another client was quicker.
const MAX_RACES: u32 = 8;
/// The mode of a file from standard input: a regular file that its owner may write.
const STREAM_MODE: u32 = 0o100_644;

/// The hub's files under some names.
pub type KnownFiles = HashMap<String, HubVersion>;

/// The fields of a record that are needed to replace it, or to see that it need not be replaced.
#[derive(Debug, Clone)]
pub struct HubVersion {
    id: Uuid,
    rev: Revision,
    kind: files::EntryKind,
    sha256: Option<Hash>,
    mode: Option<u32>,
    mtime: Option<String>,
    /// The hub has lost a part of it.
    wanted: bool,
}

impl From<&Record> for HubVersion {
    fn from(r: &Record) -> HubVersion {
        HubVersion {
            id: r.id,
            rev: r.revision(),
            kind: r.kind,
            sha256: r.checksum_sha256,
            mode: r.mode,
            mtime: r.mtime.clone(),
            wanted: r.wanted,
        }
    }
}

impl HubVersion {
    fn replaced(&self) -> ReplacedRevision {
        ReplacedRevision {
            id: self.id,
            at: self.rev,
        }
    }
}

/// The result for a file: its id and revision, if the server reports them.
#[derive(Debug, Clone)]
pub struct Uploaded {
    pub outcome: UploadOutcome,
    pub id: Option<Uuid>,
    pub rev: Option<u64>,
    pub size: u64,
}

/// Files to be uploaded; small ones are collected here.
pub struct Upload<'t, 'a> {
    transfer: &'t Transfer<'a>,
    known: KnownFiles,
    pub(super) small: Vec<SmallEntry>,
}

/// Called with each file once its result is known.
pub type OnUploaded<'d> = &'d mut dyn FnMut(&WalkEntry, HubResult<Uploaded>);

impl<'t, 'a> Upload<'t, 'a> {
    pub fn new(transfer: &'t Transfer<'a>) -> Upload<'t, 'a> {
        Upload {
            transfer,
            known: KnownFiles::new(),
            small: Vec::new(),
        }
    }

    /// Fetches all records below a directory of the hub in one query.
    pub fn look_below(&mut self, dir: &str) -> HubResult<()> {
        let known = &mut self.known;
        find::each(
            self.transfer.hub,
            &ListingQuery {
                path: Some(dir),
                search: None,
                all_kinds: true,
            },
            0,
            u64::MAX,
            |record| {
                known.insert(record.full_name(), HubVersion::from(&record));
                true
            },
        )
    }

    /// Fetches the record of one name.
    pub fn look_at(&mut self, name: &Name) -> HubResult<()> {
        if let Some(record) = find::named(self.transfer.hub, name)? {
            self.known.insert(name.full(), HubVersion::from(&record));
        }
        Ok(())
    }

    /// Sends a file, or collects it to be sent with others.
    pub fn add(&mut self, entry: WalkEntry, done: OnUploaded<'_>) {
        match self.prepare(&entry) {
            Ok(Prepared::SmallEntry(small)) => {
                self.small.push(small);
                let bytes: usize = self.small.iter().map(|s| s.bytes.len()).sum();
                if bytes >= GROUP_BYTES || self.small.len() >= GROUP_FILES {
                    self.finish(done);
                }
            }
            Ok(Prepared::Done(uploaded)) => done(&entry, Ok(uploaded)),
            Err(failure) => done(&entry, Err(failure)),
        }
    }

    /// Sends the collected files.
    pub fn finish(&mut self, done: OnUploaded<'_>) {
        let group = std::mem::take(&mut self.small);
        self.send_group(group, done);
    }

    fn prepare(&self, entry: &WalkEntry) -> HubResult<Prepared> {
        let ours = self.transfer.ours;
        if !ours && entry.kind != files::EntryKind::File {
            let what = format!(
                "cannot upload {}: this server keeps regular files only",
                crate::disk::show(entry.local.as_os_str())
            );
            return Err(Error::new(Kind::Failed, what).into());
        }
        match entry.kind {
            files::EntryKind::File => {}
            kind => return Ok(Prepared::SmallEntry(SmallEntry::of_special(entry, kind)?)),
        }
        let local = SourceFile::open(&entry.local, entry.follow)?;
        if ours && local.size <= BATCH_FILE {
            return Ok(Prepared::SmallEntry(SmallEntry::of_file(entry, &local)?));
        }
        (self.transfer.watch)(TransferStep::Expect(local.size));
        self.file(&local, &entry.name).map(Prepared::Done)
    }

    /// Uploads a file that is not small.
    fn file(&self, local: &SourceFile, name: &Name) -> HubResult<Uploaded> {
        let in_chunks = self.transfer.ours && local.size > SINGLE;
        let replaced = self.known.get(&name.full()).map(HubVersion::replaced);
        let mut sender = ChunkSender::new(self.transfer, replaced);
        let content = local.split(|chunk, at| {
            if in_chunks {
                sender.add(chunk, at, local)
            } else {
                Ok(())
            }
        })?;
        let about = FileAttributes {
            name,
            mode: local.mode,
            mtime: &local.mtime,
        };
        if let Some(same) = self.same(&content, &about) {
            (self.transfer.watch)(TransferStep::Spared(if in_chunks {
                0
            } else {
                content.size
            }));
            return Ok(same);
        }
        if !in_chunks {
            let source = ByteSource::Part {
                file: &local.file,
                at: 0,
                length: content.size,
                sha256: Some(content.sha256),
            };
            return self.single(&content, source, &about);
        }
        sender.rest(&content, local)?;
        self.change(&about, content.size, |change| {
            loop {
                match self
                    .transfer
                    .persist(|_| self.transfer.hub.commit(&about.commit(&content), change))
                {
                    // a hub that was restarted has emptied its staging directory
                    Err(failure) if failure.status == 409 => match failure.told {
                        ErrorDetail::Missing(missing) if sender.again(&missing) => {
                            sender.rest(&content, local)?
                        }
                        _ => return Err(failure),
                    },
                    other => return other,
                }
            }
        })
    }

    /// Uploads content that fits into one request. If the hub has the bytes, a commit is enough.
    pub(super) fn single(
        &self,
        content: &Content,
        source: ByteSource<'_>,
        about: &FileAttributes<'_>,
    ) -> HubResult<Uploaded> {
        let metadata = about.metadata();
        self.change(about, content.size, |change| {
            if self.transfer.ours {
                match self
                    .transfer
                    .persist(|_| self.transfer.hub.commit(&about.commit(content), change))
                {
                    Err(failure) if matches!(failure.told, ErrorDetail::Missing(_)) => {}
                    other => {
                        (self.transfer.watch)(TransferStep::Spared(content.size));
                        return other;
                    }
                }
            }
            // a commit that failed has used its key only if it has changed something
            self.transfer.persist(|passed| {
                self.transfer
                    .hub
                    .upload(&about.name.name, &metadata, source, change, passed)
            })
        })
    }

    /// Makes a change on the condition that the known revision is current; if it is not, based on the current
    /// one.
    fn change(
        &self,
        about: &FileAttributes<'_>,
        size: u64,
        mut once: impl FnMut(ChangeHeaders) -> HubResult<UploadResponse>,
    ) -> HubResult<Uploaded> {
        let mut condition = self.condition(about.name);
        for race in 0.. {
            match once(ChangeHeaders {
                condition,
                key: Some(Uuid::now_v7()),
                ..ChangeHeaders::default()
            }) {
                Ok(stored) => {
                    let stands = self.known.get(&about.name.full());
                    let record = stored.record.as_ref();
                    let id = record.map(|r| r.id).or(stands.map(|s| s.id));
                    let rev = record
                        .map(|r| r.rev)
                        .or(stands.map(|s| s.rev.rev))
                        .filter(|rev| *rev > 0);
                    return Ok(Uploaded {
                        outcome: stored.outcome,
                        id,
                        rev,
                        size,
                    });
                }
                Err(failure) => match failure.told {
                    ErrorDetail::Current(current) if race < MAX_RACES => {
                        condition = current
                            .filter(|r| r.deleted_at.is_none())
                            .map_or(Condition::Absent, |r| Condition::Match(r.revision()));
                    }
                    _ => return Err(failure),
                },
            }
        }
        unreachable!("a change succeeds or fails")
    }

    pub(super) fn condition(&self, name: &Name) -> Condition {
        match self.known.get(&name.full()) {
            _ if !self.transfer.ours => Condition::None,
            Some(stands) => Condition::Match(stands.rev),
            None => Condition::Absent,
        }
    }

    /// Whether the hub has exactly this already.
    pub(super) fn same(&self, content: &Content, about: &FileAttributes<'_>) -> Option<Uploaded> {
        let stands = self.known.get(&about.name.full())?;
        let time = |text: &str| clock::parse_rfc3339(text);
        let same_time = stands
            .mtime
            .as_deref()
            .is_some_and(|t| time(t) == time(about.mtime) && time(t).is_some());
        let same = !stands.wanted
            && stands.sha256 == Some(content.sha256)
            && stands.mode == Some(about.mode)
            && same_time;
        let rev = Some(stands.rev.rev).filter(|rev| *rev > 0);
        (same && stands.kind == files::EntryKind::File).then_some(Uploaded {
            outcome: UploadOutcome::Unchanged,
            id: Some(stands.id),
            rev,
            size: content.size,
        })
    }

    pub(super) fn transfer(&self) -> &'t Transfer<'a> {
        self.transfer
    }

    /// Uploads content of unknown length, such as standard input. It cannot be read twice: if the hub loses chunks
    /// before the commit, that is an error.
    pub fn stream(&self, mut from: impl Read, name: &Name) -> HubResult<Uploaded> {
        let (mut splitter, mut buffer) = (Splitter::default(), vec![0; COPY_BUFFER_BYTES]);
        // the unsent bytes: all of a short file, otherwise at most one chunk
        let mut pending: Vec<u8> = Vec::with_capacity(SINGLE as usize + 2 * COPY_BUFFER_BYTES);
        let mut sender = ChunkSender::new(self.transfer, None);
        let mut ended = Vec::new();
        loop {
            let n = from.read(&mut buffer).map_err(|e| Error {
                kind: Kind::Io,
                ..Error::io("read standard input", &e)
            })?;
            if n == 0 {
                break;
            }
            (self.transfer.watch)(TransferStep::Expect(n as u64));
            pending.extend_from_slice(&buffer[..n]);
            let mut rest = &buffer[..n];
            while !rest.is_empty() {
                ended.extend(splitter.take(&mut rest).1);
            }
            if splitter.size() > SINGLE {
                if !self.transfer.ours {
                    let what = format!(
                        "cannot upload {}: standard input is longer than this server takes at once",
                        name.full()
                    );
                    return Err(Error::new(Kind::Failed, what)
                        .hint("write it to a file first")
                        .into());
                }
                for chunk in ended.drain(..) {
                    sender.send(chunk, ByteSource::Bytes(&pending[..chunk.size as usize]))?;
                    pending.drain(..chunk.size as usize);
                }
            }
        }
        let content = splitter.finish();
        let mtime = clock::rfc3339_nanos(clock::now());
        let about = FileAttributes {
            name,
            mode: STREAM_MODE,
            mtime: &mtime,
        };
        if content.size <= SINGLE {
            return self.single(&content, ByteSource::Bytes(&pending), &about);
        }
        if let Some(last) = content.chunks.last().filter(|_| !pending.is_empty()) {
            sender.send(*last, ByteSource::Bytes(&pending))?;
        }
        self.change(&about, content.size, |change| {
            self.transfer
                .persist(|_| self.transfer.hub.commit(&about.commit(&content), change))
        })
    }
}

enum Prepared {
    SmallEntry(SmallEntry),
    Done(Uploaded),
}

impl FileAttributes<'_> {
    fn metadata(&self) -> Metadata {
        Metadata {
            path: self.name.path.clone(),
            mode: Some(self.mode),
            mtime: Some(self.mtime.to_string()),
            extra: ExtraMetadata::default(),
        }
    }

    pub(super) fn commit(&self, content: &Content) -> Commit {
        Commit {
            path: self.name.path.clone(),
            name: self.name.name.clone(),
            kind: files::EntryKind::File,
            mode: Some(self.mode),
            mtime: Some(self.mtime.to_string()),
            extra: ExtraMetadata::default(),
            content_type: None,
            size: content.size,
            checksum_sha256: content.sha256,
            chunks: content.chunks.clone(),
            from: None,
        }
    }
}
