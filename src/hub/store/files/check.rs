//! Checks the tables of files against each other and against the chunks on the disk.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use redb::ReadTransaction;
use sha2::{Digest, Sha256};

use super::super::findings::{Findings, Lost};
use super::check_packs;
use super::chunk_row::{ChunkPlace, ChunkRow};
use super::chunks::{self, hash_of};
use super::rows::{Row, rfc3339};
use super::schema::{self, FileTotals, state};
use super::short;
use super::wanted::{each_that_needs, since as wanted_since};
use crate::database::DbResult;
use crate::database::table::{OpenTable, ReadableTable};
use crate::disk;
use crate::error::plain;
use crate::hub::store::meta::META;
use crate::wire::files::{Chunk, Hash};

/// The number of references to each chunk, and its size according to the files.
type References = HashMap<Hash, (u64, u64)>;

/// Checks everything about files, if the store has their tables.
pub fn check(tx: &ReadTransaction, data_dir: &Path, findings: &mut Findings) -> DbResult<()> {
    if let Err(redb::TableError::TableDoesNotExist(_)) = tx.table(schema::CHUNKS.table) {
        return Ok(());
    }
    let mut references = References::new();
    let mut cut = BTreeMap::new();
    let totals = FileTotals::read(&tx.table(META)?)?;
    let found = files(tx, findings, &mut references, &mut cut)?;
    let wanted = FileTotals {
        files: found.files,
        bytes: found.bytes,
        ..totals
    };
    if totals != wanted {
        findings.damaged(format!(
            "the totals say {} files of {} bytes",
            totals.files, totals.bytes
        ));
    }
    if found.rev > totals.rev {
        findings.damaged(format!(
            "there is a revision {} above the last one given, {}",
            found.rev, totals.rev
        ));
    }
    versions(tx, findings, &mut references, &mut cut)?;
    let lost = stored(tx, data_dir, findings, &references)?;
    name_lost(tx, findings, &lost)?;
    for (sha256, (name, list)) in cut {
        if let Err(e) = whole(tx, data_dir, &list)
            .map(|got| got.filter(|got| *got != sha256))
            .and_then(|wrong| match wrong {
                Some(got) => Err(io::Error::other(format!(
                    "its bytes have the checksum {got}, not {sha256}"
                ))),
                None => Ok(()),
            })
        {
            findings.damaged(format!("{name}: {}", plain(&e)));
        }
    }
    orphans(tx, data_dir, findings)
}

/// Files of more than one chunk by checksum: a name for findings, and the chunks.
type Cut = BTreeMap<Hash, (String, Vec<Chunk>)>;

fn files(
    tx: &ReadTransaction,
    findings: &mut Findings,
    references: &mut References,
    cut: &mut Cut,
) -> DbResult<FileTotals> {
    let (names, changes, tombstones) = (
        tx.table(schema::NAMES)?,
        tx.table(schema::CHANGES)?,
        tx.table(schema::TOMBSTONES)?,
    );
    let lists = tx.table(schema::LISTS)?;
    let (mut found, mut count, mut buried) = (FileTotals::default(), 0, 0);
    for entry in tx.table(schema::FILES)?.iter()? {
        let (id, bytes) = entry?;
        count += 1;
        let Ok(row) = Row::from_bytes(bytes.value()) else {
            findings.damaged(format!(
                "the record of the file {:032x} cannot be read",
                id.value()
            ));
            continue;
        };
        let (id, name) = (id.value(), row.name.full());
        let named = names
            .get((row.name.path.as_str(), row.name.name.as_str()))?
            .map(|row| row.value());
        if row.id.as_u128() != id || named != Some((id, state(&row))) {
            findings.damaged(format!("{name}: its name does not lead to it"));
        }
        if changes.get(row.rev)?.map(|row| row.value()) != Some(id) {
            findings.damaged(format!("{name}: it is missing among the changes"));
        }
        found.rev = found.rev.max(row.rev);
        if row.is_live() {
            found.files += 1;
            found.bytes += row.size;
            refer(&lists, &row, findings, references, cut)?;
        } else {
            buried += 1;
            if tombstones.get((row.aged, id))?.is_none() {
                findings.damaged(format!("{name}: its tombstone would never be removed"));
            }
        }
    }
    findings.files = found.files;
    for (what, rows, wanted) in [
        ("names", names.len()?, count),
        ("changes", changes.len()?, count),
        ("tombstones", tombstones.len()?, buried),
    ] {
        if rows != wanted {
            findings.damaged(format!("there are {rows} {what} for {wanted} files"));
        }
    }
    Ok(found)
}

fn versions(
    tx: &ReadTransaction,
    findings: &mut Findings,
    references: &mut References,
    cut: &mut Cut,
) -> DbResult<()> {
    let (files, ages, lists) = (
        tx.table(schema::FILES)?,
        tx.table(schema::VERSION_AGES)?,
        tx.table(schema::LISTS)?,
    );
    for entry in tx.table(schema::VERSIONS)?.iter()? {
        let (key, bytes) = entry?;
        let (id, rev) = key.value();
        findings.versions += 1;
        let Ok(row) = Row::from_bytes(bytes.value()) else {
            findings.damaged(format!(
                "the revision {rev} of the file {id:032x} cannot be read"
            ));
            continue;
        };
        if files.get(id)?.is_none() || ages.get((row.aged, id, rev))?.is_none() {
            findings.damaged(format!(
                "{}: its revision {rev} would never be removed",
                row.name.full()
            ));
        }
        refer(&lists, &row, findings, references, cut)?;
    }
    if ages.len()? != findings.versions {
        findings.damaged(format!(
            "there are ages of {} versions for {}",
            ages.len()?,
            findings.versions
        ));
    }
    Ok(())
}

fn refer(
    lists: &impl ReadableTable<(u128, u64), &'static [u8]>,
    row: &Row,
    findings: &mut Findings,
    references: &mut References,
    cut: &mut Cut,
) -> DbResult<()> {
    let name = || format!("{}, revision {}", row.name.full(), row.rev);
    let Ok(list) = schema::chunks_of(lists, row) else {
        findings.damaged(format!("{}: its list of chunks cannot be read", name()));
        return Ok(());
    };
    if list.iter().map(|c| c.size).sum::<u64>() != row.size {
        findings.damaged(format!(
            "{}: its chunks do not add up to the {} bytes of the file",
            name(),
            row.size
        ));
    }
    for chunk in &list {
        let (count, size) = references.entry(chunk.sha256).or_insert((0, chunk.size));
        *count += 1;
        if *size != chunk.size {
            findings.damaged(format!(
                "{}: the chunk {} has {size} bytes elsewhere, here {}",
                name(),
                chunk.sha256,
                chunk.size
            ));
        }
    }
    if list.first().is_some_and(|first| first.sha256 != row.sha256) {
        cut.entry(row.sha256).or_insert_with(|| (name(), list));
    }
    Ok(())
}

/// Finds the files and versions that need the lost chunks.
fn name_lost(
    tx: &ReadTransaction,
    findings: &mut Findings,
    lost: &BTreeMap<Hash, String>,
) -> DbResult<()> {
    if lost.is_empty() {
        return Ok(());
    }
    let since = wanted_since(tx)?;
    each_that_needs(
        tx,
        &lost.keys().copied().collect(),
        &mut |row, is_current, chunk| {
            let wanted_since = since.get(&chunk).map(|at| rfc3339(*at));
            findings.lost(Lost {
                name: row.name.full(),
                rev: row.rev,
                is_current,
                chunk,
                why: lost[&chunk].clone(),
                wanted_since,
            });
        },
    )?;
    findings.lost_chunks = lost.keys().copied().collect();
    Ok(())
}

/// Compares the table of chunks with its references and with the disk; returns the lost chunks with the reason.
fn stored(
    tx: &ReadTransaction,
    data_dir: &Path,
    findings: &mut Findings,
    references: &References,
) -> DbResult<BTreeMap<Hash, String>> {
    let (inline, loose) = (tx.table(schema::INLINE)?, tx.table(schema::LOOSE)?);
    let packed = check_packs::packs(tx, findings)?;
    let (mut seen, mut unused, mut short) = (0, 0, 0);
    let mut lost = BTreeMap::new();
    for entry in schema::chunk_rows(tx)?.iter()? {
        let (key, row) = entry?;
        let hash = Hash(*key.value());
        let ChunkRow {
            size,
            references: count,
            since,
            place,
        } = ChunkRow::from_value(row.value());
        findings.chunks += 1;
        findings.bytes += size;
        let wanted = references.get(&hash).copied();
        seen += u64::from(wanted.is_some());
        if wanted.map_or(0, |(count, _)| count) != count
            || wanted.is_some_and(|(_, wanted)| wanted != size)
        {
            let (wanted, bytes) = wanted.unwrap_or((0, size));
            findings.damaged(format!("the chunk {hash} of {size} bytes has {count} references, not {wanted} for {bytes} bytes"));
        }
        if count == 0 {
            unused += 1;
            if loose.get((since, &hash.0))?.is_none() {
                findings.damaged(format!("the chunk {hash} would never be removed"));
            }
        }
        let wrong = match place {
            ChunkPlace::File => wrong_file(&chunks::place(data_dir, hash), hash, size),
            ChunkPlace::Value => {
                short += 1;
                match inline.get(&hash.0)? {
                    Some(bytes)
                        if bytes.value().len() as u64 == size
                            && Hash::of(bytes.value()) == hash =>
                    {
                        None
                    }
                    Some(_) => Some("its bytes have another checksum".to_string()),
                    None => Some("it is missing".to_string()),
                }
            }
            ChunkPlace::Pack(place) => match packed.get(&hash) {
                Some(found) if *found == (place, size) => None,
                _ => Some(format!("the pack {} does not have its bytes", place.pack)),
            },
        };
        if let Some(why) = wrong {
            findings.damaged(format!("the chunk {hash}: {why}"));
            lost.insert(hash, why);
        }
    }
    if seen != references.len() as u64 {
        findings.damaged(format!(
            "{} chunks that files need are not in the tables",
            references.len() as u64 - seen
        ));
    }
    if unused != loose.len()? || short != inline.len()? {
        findings.damaged("the lists of chunks that are short, or that nothing needs, name others");
    }
    Ok(lost)
}

fn wrong_file(path: &Path, hash: Hash, size: u64) -> Option<String> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.len() != size => {
            return Some(format!(
                "{} has {} bytes, not {size}",
                path.display(),
                meta.len()
            ));
        }
        Ok(_) => {}
        Err(e) => return Some(format!("{}: {}", path.display(), plain(&e))),
    }
    match hash_of(path) {
        Ok(got) if got == hash => None,
        Ok(_) => Some(format!(
            "the bytes of {} have another checksum",
            path.display()
        )),
        Err(e) => Some(format!("{}: {}", path.display(), plain(&e))),
    }
}

/// The checksum of a sequence of chunks; `None`: one is missing, which was reported before.
fn whole(tx: &ReadTransaction, data_dir: &Path, list: &[Chunk]) -> io::Result<Option<Hash>> {
    let mut sha = Sha256::new();
    for chunk in list {
        let short =
            short::bytes_of(tx, chunk.sha256).map_err(|e| io::Error::other(e.to_string()))?;
        match (
            short,
            disk::open_regular(&chunks::place(data_dir, chunk.sha256)),
        ) {
            (Some(bytes), _) => sha.update(&bytes),
            (None, Ok(file)) => chunks::feed(file, |piece| sha.update(piece))?,
            (None, Err(_)) => return Ok(None),
        }
    }
    Ok(Some(Hash(sha.finalize().into())))
}

fn orphans(tx: &ReadTransaction, data_dir: &Path, findings: &mut Findings) -> DbResult<()> {
    let table = schema::chunk_rows(tx)?;
    let mut dirs: Vec<PathBuf> = entries(&chunks::root(data_dir))?;
    dirs.sort();
    for path in dirs
        .iter()
        .map(|dir| entries(dir))
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
    {
        let hash = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse::<Hash>().ok());
        let known = match hash {
            Some(hash) => table
                .get(&hash.0)?
                .is_some_and(|row| ChunkRow::from_value(row.value()).is_file()),
            None => false,
        };
        if !known {
            findings.orphan(&path);
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        // a backup without chunks, or a file in the place of a directory
        Err(e) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind()) => {
            Ok(Vec::new())
        }
        Err(e) => Err(e),
    }
}
