//! The durable state of one synced directory, in one redb file: the last versions in sync, the hub's rows, and
//! unfinished operations.
//!
//! It decides nothing: the rules for rows are in [`super::engine::traits`]. Commits of several threads share one transaction
//! with one sync. A lost file is rebuilt: equal files are adopted, and of different ones both versions are kept.

pub mod codec;

mod apply;
mod commit;
mod snapshot;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use uuid::Uuid;

use super::batcher::Batcher;
use super::engine::traits::{CallResult, DeleteToken, Fault, Feed, Rows, State, Write};
use crate::database::file::Happened;
use crate::database::lsm::LsmDefinition;
use crate::database::table::{OpenTable, ReadableTable};
use crate::database::{self, DbResult, Hints};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::wire::files::Hash;
use crate::wire::revision::{Revision, Tag};
use codec::{Damaged, StateRecord};
use commit::Unsynced;
use snapshot::{LatestSnapshot, StateSnapshot};

/// The page cache, in bytes.
const CACHE_BYTES: usize = 2 * 1024 * 1024;
/// How often a copy is retried when a commit of another process overtakes it.
const COPY_TRIES: u32 = 20;
const SCHEMA: u64 = 3;
/// Earlier formats, which are converted: rows without tags, and hashes in one table.
const EARLIER: [u64; 2] = [1, 2];
const HINTS: Hints = Hints {
    busy: "is mesync running with this directory already?",
    damaged: "remove it: both sides are compared anew then",
};

/// One [`StateRecord`] for each path.
const ROWS: TableDefinition<&str, &[u8]> = TableDefinition::new("rows");
/// The first bytes of the hash of each base row that is a file or link, followed by its path.
const HASHES: LsmDefinition<&[u8], ()> =
    LsmDefinition::new("hashes", ["hashes_new", "hashes_recent"]);
const DELETES: TableDefinition<u64, u32> = TableDefinition::new("deletes");
const APPROVALS: TableDefinition<(&str, u64, u64), ()> = TableDefinition::new("approvals");
/// Known revisions and their tags.
const POINTS: TableDefinition<u64, u64> = TableDefinition::new("points");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Bytes of a hash in the index; the base row has the whole hash.
const PREFIX: usize = 8;

/// See the module documentation.
pub struct DiskState {
    path: PathBuf,
    // before the database, which is closed after the last transaction
    latest: LatestSnapshot,
    /// `None` only when the file could not be opened again after a failed write.
    db: RwLock<Option<Database>>,
    happened: Arc<Happened>,
    /// Commits in one batch share one sync, or have none if none of them needs it.
    group: Batcher<(Vec<Write>, Durability), CallResult<()>>,
    unsynced: Mutex<Unsynced>,
}

/// The directory of all states, below the base directory.
pub fn dir(base_dir: &Path) -> PathBuf {
    base_dir.join("state/watch")
}

/// `state/watch/<key>.redb` below the base directory: one for each pair of a local and a remote directory.
pub fn file(base_dir: &Path, dir: &Path, server: &str, remote: &str) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let key = Hash::of(
        &[
            dir.as_os_str().as_bytes(),
            server.as_bytes(),
            remote.as_bytes(),
        ]
        .join(&0),
    );
    self::dir(base_dir).join(format!("{}.redb", &key.to_string()[..16]))
}

impl DiskState {
    /// Opens or creates the file. Errors: `Busy` if another process has it open, `Damaged` if it is damaged, of another
    /// program, or of a newer version.
    pub fn open(path: &Path) -> Result<DiskState> {
        disk::create_dir(disk::parent(path))?;
        let is_new = !path.exists();
        let happened = Arc::new(Happened::default());
        let db = database::open(path, CACHE_BYTES, &happened, &HINTS)?;
        let state = DiskState {
            path: path.to_path_buf(),
            latest: LatestSnapshot::default(),
            db: RwLock::new(Some(db)),
            happened,
            group: Batcher::new(usize::MAX),
            unsynced: Mutex::default(),
        };
        let schema = state.prepare().map_err(|e| state.error("open", &e))?;
        if schema != SCHEMA {
            let what = format!(
                "cannot use {}: its tables are of version {schema}, this program knows {SCHEMA}",
                path.display()
            );
            return Err(
                Error::new(Kind::Settings, what).hint("install the newer mesync that wrote it")
            );
        }
        if is_new {
            disk::sync_dir(disk::parent(path))
                .map_err(|e| Error::io(format!("create {}", path.display()), &e))?;
        }
        Ok(state)
    }

    /// Copies the file to memory for a run that leaves no trace; a missing file gives an empty state. Another process may be
    /// using the file; if it commits meanwhile, the copy is made again.
    pub fn copy_of(path: &Path) -> Result<DiskState> {
        let failed = |e: &io::Error| Error::io(format!("copy {}", path.display()), e);
        for _ in 0..COPY_TRIES {
            let memory = || -> io::Result<File> {
                Ok(rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::CLOEXEC)?.into())
            };
            let mut copy = memory().map_err(|e| failed(&e))?;
            let stamp = || std::fs::metadata(path).and_then(|m| Ok((m.len(), m.modified()?)));
            let before = match stamp() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                shown => Some(shown.map_err(|e| failed(&e))?),
            };
            if let Some(before) = before {
                io::copy(&mut File::open(path).map_err(|e| failed(&e))?, &mut copy)
                    .map_err(|e| failed(&e))?;
                if stamp().ok() != Some(before) {
                    continue;
                }
            }
            let happened = Arc::new(Happened::default());
            let opened =
                database::open_file(copy, path, CACHE_BYTES, &happened, &HINTS).and_then(|db| {
                    let (path, db) = (PathBuf::new(), RwLock::new(Some(db)));
                    let state = DiskState {
                        path,
                        latest: LatestSnapshot::default(),
                        db,
                        happened,
                        group: Batcher::new(usize::MAX),
                        unsynced: Mutex::default(),
                    };
                    state
                        .prepare()
                        .map_err(|e| state.error("open", &e))
                        .map(|schema| (state, schema))
                });
            match opened {
                Ok((state, SCHEMA)) => return Ok(state),
                Ok((_, schema)) => {
                    let what = format!(
                        "cannot use {}: its tables are of version {schema}, this program knows {SCHEMA}",
                        path.display()
                    );
                    return Err(Error::new(Kind::Settings, what)
                        .hint("install the newer mesync that wrote it"));
                }
                // torn by a commit that left the same time; a real pass replaces a damaged file
                Err(e) if e.kind == Kind::Damaged => {}
                Err(e) => return Err(e),
            }
        }
        let what = format!(
            "cannot copy {}: it is damaged, or changes all the time",
            path.display()
        );
        Err(Error::new(Kind::Busy, what).hint("try again in a moment"))
    }

    /// Like [`DiskState::open`], but moves a damaged file aside and creates a new one.
    pub fn open_or_renew(path: &Path) -> Result<DiskState> {
        match DiskState::open(path) {
            Err(e) if e.kind == Kind::Damaged => {
                let aside = path.with_extension("redb.damaged");
                log::warn!(
                    "{}; starting with an empty state, and keeping the damaged one as {}",
                    e.what,
                    aside.display()
                );
                disk::rename(path, &aside)
                    .map_err(|e| Error::io(format!("put {} aside", path.display()), &e))?;
                DiskState::open(path)
            }
            other => other,
        }
    }

    /// Creates missing tables and values, and writes nothing if none is missing.
    fn prepare(&self) -> DbResult<u64> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let schema = |meta: &dyn Fn(&str) -> DbResult<Option<u64>>| meta("schema");
        if let Ok(meta) = db.begin_read()?.table(META)
            && let Some(schema) =
                schema(&|name| Ok(meta.get(name)?.and_then(|v| number(v.value()))))?
            && !EARLIER.contains(&schema)
        {
            return Ok(schema);
        }
        let tx = db.begin_write()?;
        let tables = apply::StateTables::open(&tx)?;
        drop(tables);
        tx.table(META)?
            .insert("schema", SCHEMA.to_le_bytes().as_slice())?;
        tx.commit()?;
        Ok(SCHEMA)
    }

    /// A small value that is stored with the rows, by name: the marker of the directory, or the boot while it is
    /// open.
    pub fn note(&self, name: &str) -> CallResult<Option<String>> {
        let get = |snapshot: &StateSnapshot| {
            Ok((snapshot.tx.table(META)?)
                .get(note(name).as_str())?
                .map(|v| v.value().to_vec()))
        };
        Ok(self
            .read(get)?
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    pub fn set_note(&self, name: &str, text: &str) -> CallResult<()> {
        self.transaction(Durability::Immediate, &|tx| {
            tx.table(META)?
                .insert(note(name).as_str(), text.as_bytes())?;
            Ok(())
        })
    }

    /// The marker that the directory had.
    pub fn marker(&self) -> CallResult<Option<Uuid>> {
        Ok(self
            .note("marker")?
            .and_then(|text| Uuid::parse_str(&text).ok()))
    }

    /// Syncs, writes and bytes written since the file was opened.
    #[cfg(test)]
    pub fn written(&self) -> [u64; 3] {
        [
            &self.happened.syncs,
            &self.happened.writes,
            &self.happened.bytes,
        ]
        .map(|n| n.load(Relaxed))
    }

    fn read<T>(&self, what: impl Fn(&StateSnapshot) -> DbResult<T>) -> CallResult<T> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let read = || {
            let db = db.as_ref().ok_or(redb::Error::DatabaseClosed)?;
            what(&*self.latest.of(db)?)
        };
        read().map_err(|e| Fault::Fatal(self.error("read", &e)))
    }

    fn error(&self, doing: &str, e: &redb::Error) -> Error {
        database::error(doing, &self.path, e, &HINTS)
    }
}

fn note(name: &str) -> String {
    format!("note.{name}")
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

fn meta_number(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> DbResult<u64> {
    Ok(meta.get(name)?.and_then(|v| number(v.value())).unwrap_or(0))
}

/// The error for a row that cannot be decoded.
fn corrupted(_: Damaged) -> redb::Error {
    redb::Error::Corrupted("a row cannot be read".into())
}

fn decode(bytes: &[u8]) -> DbResult<StateRecord> {
    StateRecord::decode(bytes).map_err(corrupted)
}

/// The range of keys strictly below a directory and after a path.
fn range<'a>(
    dir: &str,
    after: &'a str,
    ends: &'a mut (String, String),
) -> (Bound<&'a str>, Bound<&'a str>) {
    if dir.is_empty() {
        return (
            if after.is_empty() {
                Bound::Unbounded
            } else {
                Bound::Excluded(after)
            },
            Bound::Unbounded,
        );
    }
    // '0' is the character after '/'
    *ends = (format!("{dir}/"), format!("{dir}0"));
    let from = if after > ends.0.as_str() {
        after
    } else {
        ends.0.as_str()
    };
    // redb refuses a range that begins after its end
    let from = if from > ends.1.as_str() {
        ends.1.as_str()
    } else {
        from
    };
    (Bound::Excluded(from), Bound::Included(ends.1.as_str()))
}

impl State for DiskState {
    fn rows(&self, path: &str) -> CallResult<Rows> {
        self.read(|snapshot| match snapshot.rows.get(path)? {
            Some(row) => Ok(decode(row.value())?.rows),
            None => Ok(Rows::default()),
        })
    }

    fn below(&self, dir: &str, after: &str, most: usize) -> CallResult<Vec<(String, Rows)>> {
        self.read(|StateSnapshot { rows, .. }| {
            let (mut ends, mut found) = (Default::default(), Vec::new());
            for row in rows.range::<&str>(range(dir, after, &mut ends))? {
                let (path, row) = row?;
                if dir.is_empty() || super::plan::is_below(path.value(), dir) {
                    found.push((path.value().to_string(), decode(row.value())?.rows));
                }
                if found.len() >= most {
                    break;
                }
            }
            Ok(found)
        })
    }

    fn with_hash(&self, hash: &Hash, most: usize) -> CallResult<Vec<String>> {
        self.read(|StateSnapshot { rows, hashes, .. }| {
            let mut found = Vec::new();
            for key in hashes.starting_with(&hash.0[..PREFIX])? {
                if found.len() >= most {
                    break;
                }
                let key = key?.0;
                let path =
                    std::str::from_utf8(&key.value()[PREFIX..]).map_err(|_| corrupted(Damaged))?;
                let entry = rows
                    .get(path)?
                    .map(|row| decode(row.value()))
                    .transpose()?
                    .and_then(|r| r.rows.base.entry);
                if entry.is_some_and(|e| e.hash == *hash) {
                    found.push(path.to_string());
                }
            }
            Ok(found)
        })
    }

    fn not_listed(&self, after: &str, most: usize) -> CallResult<Vec<String>> {
        self.read(|StateSnapshot { tx, rows, .. }| {
            let listing = meta_number(&tx.table(META)?, "listing")? + 1;
            let (mut ends, mut found) = (Default::default(), Vec::new());
            for row in rows.range::<&str>(range("", after, &mut ends))? {
                let (path, row) = row?;
                let StateRecord { rows, listed } = decode(row.value())?;
                if listed != listing && (rows.base.rev > 0 || rows.remote.rev > 0) {
                    found.push(path.value().to_string());
                }
                if found.len() >= most {
                    break;
                }
            }
            Ok(found)
        })
    }

    fn feed(&self) -> CallResult<Feed> {
        self.read(
            |StateSnapshot { tx, .. }| match tx.table(META)?.get("feed")? {
                Some(bytes) => codec::decode_feed(bytes.value()).map_err(corrupted),
                None => Ok(Feed::default()),
            },
        )
    }

    fn points(&self) -> CallResult<Vec<Revision>> {
        let point = |(rev, tag): (u64, u64)| Revision { rev, tag: Tag(tag) };
        self.read(|StateSnapshot { tx, .. }| {
            tx.table(POINTS)?
                .iter()?
                .map(|row| Ok(row.map(|(rev, tag)| point((rev.value(), tag.value())))?))
                .collect()
        })
    }

    fn files(&self) -> CallResult<u64> {
        self.read(|StateSnapshot { tx, .. }| meta_number(&tx.table(META)?, "files"))
    }

    fn deletes(&self) -> CallResult<BTreeMap<u64, u32>> {
        self.read(|StateSnapshot { tx, .. }| {
            tx.table(DELETES)?
                .iter()?
                .map(|row| row.map(|(m, n)| (m.value(), n.value())).map_err(Into::into))
                .collect()
        })
    }

    fn approved(&self, token: &DeleteToken) -> CallResult<bool> {
        self.read(|StateSnapshot { tx, .. }| {
            Ok(tx
                .table(APPROVALS)?
                .get((token.path.as_str(), token.base, token.remote))?
                .is_some())
        })
    }

    fn commit(&self, writes: &[Write]) -> CallResult<()> {
        if writes.is_empty() {
            return Ok(());
        }
        self.write(writes, Durability::Immediate)
    }

    fn commit_soon(&self, writes: &[Write]) -> CallResult<()> {
        if writes.is_empty() {
            return Ok(());
        }
        self.write(writes, Durability::None)
    }
}

#[cfg(test)]
mod tests;
