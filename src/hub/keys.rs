//! The hub's keys: `keys.toml`, which commands edit while the hub runs, and the hub's own secrets beside it.
//!
//! It stores and finds keys; `auth` decides what a key allows. Only the hash of a key is stored, and a plain SHA-256 is
//! enough: keys are 32 random bytes, which cannot be guessed, and a slow hash would take a second on a router.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use uuid::Uuid;

use super::rights::Rights;
use crate::config::limits;
use crate::error::{Error, Kind, Result};
use crate::wire::rights::RightsRow;
use crate::{clock, disk, wire};

/// SHA-256 of a key.
pub type Hash = [u8; 32];

/// The stored part of a host's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The host of the key, in lower case.
    pub name: String,
    pub hash: Hash,
    pub created: Option<SystemTime>,
    pub rights: Arc<Rights>,
    /// The key that this one replaces, and the time until which it is accepted, unless this one is used before.
    pub replaces: Option<(Hash, SystemTime)>,
}

/// The form of `keys.toml`.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Document {
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

/// How long a replaced key is accepted if the new one is not used.
const ROTATION: Duration = Duration::from_secs(86_400);
/// Bytes of the file at most: a row has about 170, more with many directories.
const MAX_FILE_BYTES: u64 = limits::KEYS as u64 * 4096;

/// Characters of a secret of the hub at least: half the length of [`random`].
const SECRET_BYTES: usize = 32;
const FILE_HEADING: &str =
    "# Keys of this hub: \"mesync key add NAME\" makes one. Only their hashes are here.\n";

pub fn hash(key: &str) -> Hash {
    Sha256::digest(key.as_bytes()).into()
}

/// 32 random bytes as 64 hexadecimal digits, which need no quoting in a shell or elsewhere.
pub fn random() -> String {
    // each UUID has 122 random bits of the system's generator; the hash spreads them
    hex(&Sha256::new()
        .chain_update(Uuid::new_v4())
        .chain_update(Uuid::new_v4())
        .chain_update(Uuid::new_v4())
        .finalize())
}

/// The key with this hash, or the one that replaces a key with this hash. Takes the same time for every result.
pub fn find<'a>(keys: &'a [Key], wanted: &Hash, now: SystemTime) -> Option<&'a Key> {
    let mut found = u32::MAX;
    for (i, key) in keys.iter().enumerate() {
        let same: Choice = key.hash.ct_eq(wanted);
        found.conditional_assign(&(i as u32), same);
        if let Some((old, until)) = &key.replaces {
            let same: Choice = old.ct_eq(wanted) & Choice::from(u8::from(now < *until));
            found.conditional_assign(&(i as u32), same);
        }
    }
    keys.get(found as usize)
}

/// The keys in force: the file is checked at every use, so a command in another process takes effect at once.
pub struct Keys {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    /// The stamp of the file that was parsed last, valid or not.
    stamp: Option<Stamp>,
    keys: Arc<[Key]>,
    /// Why the last version of the file could not be used: each reason is logged once.
    complaint: Option<String>,
}

/// Why the keys are not known.
enum Bad {
    /// The file is missing or invalid: this lasts until it changes.
    Content(Error),
    /// It could not be opened or read, which may be temporary.
    Unread(Error),
}

impl From<Bad> for Error {
    fn from(bad: Bad) -> Error {
        match bad {
            Bad::Content(e) | Bad::Unread(e) => e,
        }
    }
}

/// Properties of a file that change with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Stamp {
        Stamp {
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Keys {
    /// Reads the keys for the first time: here a bad file is an error, because there are no older keys to keep.
    pub fn open(data_dir: &Path) -> Result<Keys> {
        let path = file(data_dir);
        let (stamp, keys) = read(&path)?;
        if stamp.is_some() {
            remember(data_dir)?;
        } else if had_keys(data_dir) {
            return Err(gone(&path));
        }
        Ok(Keys {
            path,
            loaded: Mutex::new(Loaded {
                stamp,
                keys: keys.into(),
                complaint: None,
            }),
        })
    }

    /// The current keys: the same `Arc` as long as they do not change.
    pub fn current(&self) -> Arc<[Key]> {
        let stamp = std::fs::metadata(&self.path)
            .ok()
            .map(|meta| Stamp::of(&meta));
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.stamp == stamp {
            return Arc::clone(&loaded.keys);
        }
        // a missing file neither admits nor excludes a machine
        let is_gone = |stamp: &Option<Stamp>| stamp.is_none() && had_keys(disk::parent(&self.path));
        let read = read(&self.path).and_then(|read| {
            if is_gone(&read.0) {
                Err(Bad::Content(gone(&self.path)))
            } else {
                Ok(read)
            }
        });
        let complaint = match read {
            Ok((stamp, keys)) => {
                log::info!("reloaded keys: {}", count(keys.len()));
                loaded.stamp = stamp;
                if *loaded.keys != *keys {
                    loaded.keys = keys.into();
                }
                None
            }
            Err(bad) => {
                if let (Bad::Content(_), Some(_)) = (&bad, stamp) {
                    loaded.stamp = stamp;
                }
                Some(Error::from(bad).to_string())
            }
        };
        if let Some(why) = complaint
            .as_ref()
            .filter(|why| loaded.complaint.as_ref() != Some(why))
        {
            log::error!("cannot reload the keys, keeping the old ones: {why}");
        }
        loaded.complaint = complaint;
        Arc::clone(&loaded.keys)
    }

    /// The last version of the file could not be used, so there may be unknown keys.
    pub fn in_doubt(&self) -> bool {
        self.loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .complaint
            .is_some()
    }

    /// Reads the file again, even if it seems unchanged.
    pub fn reload(&self) -> Arc<[Key]> {
        self.loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stamp = Some(Stamp {
            inode: 0,
            size: 0,
            modified: (0, 0),
            changed: (0, 0),
        });
        self.current()
    }
}

/// `1 key`, `2 keys`.
pub fn count(n: usize) -> String {
    format!("{n} key{}", if n == 1 { "" } else { "s" })
}

/// Makes a key for a host and returns it; it is not stored. A running hub accepts it from now on.
pub fn add_key(data_dir: &Path, name: &str) -> Result<String> {
    add_key_with(data_dir, name, Rights::default())
}

/// The same with these rights.
pub fn add_key_with(data_dir: &Path, name: &str, rights: Rights) -> Result<String> {
    let key = random();
    add_hash(data_dir, name, hash(&key), Placing::New, Some(rights))?;
    Ok(key)
}

/// Whether a key may replace another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placing {
    New,
    Replace,
}

/// The error for a name that has a key, with a hint.
pub fn taken(name: &str, verb: &str) -> Error {
    let what = match verb {
        "invite" => format!("cannot invite {name}: it has a key"),
        _ => format!("cannot add a key for {name}: it has one"),
    };
    Error::new(Kind::Failed, what).hint(format!(
        "\"mesync key remove {name}\" first, if the machine is to get a new one"
    ))
}

/// Accepts the key with this hash for a host from now on. Without `rights` it gets those of the key that it replaces, or the
/// default ones.
pub fn add_hash(
    data_dir: &Path,
    name: &str,
    hash: Hash,
    placing: Placing,
    rights: Option<Rights>,
) -> Result<()> {
    let name = check_name(name)?;
    edit(data_dir, |keys| {
        let before = match keys.iter().position(|k| k.name == name) {
            Some(at) if placing == Placing::Replace => keys.remove(at).rights,
            Some(_) => return Err(taken(&name, "add")),
            None => Arc::default(),
        };
        if keys.iter().any(|k| k.hash == hash) {
            let what = format!("cannot add a key for {name}: another machine has the same key");
            return Err(Error::new(Kind::Failed, what).hint("each machine makes a key of its own"));
        }
        if keys.len() >= limits::KEYS {
            let what = format!(
                "cannot add a key for {name}: there are {} already",
                limits::KEYS
            );
            return Err(Error::new(Kind::Failed, what)
                .hint("\"mesync key list\", and remove those that are no longer used"));
        }
        keys.push(Key {
            name: name.clone(),
            hash,
            created: Some(clock::now()),
            rights: rights.map_or(before, Arc::new),
            replaces: None,
        });
        Ok(())
    })
}

/// Changes the rights of a host's key at once, and returns the new rights.
pub fn set_rights(
    data_dir: &Path,
    name: &str,
    change: impl FnOnce(&mut Rights) -> Result<()>,
) -> Result<Arc<Rights>> {
    let name = check_name(name)?;
    let mut now = Arc::default();
    edit(data_dir, |keys| {
        let key = find_name(keys, &name, "change")?;
        change(Arc::make_mut(&mut key.rights))?;
        now = Arc::clone(&key.rights);
        Ok(())
    })?;
    Ok(now)
}

/// Makes a new key for a host and returns it. The old one is accepted until the new one is used, at most for a day.
pub fn rotate_key(data_dir: &Path, name: &str) -> Result<String> {
    let name = check_name(name)?;
    let key = random();
    edit(data_dir, |keys| {
        let row = find_name(keys, &name, "rotate")?;
        // if the latest key was never used, the machine still has the one before it
        let old = row.replaces.map_or(row.hash, |(old, _)| old);
        row.replaces = Some((old, clock::now() + ROTATION));
        (row.hash, row.created) = (hash(&key), Some(clock::now()));
        Ok(())
    })?;
    Ok(key)
}

/// Removes the replaced key of a host, because the new one was used.
pub fn end_rotation(data_dir: &Path, name: &str, used: &Hash) -> Result<()> {
    edit(data_dir, |keys| {
        if let Some(key) = keys.iter_mut().find(|k| k.name == name && k.hash == *used) {
            key.replaces = None;
        }
        Ok(())
    })
}

fn find_name<'a>(keys: &'a mut [Key], name: &str, verb: &str) -> Result<&'a mut Key> {
    keys.iter_mut().find(|k| k.name == name).ok_or_else(|| {
        Error::new(
            Kind::Failed,
            format!("cannot {verb} the key of {name}: it has none"),
        )
        .hint("\"mesync key list\" shows all")
    })
}

/// The keys by name.
pub fn list_keys(data_dir: &Path) -> Result<Vec<Key>> {
    let (_, mut keys) = read(&file(data_dir))?;
    keys.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(keys)
}

/// Removes a host's key, which invalidates all tokens for it.
pub fn remove_key(data_dir: &Path, name: &str) -> Result<()> {
    let name = check_name(name)?;
    edit(data_dir, |keys| {
        match keys.iter().position(|k| k.name == name) {
            Some(i) => {
                keys.remove(i);
                Ok(())
            }
            None => Err(Error::new(
                Kind::Failed,
                format!("cannot remove the key of {name}: it has none"),
            )
            .hint("\"mesync key list\" shows all")),
        }
    })
}

/// Reads a secret of the hub from its file, or makes it if it is missing. A truncated one could be guessed, and is refused.
pub fn own_secret(path: &Path) -> Result<String> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let secret = random();
            disk::write_durably(path, format!("{secret}\n").as_bytes(), 0o600)?;
            Ok(secret)
        }
        // an unreadable file may exist
        _ => {
            let secret = disk::read_secret(path)?;
            if secret.len() >= SECRET_BYTES {
                Ok(secret)
            } else {
                let what = format!(
                    "will not use the secret in {}: it is truncated",
                    path.display()
                );
                Err(Error::new(Kind::Settings, what)
                    .hint("remove the file: the next start makes a new secret"))
            }
        }
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("keys.toml")
}

fn check_name(name: &str) -> Result<String> {
    wire::check_host(name)
        .map_err(|e| Error::new(Kind::Usage, format!("cannot use that name for a key: {e}")))
}

/// Locks a file of the hub's directory against edits of other commands until the result is dropped; waits for the lock.
pub fn lock(data_dir: &Path, name: &str) -> Result<File> {
    let path = data_dir.join(name);
    // wait: another edit takes milliseconds, and its lock ends with its process
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let held = lock
        .and_then(|f| f.lock().map(|()| f))
        .map_err(|e| Error::io(format!("lock {}", path.display()), &e))?;
    give_to_owner(data_dir, &path)?;
    Ok(held)
}

/// Reads, changes and writes the file under its lock. On an error the file is unchanged.
fn edit(data_dir: &Path, change: impl FnOnce(&mut Vec<Key>) -> Result<()>) -> Result<()> {
    disk::create_dir(data_dir)?;
    let _held = lock(data_dir, LOCK_FILE)?;
    let path = file(data_dir);
    let (before, mut keys) = read(&path)?;
    let old = before.map(|_| text(&keys));
    change(&mut keys)?;
    if text(&keys).len() as u64 > MAX_FILE_BYTES {
        let what = format!(
            "cannot change {}: it would have more than {MAX_FILE_BYTES} bytes",
            path.display()
        );
        return Err(Error::new(Kind::Failed, what).hint("remove keys that are no longer used"));
    }
    let written = disk::write_durably(&path, text(&keys).as_bytes(), 0o600)
        .and_then(|()| give_to_owner(data_dir, &path));
    written.and_then(|()| remember(data_dir)).inspect_err(|_| {
        // a change that is reported as failed must not be in force
        let _ = match old {
            Some(old) => disk::write_durably(&path, old.as_bytes(), 0o600)
                .and_then(|()| give_to_owner(data_dir, &path)),
            None => std::fs::remove_file(&path).map_err(|e| Error::io("remove the keys", &e)),
        };
    })
}

/// The lock of each edit; its content survives the loss of `keys.toml`.
const LOCK_FILE: &str = "keys.lock";
const HAD_KEYS: &str = "this hub has had keys\n";

/// Records that a file of keys exists: if it is lost later, the hub is not open to every local user.
fn remember(data_dir: &Path) -> Result<()> {
    let path = data_dir.join(LOCK_FILE);
    if had_keys(data_dir) {
        return Ok(());
    }
    let open = || {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
    };
    let write = |mut file: File| {
        file.write_all(HAD_KEYS.as_bytes())
            .and_then(|()| file.sync_all())
    };
    open()
        .and_then(write)
        .map_err(|e| Error::io(format!("write {}", path.display()), &e))?;
    give_to_owner(data_dir, &path)
}

fn had_keys(data_dir: &Path) -> bool {
    std::fs::metadata(data_dir.join(LOCK_FILE)).is_ok_and(|meta| meta.len() > 0)
}

fn gone(path: &Path) -> Error {
    Error::new(
        Kind::Settings,
        format!(
            "cannot read the keys in {}: the file is missing, and there was one",
            path.display()
        ),
    )
    .hint("restore it from a backup, or make new keys with \"mesync key add NAME\"")
}

/// Gives a file that root has written in a hub's directory to the user that the hub runs as.
pub(super) fn give_to_owner(data_dir: &Path, path: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::io(format!("give {} to the hub's user", path.display()), &e);
    let (dir, meta) = (
        std::fs::metadata(data_dir).map_err(failed)?,
        std::fs::metadata(path).map_err(failed)?,
    );
    if dir.uid() == meta.uid() || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(dir.uid()), Some(dir.gid()))
        .and_then(|()| disk::sync_file(path))
        .map_err(failed)
}

fn text(keys: &[Key]) -> String {
    let row = |key: &Key| Row {
        name: key.name.clone(),
        sha256: hex(&key.hash),
        created: key.created.map(clock::rfc3339).unwrap_or_default(),
        old_sha256: key.replaces.map(|(old, _)| hex(&old)),
        old_until: key.replaces.map(|(_, until)| clock::rfc3339(until)),
        rights: key.rights.row(),
    };
    let document = Document {
        keys: keys.iter().map(row).collect(),
    };
    // names are checked, and the rest is made here: all of it can be written as TOML
    format!(
        "{FILE_HEADING}\n{}",
        toml::to_string(&document).unwrap_or_default()
    )
}

/// The keys, and the stamp of their file. A missing file has no keys.
fn read(path: &Path) -> std::result::Result<(Option<Stamp>, Vec<Key>), Bad> {
    let cannot = |why: &str| {
        Error::new(
            Kind::Settings,
            format!("cannot read the keys in {}: {why}", path.display()),
        )
    };
    let failed =
        |why: String| {
            Bad::Content(cannot(&why).hint(
                "repair the file, or remove it and make new keys with \"mesync key add NAME\"",
            ))
        };
    let io = |e: io::Error| {
        Bad::Unread(
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
        return Err(Bad::Content(
            writable.hint(format!("chmod 600 {}", path.display())),
        ));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("it is not UTF-8".into()))?;
    parse(text)
        .map(|keys| (Some(Stamp::of(&meta)), keys))
        .map_err(failed)
}

fn parse(text: &str) -> std::result::Result<Vec<Key>, String> {
    if text.trim().is_empty() {
        return Err("it is empty, so it was truncated".into());
    }
    let document: Document = toml::from_str(text).map_err(|e| {
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
    for row in document.keys {
        let name = wire::check_host(&row.name)?;
        let hash = unhex(&row.sha256)
            .ok_or_else(|| format!("sha256 of {name} must be 64 hexadecimal digits"))?;
        if keys.iter().any(|k| k.name == name || k.hash == hash) {
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, two) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_and_go_while_the_hub_looks_on() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("hub");
        let first = add_key(&data, "Web-1").unwrap();
        let keys = Keys::open(&data).unwrap();
        let second = add_key(&data, "web-2").unwrap();
        let name =
            |key: &str| find(&keys.current(), &hash(key), clock::now()).map(|k| k.name.clone());
        assert_eq!(
            (
                name(&first).as_deref(),
                name(&second).as_deref(),
                name("other")
            ),
            (Some("web-1"), Some("web-2"), None)
        );
        assert!(
            add_key(&data, "web-1")
                .unwrap_err()
                .to_string()
                .contains("key remove web-1")
        );
        assert!(
            add_key(&data, "../x")
                .unwrap_err()
                .to_string()
                .contains("a host name is")
        );
        remove_key(&data, "web-1").unwrap();
        assert_eq!(
            (name(&first), name(&second).as_deref()),
            (None, Some("web-2"))
        );
        assert!(Arc::ptr_eq(&keys.current(), &keys.reload()));
        assert!(
            remove_key(&data, "web-1")
                .unwrap_err()
                .to_string()
                .contains("it has none")
        );
        assert_eq!(
            list_keys(&data)
                .unwrap()
                .iter()
                .map(|k| k.name.as_str())
                .collect::<Vec<_>>(),
            ["web-2"]
        );
        let meta = std::fs::metadata(file(&data)).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o600);
        assert!(
            !std::fs::read_to_string(file(&data))
                .unwrap()
                .contains(&second)
        );
    }

    #[test]
    fn a_bad_file_keeps_the_old_keys_and_a_good_one_replaces_them() {
        let dir = tempfile::tempdir().unwrap();
        let key = add_key(dir.path(), "web-1").unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let known = || find(&keys.current(), &hash(&key), clock::now()).is_some();
        let good = std::fs::read(file(dir.path())).unwrap();
        for bad in [
            "[[key]\n",
            "[[key]]\nname = 'x'\nsha256 = 'y'\n",
            "\u{fffd}",
            "",
            "\n",
            "\0\0\0\0",
            FILE_HEADING,
            "# \n",
        ] {
            std::fs::write(file(dir.path()), bad).unwrap();
            assert!(known(), "{bad}");
            assert!(
                Keys::open(dir.path()).is_err() && add_key(dir.path(), "web-9").is_err(),
                "{bad}"
            );
        }
        std::fs::write(file(dir.path()), &good).unwrap();
        assert!(known());
        std::fs::remove_file(file(dir.path())).unwrap();
        assert!(
            known(),
            "a missing file locks no machine out, and lets none in"
        );
        assert!(
            Keys::open(dir.path())
                .err()
                .unwrap()
                .to_string()
                .contains("there was one")
        );
        // recovery: a new key makes a new file
        let new = add_key(dir.path(), "web-2").unwrap();
        assert!(find(&keys.current(), &hash(&new), clock::now()).is_some() && !known());
        remove_key(dir.path(), "web-2").unwrap();
        assert!(keys.current().is_empty() && Keys::open(dir.path()).unwrap().current().is_empty());
    }

    #[test]
    fn keys_that_cannot_be_read_for_a_moment_are_read_when_they_can() {
        let dir = tempfile::tempdir().unwrap();
        let key = add_key(dir.path(), "web-1").unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        remove_key(dir.path(), "web-1").unwrap();
        let good = std::fs::read(file(dir.path())).unwrap();
        // a directory can be opened but not read as a file, by any user
        std::fs::remove_file(file(dir.path())).unwrap();
        std::fs::create_dir(file(dir.path())).unwrap();
        std::fs::set_permissions(
            file(dir.path()),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        assert!(find(&keys.current(), &hash(&key), clock::now()).is_some());
        std::fs::remove_dir(file(dir.path())).unwrap();
        std::fs::write(file(dir.path()), &good).unwrap();
        assert!(keys.current().is_empty());
    }

    #[test]
    fn rights_are_kept_and_a_file_of_an_older_version_means_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let row = format!(
            "[[key]]\nname = \"web-1\"\nsha256 = \"{}\"\n",
            hex(&[7; 32])
        );
        let write = |text: &str| std::fs::write(file(dir.path()), text).unwrap();
        write(&row);
        let keys = Keys::open(dir.path()).unwrap();
        assert_eq!(*keys.current()[0].rights, Rights::default());
        let limited = RightsRow {
            files: Some(vec!["a/b".into()]),
            read_only: true,
            send: Some(vec!["db".into()]),
            no_messages: true,
            admin: true,
        };
        let wanted = Rights::read(limited.clone()).unwrap();
        let before = keys.current();
        set_rights(dir.path(), "web-1", |rights| {
            *rights = wanted.clone();
            Ok(())
        })
        .unwrap();
        assert!(!Arc::ptr_eq(&before, &keys.current()), "event streams end");
        assert_eq!((*keys.current()[0].rights).row(), limited);
        for wrong in [
            "read_onyl = true",
            "files = \"a\"",
            "files = [\"..\"]",
            "send = [\"../x\"]",
        ] {
            write(&format!("{row}[key.rights]\n{wrong}\n"));
            assert_eq!((*keys.current()[0].rights).row(), limited, "{wrong}");
            assert!(Keys::open(dir.path()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rotated_key_works_until_the_new_one_is_used_or_a_day_has_passed() {
        let dir = tempfile::tempdir().unwrap();
        let first = add_key(dir.path(), "web-1").unwrap();
        let second = rotate_key(dir.path(), "web-1").unwrap();
        // the second key was never used, so the machine still has the first
        let third = rotate_key(dir.path(), "web-1").unwrap();
        let known = |after: Duration| {
            let (keys, now) = (list_keys(dir.path()).unwrap(), clock::now() + after);
            [&first, &second, &third].map(|key| find(&keys, &hash(key), now).is_some())
        };
        assert_eq!(known(Duration::ZERO), [true, false, true]);
        assert_eq!(known(ROTATION), [false, false, true]);
        end_rotation(dir.path(), "web-1", &hash(&third)).unwrap();
        assert_eq!(known(Duration::ZERO), [false, false, true]);
    }

    #[test]
    fn a_secret_that_was_cut_short_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local.key");
        let secret = own_secret(&path).unwrap();
        assert_eq!(own_secret(&path).unwrap(), secret);
        for cut in [0, 1, 31] {
            disk::write_durably(&path, &secret.as_bytes()[..cut], 0o600).unwrap();
            assert!(own_secret(&path).is_err(), "{cut} characters");
        }
    }

    #[test]
    fn many_commands_at_once_lose_no_key() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for i in 0..8 {
                let data = dir.path();
                scope.spawn(move || add_key(data, &format!("web-{i}")).unwrap());
            }
        });
        assert_eq!(list_keys(dir.path()).unwrap().len(), 8);
    }

    #[test]
    fn bad_files_are_named_with_their_line() {
        let check = |text: &str, wants: &str| {
            let got = parse(text).unwrap_err();
            assert!(got.contains(wants), "{text}: {got}");
        };
        let row = |name: &str, hash: &str| format!("[[key]]\nname = '{name}'\nsha256 = '{hash}'\n");
        check("\n\nx = [", "line 3:");
        check("\n[[key]]\nname = 1", "line 3:");
        check("keys = 1", "line 1:");
        check(&row("a b", &"0".repeat(64)), "a host name is");
        check(&row("a", &"g".repeat(64)), "sha256 of a must be");
        check(&row("a", &"+".repeat(64)), "sha256 of a must be");
        check(
            &(row("a", &"0".repeat(64)) + &row("A", &"1".repeat(64))),
            "the key of a occurs twice",
        );
        check(
            &(0..=limits::KEYS)
                .map(|i| row(&format!("h{i}"), &format!("{i:064}")))
                .collect::<String>(),
            "at most 1000",
        );
    }
}
