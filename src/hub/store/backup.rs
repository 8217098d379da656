//! Backs up the store of a running hub: first a snapshot of the tables, then the chunks that they name.
//!
//! Chunks never change, so they are linked where the disk allows it; no chunk is removed during a backup. The tables are
//! renamed into place last: a directory without them is no backup. They contain no epoch, so a hub that starts with the copy
//! begins a new one (see `open`).

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use redb::ReadableDatabase;

use super::files::{self, ChunkRow, FileTotals};
use super::messages::tables;
use super::meta::META;
use super::{Store, open};
use crate::config::limits;
use crate::database::DbResult;
use crate::database::table::OpenTable;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::wire::files::{Backup, Hash};

/// Further files of a backup. Without the first a restored hub would know no machine; the second shows that there were keys
/// if the first is lost; without the others no joined machine would recognise the hub.
const KEYS: [&str; 4] = ["keys.toml", "keys.lock", "tls.pem", "tls-next.pem"];

impl Store {
    /// Copies the store durably into a new or empty directory. May be called by any thread; it is slow.
    ///
    /// `Kind::Busy`: no space there. Lost chunks are counted and requested from clients; they do not end the backup.
    pub fn backup(&self, dir: &Path) -> Result<Backup> {
        if self.cluster()?.is_some() {
            let what = "will not back up a hub that shares a bucket: the bucket has its data";
            return Err(Error::new(Kind::Settings, what)
                .hint("copy the bucket with the tools of its store while no hub runs"));
        }
        disk::create_dir(dir)?;
        let reading = |e: io::Error| Error::io(format!("read {}", dir.display()), &e);
        if std::fs::read_dir(dir).map_err(reading)?.next().is_some() {
            let what = format!("will not back up into {}: it is not empty", dir.display());
            return Err(Error::new(Kind::CannotCreate, what).hint("name a new directory"));
        }
        self.fill_backup(dir).inspect_err(|_| {
            // remove a partial backup: it would prevent the next one
            let _ = std::fs::remove_file(disk::temporary(&dir.join(Store::FILE)));
            KEYS.iter()
                .for_each(|name| drop(std::fs::remove_file(dir.join(name))));
            let _ = std::fs::remove_dir_all(dir.join("chunks"));
        })
    }

    fn fill_backup(&self, dir: &Path) -> Result<Backup> {
        let _paused = self.chunks.pause();
        let path = dir.join(Store::FILE);
        let temporary = disk::temporary(&path);
        let (totals, chunks) = self.copy_tables(&temporary)?;
        let failed = |e: io::Error| Error::io(format!("back up into {}", dir.display()), &e);
        let (copied, lost) = self.copy_chunks(&chunks, &dir.join("chunks"))?;
        for name in KEYS {
            match disk::read_at_most(&self.dir().join(name), limits::KEYS * 1024) {
                Ok(keys) => disk::write_durably(&dir.join(name), &keys, 0o600)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
        }
        disk::sync_file(&temporary).map_err(failed)?;
        disk::rename_noreplace(&temporary, &path)
            .and_then(|()| disk::sync_dir(dir))
            .map_err(failed)?;
        Ok(Backup {
            files: totals.files,
            chunks: chunks.len() as u64 - lost,
            copied,
            lost,
        })
    }

    /// Copies a snapshot of the tables into a new file; returns their totals, and the chunk files that they name.
    fn copy_tables(&self, path: &Path) -> Result<(FileTotals, Vec<Hash>)> {
        let to = open::database(path, self.cache, &Arc::default())?;
        let copy = || -> DbResult<(FileTotals, Vec<Hash>)> {
            // held to the end: after a failed write, the file cannot be opened again while it is read
            let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
            let from = db
                .as_ref()
                .ok_or(redb::Error::DatabaseClosed)?
                .begin_read()?;
            let tx = to.begin_write()?;
            tables::copy(&from, &tx)?;
            files::copy(&from, &tx)?;
            tx.commit()?;
            let mut chunks = Vec::new();
            for row in files::chunk_rows(&from)?.iter()? {
                let (hash, row) = row?;
                let is_file = ChunkRow::from_value(row.value()).is_file();
                chunks.extend(is_file.then(|| Hash(*hash.value())));
            }
            Ok((FileTotals::read(&from.table(META)?)?, chunks))
        };
        let copied = copy().map_err(|e| open::error("copy into", path, &e))?;
        to.close()
            .map_err(|e| open::error("write", path, &e.into()))?;
        Ok(copied)
    }

    /// Links each chunk under `to`; returns the bytes that had to be copied instead, and the number of missing chunks.
    fn copy_chunks(&self, chunks: &[Hash], to: &Path) -> Result<(u64, u64)> {
        let failed = |path: &Path, e: &io::Error| Error::io(format!("copy {}", path.display()), e);
        let mut dirs: Vec<PathBuf> = vec![to.to_path_buf()];
        let mut copied = Vec::new();
        make_dir(to).map_err(|e| failed(to, &e))?;
        let (mut bytes, mut lost) = (0, 0);
        // sorted by name, so directory by directory
        for hash in chunks {
            let from = self.chunks.place_of(*hash);
            let dir = to.join(&hash.to_string()[..2]);
            if dirs.last() != Some(&dir) {
                make_dir(&dir).map_err(|e| failed(&dir, &e))?;
                dirs.push(dir.clone());
            }
            let target = dir.join(hash.to_string());
            match disk::link(&from, &target) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    self.chunks.wanted.note(*hash, "its file is missing");
                    lost += 1;
                }
                // another file system, or one without links
                Err(_) => {
                    bytes += copy_file(&from, &target).map_err(|e| failed(&from, &e))?;
                    copied.push(target);
                }
            }
        }
        let sync = || -> io::Result<()> {
            if disk::syncfs_reports_errors() {
                return disk::sync_filesystem(to);
            }
            copied.iter().try_for_each(|path| disk::sync_file(path))?;
            dirs.iter().try_for_each(|dir| disk::sync_dir(dir))
        };
        sync().map_err(|e| failed(to, &e))?;
        Ok((bytes, lost))
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)
}

fn copy_file(from: &Path, to: &Path) -> io::Result<u64> {
    let mut to = disk::write_temporary(to, &[], 0o600)?;
    io::copy(&mut disk::open_regular(from)?, &mut to)
}
