//! A server that is not a mesync hub, such as `s3em`: no revisions, no conditions, no chunks, no feed.
//!
//! The server's version of a path is read immediately before it is changed; another client may write in between, which
//! only a mesync hub can rule out. Rows get local numbers from `listing`. The server has no directories: an empty one
//! stays on its machine, and counts as in sync.

mod listing;

use std::io::Write as _;
use std::sync::{Arc, Once};

use uuid::Uuid;

use crate::client::{self, Failure, HubClient, Query, Source as Bytes, Stored};
use crate::error::{Error, Kind};
use crate::files::engine::pages::each_below;
use crate::files::engine::traits::*;
use crate::files::plan::{Entry, Local, RemoteRow};
use crate::files::state::DiskState;
use crate::files::tree::DiskTree;
use crate::files::tree::root::fault;
use crate::transfer::{TransferStep, find};
use crate::wire::files::{self, Extra, Hash, Metadata, Name, Record, SINGLE};
use crate::wire::revision::{Revision, Tag};
use listing::Ledger;

use crate::files::remote::link::Link;
use crate::files::remote::rows::{self, RemoteNames};
use crate::files::remote::traffic::Traffic;

/// Bytes that are read at a time.
const COPY_BUFFER_BYTES: usize = 64 * 1024;

/// See the module documentation.
pub struct S3em {
    pub(super) hub: Arc<HubClient>,
    pub(super) state: Arc<DiskState>,
    tree: Arc<DiskTree>,
    pub(super) names: RemoteNames,
    pub(super) link: Arc<Link>,
    traffic: Arc<Traffic>,
    /// Always the same for one server, which has no epoch of its own.
    pub(super) epoch: Uuid,
    pub ledger: Ledger,
}

/// The result of checking the server's version of a name.
enum RemoteVersion {
    /// As expected: all live records of the name, the newest first.
    Met(Vec<Record>),
    Otherwise(Option<(String, RemoteRow)>),
}

impl S3em {
    pub fn new(
        hub: Arc<HubClient>,
        names: RemoteNames,
        state: Arc<DiskState>,
        tree: Arc<DiskTree>,
        link: Arc<Link>,
        traffic: Arc<Traffic>,
    ) -> Called<S3em> {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            log::warn!(
                "{} is no mesync hub: files go whole and are found by listing all of them, what two machines change in the same \
                 moment can be overwritten, and empty files, empty directories and symbolic links stay on this machine",
                hub.url()
            );
        });
        let mut seed = [0; 16];
        seed.copy_from_slice(&Hash::of(hub.url().as_bytes()).0[..16]);
        let epoch = uuid::Builder::from_custom_bytes(seed).into_uuid();
        let ledger = Ledger::new(&*state)?;
        Ok(S3em {
            hub,
            state,
            tree,
            names,
            link,
            traffic,
            epoch,
            ledger,
        })
    }

    /// Returns the result of a call, and informs the workers that wait for the server.
    pub(super) fn called<T>(&self, called: client::Called<T>) -> Called<T> {
        match called {
            Ok(done) => {
                self.link.reached();
                Ok(done)
            }
            Err(failure) => Err(self.link.failed(failure)),
        }
    }

    fn name(&self, path: &str) -> Called<Name> {
        self.names.name(path).map_err(|why| {
            Fault::Refused(Error::new(
                Kind::Failed,
                format!("cannot send {path}: {why}"),
            ))
        })
    }

    /// All live records of a path, the newest first.
    fn at(&self, path: &str) -> Called<Vec<Record>> {
        let name = self.name(path)?;
        // a server that matches the pattern in its database may misread a backslash
        let longest = name
            .name
            .split('\\')
            .max_by_key(|part| part.len())
            .filter(|part| !part.is_empty());
        let dir = name.path.split('\\').next().filter(|dir| !dir.is_empty());
        let (mut first, mut found) = (None, Vec::new());
        let each = find::each(
            &self.hub,
            &Query {
                path: dir,
                search: longest,
                all_kinds: false,
            },
            0,
            u64::MAX,
            |record| {
                let again = first == Some(record.id);
                first.get_or_insert(record.id);
                if !again && record.deleted_at.is_none() && record.full_name() == name.full() {
                    found.push(record);
                }
                !again
            },
        );
        self.called(each)?;
        Ok(found)
    }

    /// Checks whether the version that a change depends on is still the current one.
    fn stands(&self, path: &str, condition: Condition) -> Called<RemoteVersion> {
        let records = self.at(path)?;
        let now = records.first().and_then(|record| self.names.row(record));
        let known = self.state.rows(path)?.remote;
        let met = match condition {
            Condition::Nothing => records.is_empty(),
            Condition::Rev(at) if is_dir(&known) => known.rev == at.rev && records.is_empty(),
            Condition::Rev(at) => {
                known.rev == at.rev
                    && now
                        .as_ref()
                        .is_some_and(|(_, now)| now.entry == known.entry)
            }
        };
        if !met {
            // only a listing tells what it is
            self.ledger.want();
        }
        Ok(if met {
            RemoteVersion::Met(records)
        } else {
            RemoteVersion::Otherwise(now)
        })
    }

    /// Sends a file, and removes its old name.
    fn send(&self, change: &Change, entry: &Entry, bytes: Bytes<'_>) -> Called<Answer> {
        if let RemoteVersion::Otherwise(row) = self.stands(&change.path, change.condition)? {
            return Ok(Answer::Differs(row));
        }
        let name = self.name(&change.path)?;
        let (mode, mtime) = (Some(rows::st_mode(entry)), Some(rows::mtime(entry)));
        let metadata = Metadata {
            path: name.path,
            mode,
            mtime,
            extra: Extra::default(),
        };
        let passed = |bytes| self.traffic.up(TransferStep::Passed(bytes));
        let stored = match self.hub.upload(
            &name.name,
            &metadata,
            bytes,
            client::Change::default(),
            &passed,
        ) {
            // the bytes are not those that were hashed
            Err(failure) if failure.status == 0 && failure.error.kind == Kind::Busy => {
                return Ok(Answer::Moved);
            }
            Err(failure) => return Err(self.link.failed(self.plainly(failure, entry))),
            Ok(stored) => stored,
        };
        self.link.reached();
        let Some(row) = self.stored(change, entry, stored)? else {
            self.ledger.want();
            return Ok(Answer::NotDone);
        };
        let mut made = vec![(change.path.clone(), row)];
        if let Some(from) = &change.from
            && let RemoteVersion::Met(records) =
                self.stands(&from.path, Condition::Rev(from.rev))?
        {
            let gone = self.remove(&records)?;
            made.push((
                from.path.clone(),
                RemoteRow {
                    renamed_to: Some(change.path.clone()),
                    ..gone
                },
            ));
        }
        Ok(Answer::Made(made))
    }

    /// The row of the version that was sent; `None`: the server has another one already.
    fn stored(&self, change: &Change, entry: &Entry, stored: Stored) -> Called<Option<RemoteRow>> {
        let record = match stored.record {
            Some(record) => Some(record),
            None => self.at(&change.path)?.into_iter().next(),
        };
        let Some((path, row)) = record.and_then(|record| self.names.row(&record)) else {
            return Ok(None);
        };
        if path != change.path {
            let what = format!(
                "server {} keeps {} under another name",
                self.hub.url(),
                change.path
            );
            return Err(Fault::Refused(Error::new(Kind::Refused, what)));
        }
        let ours = row.entry.is_some_and(|there| there.same_body(entry));
        Ok(ours.then(|| RemoteRow {
            rev: self.ledger.next(),
            ..row
        }))
    }

    /// Words an error for the file, because such a server says little.
    fn plainly(&self, failure: Failure, entry: &Entry) -> Failure {
        let what = match failure.status {
            413 => format!(
                "server {} does not take a file of {} bytes",
                self.hub.url(),
                entry.size
            ),
            400 | 422 if entry.size == 0 => {
                format!("server {} does not take empty files", self.hub.url())
            }
            _ => return failure,
        };
        Failure {
            error: Error::new(Kind::Refused, what),
            ..failure
        }
    }

    fn remove(&self, records: &[Record]) -> Called<RemoteRow> {
        for record in records {
            match self.hub.remove(record.id, client::Change::default()) {
                Err(failure) if failure.status == 404 => {}
                other => drop(self.called(other)?),
            }
        }
        Ok(rows::gone(
            self.ledger.next(),
            records.first().map_or(Uuid::nil(), |record| record.id),
        ))
    }

    /// Passes the bytes of the current version to `take`, up to the announced size.
    fn stream(
        &self,
        id: Uuid,
        size: u64,
        take: &mut dyn FnMut(&[u8]) -> Called<()>,
    ) -> Called<bool> {
        let mut answer = match self.hub.download(id, None, 0, None) {
            Err(failure) if failure.status == 404 => return Ok(false),
            other => self.called(other)?,
        };
        let (mut left, mut buffer) = (size, vec![0; COPY_BUFFER_BYTES]);
        loop {
            let n = self.called(answer.read(&mut buffer))?;
            let bytes = &buffer[..n.min(usize::try_from(left).unwrap_or(n))];
            take(bytes)?;
            left -= bytes.len() as u64;
            self.traffic.down(TransferStep::Passed(bytes.len() as u64));
            // one more byte than announced is too many: the file was replaced
            if n == 0 || bytes.len() < n {
                return Ok(n == 0);
            }
        }
    }

    /// The bytes received do not match their row: either the file was replaced since, or the server's data
    /// are damaged.
    fn other_bytes(&self, path: &str, entry: &Entry) -> Called<Option<Staged>> {
        let now = self
            .at(path)?
            .first()
            .and_then(|record| self.names.row(record))
            .and_then(|(_, row)| row.entry);
        self.ledger.want();
        if now.is_none_or(|now| !now.same_body(entry)) {
            return Ok(None);
        }
        let what = format!(
            "will not take {path}: what server {} sends is not what it has announced",
            self.hub.url()
        );
        Err(Fault::Refused(Error::new(Kind::Damaged, what)))
    }

    /// Gives a file that only the server has another name there.
    fn copy(&self, change: &Change, entry: &Entry) -> Called<Answer> {
        let row = self
            .state
            .rows(change.from.as_ref().map_or(&change.path, |from| &from.path))?
            .remote;
        if entry.size > SINGLE {
            let what = format!(
                "cannot rename {} on server {}: it is too long",
                change.path,
                self.hub.url()
            );
            return Err(Fault::Refused(Error::new(Kind::Failed, what)));
        }
        let mut bytes = Vec::new();
        let take = &mut |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        if !self.stream(row.id, entry.size, take)? || Hash::of(&bytes) != entry.hash {
            self.ledger.want();
            return Ok(Answer::NotDone);
        }
        self.send(change, entry, Bytes::Bytes(&bytes))
    }

    fn names_of(change: &Change) -> Vec<String> {
        std::iter::once(&change.path)
            .chain(change.from.as_ref().map(|from| &from.path))
            .cloned()
            .collect()
    }

    /// Handles entries that are not regular files; `None`: it is a regular file.
    fn special(&self, path: &str, entry: &Entry) -> Called<Option<Answer>> {
        match entry.kind {
            files::Kind::File => Ok(None),
            // reporting every emptied directory as out of sync would help no user
            files::Kind::Dir => {
                let row = RemoteRow {
                    rev: self.ledger.next(),
                    entry: Some(*entry),
                    ..RemoteRow::default()
                };
                Ok(Some(Answer::Noted(vec![(path.to_string(), row)])))
            }
            files::Kind::Symlink => {
                let what = format!(
                    "a symbolic link is not kept: server {} has regular files only",
                    self.hub.url()
                );
                Err(Fault::Refused(Error::new(Kind::Failed, what)))
            }
        }
    }
}

/// Whether it is a directory that only this machine knows.
pub(super) fn is_dir(row: &RemoteRow) -> bool {
    row.entry.is_some_and(|entry| entry.is_dir())
}

impl Hub for S3em {
    fn changes(&self, after: u64, _newest: Revision, _began: Option<u64>) -> Called<Changes> {
        if self.state.feed()?.epoch != self.epoch {
            // the known rows belong to another server, and are forgotten before this one is listed
            let page = Page {
                rev: 0,
                epoch: self.epoch,
                more: false,
                began: None,
                last: None,
                tag: Tag::default(),
                rows: Vec::new(),
            };
            return Ok(Changes::Page(page));
        }
        self.compare(after == 0).map(Changes::Page)
    }

    /// Such a server has no history.
    fn common(&self, _epoch: Uuid, _points: &[Revision]) -> Called<u64> {
        Ok(0)
    }

    fn change(&self, change: &Change) -> Called<Answer> {
        let _changing = self.ledger.changing(S3em::names_of(change));
        if let Some(entry) = &change.entry {
            return self
                .special(&change.path, entry)?
                .map_or_else(|| self.copy(change, entry), Ok);
        }
        match self.stands(&change.path, change.condition)? {
            RemoteVersion::Met(records) if records.is_empty() => Ok(Answer::Noted(vec![(
                change.path.clone(),
                rows::gone(self.ledger.next(), Uuid::nil()),
            )])),
            RemoteVersion::Met(records) => Ok(Answer::Made(vec![(
                change.path.clone(),
                self.remove(&records)?,
            )])),
            RemoteVersion::Otherwise(None) => Ok(Answer::NotDone),
            RemoteVersion::Otherwise(row) => Ok(Answer::Differs(row)),
        }
    }

    /// Such a server has no memory of keys: only its current files are known.
    fn ask(&self, key: Uuid, _newest: Revision) -> Called<Asked> {
        let mut names = Vec::new();
        each_below(&*self.state, "", |path, rows| {
            if rows.key.as_ref().is_some_and(|k| k.key == key) {
                names.push(path.to_string());
            }
            Ok(true)
        })?;
        let _changing = self.ledger.changing(names.clone());
        let mut current = Vec::new();
        for path in names {
            let known = self.state.rows(&path)?.remote;
            let row = match self.at(&path)?.first() {
                Some(record) => self.names.row(record).map(|(_, row)| row),
                None if is_dir(&known) => None,
                None => Some(rows::gone(0, known.id)),
            };
            // a row that is unchanged keeps its number
            if let Some(row) = row.filter(|row| (row.entry, row.id) != (known.entry, known.id)) {
                current.push((
                    path,
                    RemoteRow {
                        rev: self.ledger.next(),
                        ..row
                    },
                ));
            }
        }
        Ok(Asked {
            made: None,
            current,
        })
    }
}

impl Transfer for S3em {
    fn upload(&self, change: &Change, local: &Local) -> Called<Answer> {
        let Some(entry) = &change.entry else {
            return Ok(Answer::NotDone);
        };
        if let Some(answer) = self.special(&change.path, entry)? {
            return Ok(answer);
        }
        let failed = |e: std::io::Error| fault("read", &change.path, &e);
        let _changing = self.ledger.changing(S3em::names_of(change));
        let Some(reading) = self
            .tree
            .read(&change.path, Some(&local.stamp))
            .map_err(failed)?
        else {
            return Ok(Answer::Moved);
        };
        let sent = self.send(
            change,
            entry,
            Bytes::Part {
                file: &reading.file,
                at: 0,
                length: entry.size,
                sha256: entry.hash,
            },
        );
        if sent == Ok(Answer::Moved) {
            self.tree.contradicted(&local.stamp);
        }
        sent
    }

    fn stage(
        &self,
        path: &str,
        row: &RemoteRow,
        entry: &Entry,
        sources: &[Source],
        above: &[(&str, u32)],
    ) -> Called<Option<Staged>> {
        self.tree.make_directories(above)?;
        match entry.kind {
            files::Kind::Dir => return self.tree.stage_dir(path, entry),
            files::Kind::Symlink => return Ok(None),
            files::Kind::File => {}
        }
        if let Some(staged) = self.tree.stage_copy(path, entry, sources)? {
            return Ok(Some(staged));
        }
        if !sources.contains(&Source::Hub) {
            return Ok(None);
        }
        let Some(mut temporary) = self.tree.temporary(path, entry.size)? else {
            return Ok(None);
        };
        let whole = self.stream(row.id, entry.size, &mut |bytes| {
            temporary
                .write_all(bytes)
                .map_err(|e| fault("write beside", path, &e))
        })?;
        if whole && let Some(staged) = temporary.finish(entry)? {
            return Ok(Some(staged));
        }
        self.other_bytes(path, entry)
    }
}
