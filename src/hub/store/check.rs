//! Checks the tables, and that every chunk that they name exists and is whole: for a stopped hub, or a backup.
//!
//! It repairs only what redb repairs when it opens a file that was not closed. [`ask_for_lost`] makes the hub ask its clients
//! for the lost chunks.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase};

use super::findings::Findings;
use super::meta::{CLUSTER, META, ONE_LEVEL, SCHEMA, UNPACKED, UNTAGGED};
use super::{Store, files, open};
use crate::database::DbResult;
use crate::database::table::{OpenTable, ReadableTable};
use crate::error::{Error, Kind, Result};
use crate::wire::files::Hash;

/// Checks the data directory `dir` of a stopped hub: the caller holds its lock. `cache`: bytes of memory for pages.
pub fn check(dir: &Path, cache: usize) -> Result<Findings> {
    let path = dir.join(Store::FILE);
    if !path.is_file() {
        return Err(Error::new(
            Kind::Settings,
            format!(
                "cannot check {}: there is no {} in it",
                dir.display(),
                Store::FILE
            ),
        ));
    }
    let mut db = open::database(&path, cache, &Arc::default())?;
    let mut findings = Findings::default();
    if let Some(schema) = meta_value(&db, "schema").filter(|schema| *schema > SCHEMA) {
        return Err(open::unknown_schema(&path, schema));
    }
    if meta_value(&db, CLUSTER).is_some() {
        let what = format!(
            "will not check {}: it is a view of a bucket, which has the data",
            dir.display()
        );
        return Err(Error::new(Kind::Settings, what)
            .hint("remove the directory if it is damaged: the next start makes the view again"));
    }
    let pages = std::panic::catch_unwind(AssertUnwindSafe(|| db.check_integrity()));
    match pages {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => findings.damaged(format!(
            "{}: its pages were not in order, and have been repaired",
            path.display()
        )),
        Ok(Err(e)) => findings.damaged(format!("{}: {e}", path.display())),
        Err(_) => {
            findings.damaged(format!("{}: its pages cannot be read", path.display()));
            return Ok(findings);
        }
    }
    match std::panic::catch_unwind(AssertUnwindSafe(|| look(&db, dir, &mut findings))) {
        Ok(Ok(())) => {}
        Ok(Err(e)) => findings.damaged(format!("{}: {e}", path.display())),
        Err(_) => findings.damaged(format!("{}: its tables cannot be read", path.display())),
    }
    Ok(findings)
}

/// Records these chunks as lost, so that the hub asks its clients for them after its next start; the record of chunks that
/// are whole again is removed.
pub fn ask_for_lost(dir: &Path, cache: usize, lost: &BTreeSet<Hash>, wall: u64) -> Result<()> {
    let path = dir.join(Store::FILE);
    let db = open::database(&path, cache, &Arc::default())?;
    let write = || -> DbResult<()> {
        let tx = db.begin_write()?;
        {
            let mut table = tx.table(files::WANTED)?;
            table.retain(|hash, _| lost.contains(&Hash(*hash)))?;
            for hash in lost {
                if table.get(&hash.0)?.is_none() {
                    table.insert(&hash.0, wall)?;
                }
            }
        }
        Ok(tx.commit()?)
    };
    write().map_err(|e| open::error("write", &path, &e))
}

/// `None`: it is not there, or cannot be read; damaged tables are checked like others.
fn meta_value(db: &Database, name: &str) -> Option<u128> {
    let read = || -> DbResult<Option<u128>> {
        let row = db.begin_read()?.table(META)?.get(name)?;
        Ok(row.map(|row| row.value()))
    };
    let read = std::panic::catch_unwind(AssertUnwindSafe(read));
    read.ok()?.ok()?
}

fn look(db: &Database, dir: &Path, findings: &mut Findings) -> DbResult<()> {
    let tx = db.begin_read()?;
    match tx.table(META)?.get("schema")?.map(|v| v.value()) {
        Some(UNTAGGED | UNPACKED | ONE_LEVEL | SCHEMA) => files::check(&tx, dir, findings),
        other => {
            findings.damaged(format!(
                "the tables are of version {}, this program knows {SCHEMA}",
                other.unwrap_or(0)
            ));
            Ok(())
        }
    }
}
