//! Opens the store's file: a new one, an older one, or one of another program; and words its errors.
//!
//! It decides nothing about messages.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};

use redb::{Database, ReadableDatabase, WriteTransaction};
use uuid::Uuid;

use super::Store;
use super::apply::StoreTables;
use super::files::objects::ObjectTables;
use super::files::{self, ChunkDir, FileTotals};
use super::messages::live::Live;
use super::messages::tables::{HOSTS, HostRow};
use super::meta::{CLUSTER, META, ONE_LEVEL, SCHEMA, UNPACKED, UNTAGGED};
use super::ops::resume;
use crate::database::DbResult;
use crate::database::Hints;
use crate::database::file::Happened;
use crate::database::table::{OpenTable, ReadableTable};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::wire::revision::Tag;

/// Off: commits are frequent, kills are rare. Measured with 1,000,000 messages in 538 MB (store/tests/bench.rs, a sync of 0.14
/// to 0.26 ms): off, a commit of one message takes 0.34 ms and one sync, and the open after a kill 3.6 s, because redb reads
/// the whole file; on, 0.89 ms and two syncs, and 0.28 s.
pub const QUICK_REPAIR: bool = false;
/// Bytes reserved for acks and deletes on a full disk; see mesync(7).
const DISK_RESERVE_BYTES: u64 = 1024 * 1024;

impl Store {
    /// Opens or creates [`Store::FILE`] in `dir` with `cache` bytes of memory for pages.
    ///
    /// `wall`: milliseconds since 1970. `fresh_epoch`: for a new file. Errors: `Kind::Busy` if another process has it open,
    /// `Kind::Damaged` if it is damaged, of another program, or of a newer version; otherwise those of the disk.
    pub fn open(dir: &Path, cache: usize, wall: u64, fresh_epoch: Uuid) -> Result<Store> {
        disk::create_dir(dir)?;
        let path = dir.join(Store::FILE);
        if !path.exists() {
            create(&path, cache, fresh_epoch)?;
        }
        let happened = Arc::new(Happened::default());
        let db = database(&path, cache, &happened)?;
        let meta = read_meta(&db).map_err(|e| error("read", &path, &e))?;
        if ![UNTAGGED, UNPACKED, ONE_LEVEL, SCHEMA].contains(&meta.schema) {
            return Err(unknown_schema(&path, meta.schema));
        }
        let epoch = match meta.epoch {
            Some(epoch) => Uuid::from_u128(epoch),
            None => {
                log::info!(
                    "opened a restored backup; starting a new epoch, so every client compares all files"
                );
                begin_epoch(&db, fresh_epoch).map_err(|e| error("write", &path, &e))?
            }
        };
        gain_tables(&db, Tag::from(fresh_epoch)).map_err(|e| error("write", &path, &e))?;
        let opened = latest(&db).map_err(|e| error("read", &path, &e))?;
        let chunks = Arc::new(ChunkDir::open(dir, Arc::clone(&happened))?);
        let wanted = db
            .begin_read()
            .map_err(redb::Error::from)
            .and_then(|tx| files::wanted_since(&tx));
        chunks
            .wanted
            .load(wanted.map_err(|e| error("read", &path, &e))?.into_keys());
        hold_reserve(&path);
        let resumed_at = resume(meta.clocks, wall);
        let meta = std::fs::metadata(&path)
            .map_err(|e| Error::io(format!("look at {}", path.display()), &e))?;
        Ok(Store {
            path,
            inode: (meta.dev(), meta.ino()),
            cache,
            epoch,
            opened,
            resumed_at,
            db: Arc::new(RwLock::new(Some(db))),
            happened,
            live: Mutex::new(Live::default()),
            chunks,
            undecided: Mutex::default(),
            landmarks: Mutex::default(),
            tidied: AtomicU64::new(resumed_at),
        })
    }
}

impl Store {
    /// Makes a file with the empty tables of a view of a bucket, not synced.
    pub fn create_view(path: &Path, cache: usize, cluster: Uuid, epoch: Uuid) -> Result<()> {
        create_unnamed(path, cache, epoch, Some(cluster))
    }
}

struct Meta {
    schema: u128,
    /// `None`: a backup.
    epoch: Option<u128>,
    clocks: Option<(u64, u64)>,
}

fn read_meta(db: &Database) -> DbResult<Meta> {
    let meta = db.begin_read()?.table(META)?;
    let get = |name| Ok::<_, redb::Error>(meta.get(name)?.map(|v| v.value()));
    let clocks = get("age")?
        .zip(get("wall")?)
        .map(|(age, wall)| (age as u64, wall as u64));
    Ok(Meta {
        schema: get("schema")?.unwrap_or(0),
        epoch: get("epoch")?,
        clocks,
    })
}

/// The error for tables of a version that this program does not know.
pub fn unknown_schema(path: &Path, schema: u128) -> Error {
    let what = format!(
        "cannot use {}: its tables are of version {schema}, this program knows {SCHEMA}",
        path.display()
    );
    Error::new(Kind::Damaged, what).hint("install the newer mesync that wrote it")
}

/// Revisions that a restored hub skips: the lost hub may have used them since the backup.
const REVISIONS_SKIPPED_BY_RESTORE: u128 = 1 << 32;

/// Starts a new epoch in a restored backup: no number that the lost hub used may mean something else here.
fn begin_epoch(db: &Database, epoch: Uuid) -> DbResult<Uuid> {
    let tx = db.begin_write()?;
    begin_epoch_in(&tx, epoch)?;
    tx.commit()?;
    Ok(epoch)
}

/// The same within a transaction.
pub fn begin_epoch_in(tx: &WriteTransaction, epoch: Uuid) -> DbResult<()> {
    let (mut meta, mut hosts) = (tx.table(META)?, tx.table(HOSTS)?);
    let rev = meta.get("rev")?.map_or(0, |v| v.value());
    meta.insert("rev", rev + REVISIONS_SKIPPED_BY_RESTORE)?;
    // the history before the backup is still valid for clients
    let first = (
        Tag::from(epoch).0,
        meta.get("age")?.map_or(0, |v| v.value() as u64),
        Some(rev as u64),
    );
    tx.table(files::COMMITS)?
        .insert((rev + REVISIONS_SKIPPED_BY_RESTORE) as u64, first)?;
    meta.insert("epoch", epoch.as_u128())?;
    let mut rows = Vec::new();
    for row in hosts.iter()? {
        let (name, row) = row?;
        rows.push((name.value().to_string(), HostRow::from_value(row.value())));
    }
    for (name, row) in rows {
        // another machine may use the name since the backup: the next one that calls is adopted
        hosts.insert(
            name.as_str(),
            HostRow {
                instance: None,
                ..row
            }
            .value(),
        )?;
    }
    Ok(())
}

/// Adds the tables that a store of an older program does not have. `tag`: for its latest revision.
fn gain_tables(db: &Database, tag: Tag) -> DbResult<()> {
    let meta = db.begin_read()?.table(META)?;
    let schema = if meta.get(CLUSTER)?.is_some() {
        UNPACKED
    } else {
        SCHEMA
    };
    if meta.get("schema")?.map(|v| v.value()) == Some(schema) {
        return Ok(());
    }
    drop(meta);
    let tx = db.begin_write()?;
    {
        let mut tables = StoreTables::open(&tx, true)?;
        tables.messages.meta.insert("schema", schema)?;
        if let Some(files) = tables.files.as_mut().filter(|files| files.totals.rev > 0)
            && files.commits.is_empty()?
        {
            files.commits.insert(files.totals.rev, (tag.0, 0, None))?;
        }
    }
    Ok(tx.commit()?)
}

fn latest(db: &Database) -> DbResult<u64> {
    Ok(FileTotals::read(&db.begin_read()?.table(META)?)?.rev)
}

/// Makes a new file, complete before it gets its name: a partial one would be taken for damage at the next start.
fn create(path: &Path, cache: usize, epoch: Uuid) -> Result<()> {
    let temporary = disk::temporary(path);
    create_unnamed(&temporary, cache, epoch, None)?;
    let named = disk::sync_file(&temporary).and_then(|()| disk::rename_noreplace(&temporary, path));
    match named.and_then(|()| disk::sync_dir(disk::parent(path))) {
        // another process has made the file first; the process that locks it keeps it
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|e| Error::io(format!("create {}", path.display()), &e)),
    }
}

/// Makes a file with empty tables, not synced. `cluster`: as a view of a bucket.
fn create_unnamed(path: &Path, cache: usize, epoch: Uuid, cluster: Option<Uuid>) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(format!("remove {}", path.display()), &e));
        }
        _ => {}
    }
    let fill = |db: &Database| -> DbResult<()> {
        let tx = db.begin_write()?;
        let mut tables = StoreTables::open(&tx, true)?;
        let schema = if cluster.is_some() { UNPACKED } else { SCHEMA };
        tables.messages.meta.insert("schema", schema)?;
        tables.messages.meta.insert("epoch", epoch.as_u128())?;
        if let Some(cluster) = cluster {
            tables.messages.meta.insert(CLUSTER, cluster.as_u128())?;
            ObjectTables::open(&tx, &tables.messages.meta)?;
        }
        drop(tables);
        Ok(tx.commit()?)
    };
    let db = database(path, cache, &Arc::default())?;
    fill(&db).map_err(|e| error("write", path, &e))?;
    db.close().map_err(|e| error("write", path, &e.into()))
}

const HINTS: Hints = Hints {
    busy: "is a hub running on this directory already?",
    damaged: "restore a backup, or move the file away to begin with an empty hub",
};

/// Opens the redb file.
pub fn database(path: &Path, cache: usize, happened: &Arc<Happened>) -> Result<Database> {
    crate::database::open(path, cache, happened, &HINTS)
}

/// Words an error of redb.
pub fn error(doing: &str, path: &Path, e: &redb::Error) -> Error {
    crate::database::error(doing, path, e, &HINTS)
}

/// The path of the reserve.
pub fn reserve(path: &Path) -> PathBuf {
    disk::parent(path).join("reserve")
}

/// Allocates the reserve if it is missing. Without it everything works until the disk has no byte left.
pub fn hold_reserve(path: &Path) {
    let reserve = reserve(path);
    if reserve.exists() {
        return;
    }
    let room = disk::free_space(disk::parent(path))
        .is_ok_and(|(free, _, _)| free > 8 * DISK_RESERVE_BYTES);
    let hold = || -> std::io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&reserve)?;
        Ok(rustix::fs::fallocate(
            &file,
            rustix::fs::FallocateFlags::empty(),
            0,
            DISK_RESERVE_BYTES,
        )?)
    };
    if room && hold().is_err() {
        let _ = std::fs::remove_file(&reserve);
    }
}
