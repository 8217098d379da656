//! The form of `keys.toml`: rows to keys and back, and a stamp that changes with the file.
//!
//! It reads the file and never writes it.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Key, KeyHash};
use crate::config::limits;
use crate::error::{Error, Kind};
use crate::hub::rights::Rights;
use crate::wire::rights::RightsRow;
use crate::{clock, wire};

/// Bytes of the file at most: a row has about 170, more with many directories.
pub(super) const MAX_FILE_BYTES: u64 = limits::KEYS as u64 * 4096;
pub(super) const FILE_HEADING: &str =
    "# Keys of this hub: \"mesync key add NAME\" makes one. Only their hashes are here.\n";

/// The form of `keys.toml`.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    /// Required, so that a truncated file, empty or with its heading only, does not count as one without keys.
    #[serde(rename = "key")]
    keys: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    sha256: String,
    #[serde(default)]
    created: String,
    /// The hash of the key that this one replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    old_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    old_until: Option<String>,
    #[serde(default, skip_serializing_if = "RightsRow::limits_nothing")]
    rights: RightsRow,
}

/// Why the keys are not known.
pub(super) enum KeysFileFault {
    /// The file is missing or invalid: this lasts until it changes.
    Content(Error),
    /// It could not be opened or read, which may be temporary.
    Unread(Error),
}

impl From<KeysFileFault> for Error {
    fn from(bad: KeysFileFault) -> Error {
        match bad {
            KeysFileFault::Content(e) | KeysFileFault::Unread(e) => e,
        }
    }
}

/// Properties of a file that change with it; the default is that of no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct KeysFileStamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl KeysFileStamp {
    pub(super) fn of(meta: &Metadata) -> KeysFileStamp {
        KeysFileStamp {
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

pub(super) fn text(keys: &[Key]) -> String {
    let row = |key: &Key| Row {
        name: key.name.clone(),
        sha256: hex(&key.hash),
        created: key.created.map(clock::rfc3339).unwrap_or_default(),
        old_sha256: key.replaces.map(|(old, _)| hex(&old)),
        old_until: key.replaces.map(|(_, until)| clock::rfc3339(until)),
        rights: key.rights.row(),
    };
    let document = KeysFile {
        keys: keys.iter().map(row).collect(),
    };
    // names are checked, and the rest is made here: all of it can be written as TOML
    format!(
        "{FILE_HEADING}\n{}",
        toml::to_string(&document).unwrap_or_default()
    )
}

/// The keys, and the stamp of their file. A missing file has no keys.
pub(super) fn read(
    path: &Path,
) -> std::result::Result<(Option<KeysFileStamp>, Vec<Key>), KeysFileFault> {
    let cannot = |why: &str| {
        Error::new(
            Kind::Settings,
            format!("cannot read the keys in {}: {why}", path.display()),
        )
    };
    let failed =
        |why: String| {
            KeysFileFault::Content(cannot(&why).hint(
                "repair the file, or remove it and make new keys with \"mesync key add NAME\"",
            ))
        };
    let io = |e: io::Error| {
        KeysFileFault::Unread(
            cannot(&crate::error::plain(&e)).hint("it belongs to the user that the hub runs as"),
        )
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((None, Vec::new())),
        Err(e) => return Err(io(e)),
    };
    // before the content, so that a write in between is detected at the next check
    let meta = file.metadata().map_err(io)?;
    if meta.mode() & 0o022 != 0 {
        let writable = cannot(&format!(
            "other users can write it (mode {:o})",
            meta.mode() & 0o7777
        ));
        return Err(KeysFileFault::Content(
            writable.hint(format!("chmod 600 {}", path.display())),
        ));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("it is not UTF-8".into()))?;
    parse(text)
        .map(|keys| (Some(KeysFileStamp::of(&meta)), keys))
        .map_err(failed)
}

pub(super) fn parse(text: &str) -> std::result::Result<Vec<Key>, String> {
    if text.trim().is_empty() {
        return Err("it is empty, so it was truncated".into());
    }
    let document: KeysFile = toml::from_str(text).map_err(|e| {
        let line = text[..e.span().map_or(0, |s| s.start).min(text.len())]
            .matches('\n')
            .count()
            + 1;
        format!("line {line}: {}", e.message())
    })?;
    if document.keys.len() > limits::KEYS {
        return Err(format!(
            "it has {} keys; at most {} are allowed",
            document.keys.len(),
            limits::KEYS
        ));
    }
    let mut keys: Vec<Key> = Vec::with_capacity(document.keys.len());
    let (mut names, mut hashes) = (BTreeSet::new(), BTreeSet::new());
    for row in document.keys {
        let name = wire::check_host(&row.name)?;
        let hash = unhex(&row.sha256)
            .ok_or_else(|| format!("sha256 of {name} must be 64 hexadecimal digits"))?;
        if !names.insert(name.clone()) || !hashes.insert(hash) {
            return Err(format!("the key of {name} occurs twice"));
        }
        let old = row.old_sha256.as_deref().map(|text| {
            unhex(text).ok_or_else(|| format!("old_sha256 of {name} must be 64 hexadecimal digits"))
        });
        let until = row.old_until.as_deref().and_then(clock::parse_rfc3339);
        let rights = Rights::read(row.rights).map_err(|why| format!("{name}: {why}"))?;
        keys.push(Key {
            name,
            hash,
            created: clock::parse_rfc3339(&row.created),
            rights: Arc::new(rights),
            replaces: old.transpose()?.zip(until),
        });
    }
    Ok(keys)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<KeyHash> {
    let mut hash = KeyHash::default();
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, two) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()?;
    }
    Some(hash)
}
