//! The hub's keys: `keys.toml`, which commands edit while the hub runs, and the hub's own secrets beside it.
//!
//! It stores and finds keys; `auth` decides what a key allows. Only the hash of a key is stored, and a plain SHA-256 is
//! enough: keys are 32 random bytes, which cannot be guessed, and a slow hash would take a second on a router.

mod file;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use uuid::Uuid;

use super::bucket::shared_files::DataFileEdit;
use super::data_dir;
use super::rights::Rights;
use crate::config::limits;
use crate::error::{Error, Kind, Result};
use crate::{clock, disk, wire};
use file::{KeysFileFault, KeysFileStamp, MAX_FILE_BYTES, hex, read, text};

/// SHA-256 of a key.
pub type KeyHash = [u8; 32];

/// The stored part of a host's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The host of the key, in lower case.
    pub name: String,
    pub hash: KeyHash,
    pub created: Option<SystemTime>,
    pub rights: Arc<Rights>,
    /// The key that this one replaces, and the time until which it is accepted, unless this one is used before.
    pub replaces: Option<(KeyHash, SystemTime)>,
}

/// How long a replaced key is accepted if the new one is not used.
const ROTATION: Duration = Duration::from_secs(86_400);
/// Characters of a secret of the hub at least: half the length of [`random`].
const SECRET_BYTES: usize = 32;
pub fn hash(key: &str) -> KeyHash {
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
pub fn find<'a>(keys: &'a [Key], wanted: &KeyHash, now: SystemTime) -> Option<&'a Key> {
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
    loaded: Mutex<LoadedKeys>,
}

struct LoadedKeys {
    /// The stamp of the file that was parsed last, valid or not.
    stamp: Option<KeysFileStamp>,
    keys: Arc<[Key]>,
    /// Why the last version of the file could not be used: each reason is logged once.
    complaint: Option<String>,
}

impl Keys {
    /// Reads the keys for the first time: here a bad file is an error, because there are no older keys to keep.
    pub fn open(data_dir: &Path) -> Result<Keys> {
        let path = keys_file(data_dir);
        let (stamp, keys) = read(&path)?;
        if stamp.is_some() {
            remember(data_dir)?;
        } else if had_keys(data_dir) {
            return Err(gone(&path));
        }
        Ok(Keys {
            path,
            loaded: Mutex::new(LoadedKeys {
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
            .map(|meta| KeysFileStamp::of(&meta));
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.stamp == stamp {
            return Arc::clone(&loaded.keys);
        }
        // a missing file neither admits nor excludes a machine
        let is_gone =
            |stamp: &Option<KeysFileStamp>| stamp.is_none() && had_keys(disk::parent(&self.path));
        let read = read(&self.path).and_then(|read| {
            if is_gone(&read.0) {
                Err(KeysFileFault::Content(gone(&self.path)))
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
                if let (KeysFileFault::Content(_), Some(_)) = (&bad, stamp) {
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
            .stamp = Some(KeysFileStamp::default());
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
    add_hash(data_dir, name, hash(&key), KeyPlacing::New, Some(rights))?;
    Ok(key)
}

/// Whether a key may replace another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPlacing {
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
    hash: KeyHash,
    placing: KeyPlacing,
    rights: Option<Rights>,
) -> Result<()> {
    let name = check_name(name)?;
    edit(data_dir, |keys| {
        let before = match keys.iter().position(|k| k.name == name) {
            Some(at) if placing == KeyPlacing::Replace => keys.remove(at).rights,
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
pub fn end_rotation(data_dir: &Path, name: &str, used: &KeyHash) -> Result<()> {
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
    let (_, mut keys) = read(&keys_file(data_dir))?;
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
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            DataFileEdit::begin(disk::parent(path), &name)?
                .write(format!("{secret}\n").as_bytes())?;
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

const KEYS_FILE: &str = "keys.toml";

fn keys_file(data_dir: &Path) -> PathBuf {
    data_dir.join(KEYS_FILE)
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
    data_dir::give_to_owner(data_dir, &path)?;
    Ok(held)
}

/// Reads, changes and writes the file under its lock. On an error the file is unchanged.
fn edit(data_dir: &Path, change: impl FnOnce(&mut Vec<Key>) -> Result<()>) -> Result<()> {
    disk::create_dir(data_dir)?;
    let _held = lock(data_dir, LOCK_FILE)?;
    let path = keys_file(data_dir);
    let file = DataFileEdit::begin(data_dir, KEYS_FILE)?;
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
    let written = file
        .write(text(&keys).as_bytes())
        .and_then(|()| data_dir::give_to_owner(data_dir, &path));
    written.and_then(|()| remember(data_dir)).inspect_err(|_| {
        // a change that is reported as failed must not be in force
        let _ = match old {
            Some(old) => DataFileEdit::begin(data_dir, KEYS_FILE)
                .and_then(|file| file.write(old.as_bytes()))
                .and_then(|()| data_dir::give_to_owner(data_dir, &path)),
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
    data_dir::give_to_owner(data_dir, &path)
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

#[cfg(test)]
mod tests;
