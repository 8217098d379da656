//! `mesync download -r`: downloads a directory of the hub recursively into a local directory.
//!
//! Nothing is written outside that directory, even if the server is hostile: a path through a symbolic link is refused.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::files::path_on_hub;
use super::output::Output;
use super::parse::Invocation;
use super::progress::Progress;
use super::{CommandEnd, Context, counted, fail, local_path};
use crate::client::HubClient;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::logger::one_line;
use crate::transfer::{Transfer, find};
use crate::wire::brief;
use crate::wire::files::{self, Hash, Name, Record};

const READ_BUFFER_BYTES: usize = 64 * 1024;

/// The local target of a download, if one is given.
pub fn destination(invocation: &Invocation) -> Result<Option<&OsStr>> {
    match (invocation.arguments.get(1), invocation.os_value("output")) {
        (Some(_), Some(_)) => Err(invocation.usage("FILE and -o exclude each other")),
        (argument, flag) => Ok(argument.map(|a| a.as_os_str()).or(flag)),
    }
}

/// `mesync download -r PATH [DIR]`
pub fn download(
    context: &mut Context,
    invocation: &Invocation,
    hub: &HubClient,
) -> Result<CommandEnd> {
    let what = invocation.argument(0)?;
    let mut name = find::path(&path_on_hub(&context.settings, hub, what)?)?;
    let mut records = below(hub, &name)?;
    if records.is_empty() {
        // the hub has no such directory, but this machine has one that is synced with it
        let synced = local_path::on_hub(&context.settings, hub.server_url(), what);
        if let Some(Ok(synced)) = synced.map(|path| find::path(&path)) {
            records = below(hub, &synced)?;
            name = synced;
        }
    }
    if records.is_empty() {
        let what = format!(
            "there is no directory \"{}\" on hub {}",
            brief(what),
            hub.url()
        );
        return Err(Error::new(Kind::Failed, what).hint("see mesync ls"));
    }
    let root = match destination(invocation)? {
        Some(to) if to == "-" => {
            return Err(invocation.usage("-r writes a directory: name it with -o DIR"));
        }
        Some(to) => PathBuf::from(to),
        None => PathBuf::from(&name.name),
    };
    // links last, so that nothing is written through them
    records.sort_by_key(|record| (record.kind == files::EntryKind::Symlink, record.full_name()));
    let progress = Progress::new(invocation.has("quiet"));
    let watch = |step: crate::transfer::TransferStep<'_>| progress.step(step);
    let transfer = Transfer::new(hub, &watch)?;
    let (mut errors, mut got, mut unchanged) = (Vec::new(), 0, 0);
    for record in records {
        let shown = brief(&record.full_name());
        let result = target(&root, &name, &record)
            .and_then(|to| download_entry(&transfer, record, &to, &mut context.out, &progress));
        match result {
            Ok(true) => got += 1,
            Ok(false) => unchanged += 1,
            Err(e) => {
                progress.clear();
                let what = if e.what.starts_with("cannot") || e.what.starts_with("will not") {
                    e.what
                } else {
                    format!("cannot download {shown}: {}", e.what)
                };
                errors.push(Error { what, ..e });
            }
        }
    }
    progress.clear();
    if !context.out.json {
        let failed = match errors.len() {
            0 => String::new(),
            n => format!(", {n} failed"),
        };
        context.out.line(&format!(
            "{} downloaded to {}, {unchanged} unchanged{failed}",
            counted(got, "path"),
            disk::show(root.as_os_str())
        ));
    }
    fail(errors)
}

fn below(hub: &HubClient, name: &Name) -> Result<Vec<Record>> {
    let mut records = find::below(hub, name)?;
    records.retain(|record| record.deleted_at.is_none());
    Ok(records)
}

/// Fetches one record; `false`: it existed already.
fn download_entry(
    transfer: &Transfer<'_>,
    record: Record,
    to: &Path,
    out: &mut Output,
    progress: &Progress,
) -> Result<bool> {
    let is_there = match record.kind {
        files::EntryKind::Dir => to.is_dir(),
        files::EntryKind::File => has_content(to, &record),
        files::EntryKind::Symlink => false,
    };
    if is_there {
        return Ok(false);
    }
    check_spelling(to)?;
    let record = transfer.download(record, to)?;
    progress.clear();
    let file = disk::show(to.as_os_str());
    if out.json {
        out.object(&serde_json::json!({
            "id": record.id, "path": record.full_name(), "rev": record.rev, "size": record.size, "file": file,
        }));
    } else {
        let (size, name) = (out.size(record.size), one_line(&record.full_name()));
        out.line(&format!("{size:>10}  {name}"));
    }
    Ok(true)
}

/// The local path of a record. Its parent directories are made, and must be real directories of this tree.
fn target(root: &Path, top: &Name, record: &Record) -> Result<PathBuf> {
    let full = record.full_name();
    let unsafe_name = |why: String| {
        let what = format!("will not write {}: {why}", brief(&full));
        Error::new(Kind::Refused, what)
    };
    let name = Name::parse(&full).map_err(|why| unsafe_name(why.to_string()))?;
    let inside = format!("{}/", top.full());
    let below = name.full();
    let mut to = root.to_path_buf();
    let Some(below) = below.strip_prefix(&inside) else {
        // the directory's own record, or a file of that name
        return Ok(to);
    };
    make_parent(&to, true)?;
    let mut parts = below.split('/').peekable();
    while let Some(part) = parts.next() {
        to.push(part);
        if parts.peek().is_some() {
            make_parent(&to, false)?;
        }
    }
    let is_dir = std::fs::symlink_metadata(&to).is_ok_and(|meta| meta.is_dir());
    if is_dir && record.kind != files::EntryKind::Dir {
        let what = format!(
            "cannot write {}: a directory is there",
            disk::show(to.as_os_str())
        );
        return Err(Error::new(Kind::CannotCreate, what));
    }
    Ok(to)
}

/// Makes a directory unless it exists. `follow`: a link to a directory is accepted, because the user named it.
fn make_parent(dir: &Path, follow: bool) -> Result<()> {
    let shown = disk::show(dir.as_os_str());
    match std::fs::symlink_metadata(dir) {
        Ok(meta) if meta.is_dir() || follow && dir.is_dir() => Ok(()),
        Ok(_) => Err(Error::new(
            Kind::CannotCreate,
            format!("cannot write into {shown}: it is not a directory"),
        )),
        Err(_) => std::fs::create_dir_all(dir).map_err(|e| Error {
            kind: Kind::CannotCreate,
            ..Error::io(format!("create directory {shown}"), &e)
        }),
    }
}

/// Whether `to` is a regular file with exactly this content.
fn has_content(to: &Path, record: &Record) -> bool {
    let same_size =
        std::fs::symlink_metadata(to).is_ok_and(|meta| meta.is_file() && meta.len() == record.size);
    let Some(wanted) = record.checksum_sha256.filter(|_| same_size) else {
        return false;
    };
    let (mut whole, mut buffer) = (Sha256::new(), vec![0; READ_BUFFER_BYTES]);
    let Ok(mut file) = File::open(to) else {
        return false;
    };
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Hash(whole.finalize().into()) == wanted,
            Ok(n) => whole.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

/// Refuses a name that the disk does not distinguish from an existing one, as exFAT and NTFS treat `A` and `a`.
pub fn check_spelling(to: &Path) -> Result<()> {
    let (Ok(there), Some(wanted)) = (to.symlink_metadata(), to.file_name()) else {
        return Ok(());
    };
    // a directory that cannot be listed allows no check
    let names = std::fs::read_dir(disk::parent(to))
        .into_iter()
        .flatten()
        .flatten();
    let lower = |name: &OsStr| name.to_string_lossy().to_lowercase();
    let (mut listed, mut other) = (false, None);
    for entry in names {
        listed = entry.file_name() == wanted;
        if listed {
            break;
        }
        // FUSE gives each spelling its own inode
        let by_case = || lower(&entry.file_name()) == lower(wanted);
        let by_inode = || {
            entry
                .metadata()
                .is_ok_and(|m| (m.dev(), m.ino(), m.nlink()) == (there.dev(), there.ino(), 1))
        };
        if other.is_none() && (by_case() || by_inode()) {
            other = Some(entry.file_name());
        }
    }
    match other.filter(|_| !listed) {
        Some(other) => {
            let what = format!(
                "cannot write {:?}: this disk treats that name as {other:?}, which exists",
                to.as_os_str()
            );
            Err(Error::new(Kind::CannotCreate, what).hint("choose another name with -o FILE"))
        }
        None => Ok(()),
    }
}
