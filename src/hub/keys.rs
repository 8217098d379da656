//! The hub's keys: `keys.toml`, which commands edit while the hub runs, and the hub's own secrets beside it.
//!
//! It keeps and finds keys; what a key is good for is decided in `auth`. Of a key only its hash is stored, and a plain
//! SHA-256 is enough: keys are 32 random bytes, which nobody guesses, and a slow hash would cost a router a second.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use uuid::Uuid;

use crate::config::limits;
use crate::error::{Error, Kind, Result};
use crate::{clock, disk, wire};

/// SHA-256 of a key.
pub type Hash = [u8; 32];

/// A host's key, as far as the hub knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The host that it stands for, in lower case.
    pub name: String,
    pub hash: Hash,
    pub created: Option<SystemTime>,
}

/// `keys.toml` as text.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "key")]
    keys: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    sha256: String,
    #[serde(default)]
    created: String,
}

const HEADING: &str = "# Keys of this hub: \"mesync key add NAME\" makes one. Only their hashes are here.\n";

pub fn hash(key: &str) -> Hash {
    Sha256::digest(key.as_bytes()).into()
}

/// 32 random bytes as 64 hexadecimal digits: nothing in it needs quoting, in a shell or elsewhere.
pub fn random() -> String {
    // each UUID brings 122 random bits of the system's generator; the hash spreads them
    hex(&Sha256::new().chain_update(Uuid::new_v4()).chain_update(Uuid::new_v4()).chain_update(Uuid::new_v4()).finalize())
}

/// The key with this hash. Takes the same time whether and where it is found.
pub fn find<'a>(keys: &'a [Key], wanted: &Hash) -> Option<&'a Key> {
    let mut found = u32::MAX;
    for (i, key) in keys.iter().enumerate() {
        let same: Choice = key.hash.ct_eq(wanted);
        found.conditional_assign(&(i as u32), same);
    }
    keys.get(found as usize)
}

/// The keys in force: the file is looked at on every use, so a command in another process takes effect at once.
pub struct Keys {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    /// Of the file that was read last, whether or not it was any good: a bad one is complained about once.
    stamp: Option<Stamp>,
    keys: Arc<[Key]>,
}

/// What changes when a file does.
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
    /// Reads the keys for the first time: here a bad file is an error, since there are no older keys to keep.
    pub fn open(data_dir: &Path) -> Result<Keys> {
        let path = file(data_dir);
        let (stamp, keys) = read(&path)?;
        Ok(Keys { path, loaded: Mutex::new(Loaded { stamp, keys: keys.into() }) })
    }

    /// The keys in force at this moment: the same `Arc` as long as they are the same keys.
    pub fn current(&self) -> Arc<[Key]> {
        let stamp = std::fs::metadata(&self.path).ok().map(|meta| Stamp::of(&meta));
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.stamp != stamp {
            match read(&self.path) {
                Ok((stamp, keys)) => {
                    log::info!("keys read again: {}", count(keys.len()));
                    loaded.stamp = stamp;
                    if *loaded.keys != *keys {
                        loaded.keys = keys.into();
                    }
                }
                Err(e) => {
                    log::error!("the keys stay as they were: {e}");
                    loaded.stamp = stamp;
                }
            }
        }
        Arc::clone(&loaded.keys)
    }

    /// Looks at the file again even if it seems unchanged.
    pub fn reload(&self) -> Arc<[Key]> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).stamp =
            Some(Stamp { inode: 0, size: 0, modified: (0, 0), changed: (0, 0) });
        self.current()
    }
}

/// `1 key`, `2 keys`.
pub fn count(n: usize) -> String {
    format!("{n} key{}", if n == 1 { "" } else { "s" })
}

/// Makes a key for a host and returns it: the only time that it is seen. A hub that runs accepts it from now on.
pub fn add_key(data_dir: &Path, name: &str) -> Result<String> {
    let name = check_name(name)?;
    let key = random();
    edit(data_dir, |keys| {
        if keys.iter().any(|k| k.name == name) {
            let what = format!("cannot add a key for {name}: it has one");
            return Err(
                Error::new(Kind::Failed, what).hint(format!("\"mesync key remove {name}\" first, if the machine is to get a new one"))
            );
        }
        if keys.len() >= limits::KEYS {
            let what = format!("cannot add a key for {name}: there are {} already", limits::KEYS);
            return Err(Error::new(Kind::Failed, what).hint("\"mesync key list\", and remove those that are no longer used"));
        }
        keys.push(Key { name: name.clone(), hash: hash(&key), created: Some(clock::now()) });
        Ok(())
    })?;
    Ok(key)
}

/// The keys by name.
pub fn list_keys(data_dir: &Path) -> Result<Vec<Key>> {
    let (_, mut keys) = read(&file(data_dir))?;
    keys.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(keys)
}

/// Ends a host's key and every token that was given for it.
pub fn remove_key(data_dir: &Path, name: &str) -> Result<()> {
    let name = check_name(name)?;
    edit(data_dir, |keys| match keys.iter().position(|k| k.name == name) {
        Some(i) => {
            keys.remove(i);
            Ok(())
        }
        None => {
            Err(Error::new(Kind::Failed, format!("cannot remove the key of {name}: it has none")).hint("\"mesync key list\" shows all"))
        }
    })
}

/// A secret of the hub's own in a file of its own, made if it is not there.
pub fn own_secret(path: &Path) -> Result<String> {
    match disk::read_secret(path) {
        Err(_) if !path.exists() => {
            let secret = random();
            disk::write_durably(path, format!("{secret}\n").as_bytes(), 0o600)?;
            Ok(secret)
        }
        other => other,
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("keys.toml")
}

fn check_name(name: &str) -> Result<String> {
    wire::check_host(name).map_err(|e| Error::new(Kind::Usage, format!("cannot use that name for a key: {e}")))
}

/// Reads, changes and writes the file while no other command does.
fn edit(data_dir: &Path, change: impl FnOnce(&mut Vec<Key>) -> Result<()>) -> Result<()> {
    disk::create_dir(data_dir)?;
    let path = data_dir.join("keys.lock");
    // an edit takes milliseconds: it is worth waiting for another one, and the lock ends with its process
    let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let _held = lock.and_then(|f| f.lock().map(|()| f)).map_err(|e| Error::io(format!("lock {}", path.display()), &e))?;
    give_to_owner(data_dir, &path)?;
    let path = file(data_dir);
    let (_, mut keys) = read(&path)?;
    change(&mut keys)?;
    disk::write_durably(&path, text(&keys).as_bytes(), 0o600)?;
    give_to_owner(data_dir, &path)
}

/// What root writes into a hub's directory must stay readable for the user that the hub runs as.
fn give_to_owner(data_dir: &Path, path: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::io(format!("give {} to the hub's user", path.display()), &e);
    let (dir, meta) = (std::fs::metadata(data_dir).map_err(failed)?, std::fs::metadata(path).map_err(failed)?);
    if dir.uid() == meta.uid() || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(dir.uid()), Some(dir.gid())).and_then(|()| disk::sync_file(path)).map_err(failed)
}

fn text(keys: &[Key]) -> String {
    let row =
        |key: &Key| Row { name: key.name.clone(), sha256: hex(&key.hash), created: key.created.map(clock::rfc3339).unwrap_or_default() };
    let document = Document { keys: keys.iter().map(row).collect() };
    // names are checked, the rest is ours: there is nothing in it that TOML cannot say
    format!("{HEADING}\n{}", toml::to_string(&document).unwrap_or_default())
}

/// The keys, and the stamp of the file that they came from. No file: no keys.
fn read(path: &Path) -> Result<(Option<Stamp>, Vec<Key>)> {
    let cannot = |why: &str| Error::new(Kind::Settings, format!("cannot read the keys in {}: {why}", path.display()));
    let failed = |why: String| cannot(&why).hint("repair the file, or remove it and make new keys with \"mesync key add NAME\"");
    let io = |e: io::Error| cannot(&crate::error::plain(&e)).hint("it belongs to the user that the hub runs as");
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((None, Vec::new())),
        Err(e) => return Err(io(e)),
    };
    // before the content: what is written in between shows as a change at the next look
    let meta = file.metadata().map_err(io)?;
    if meta.mode() & 0o022 != 0 {
        return Err(cannot(&format!("others can write it (mode {:o})", meta.mode() & 0o7777)).hint(format!("chmod 600 {}", path.display())));
    }
    let mut bytes = Vec::new();
    // a row has about 170 bytes
    file.take(limits::KEYS as u64 * 512).read_to_end(&mut bytes).map_err(io)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("it is not UTF-8".into()))?;
    parse(text).map(|keys| (Some(Stamp::of(&meta)), keys)).map_err(failed)
}

fn parse(text: &str) -> std::result::Result<Vec<Key>, String> {
    let document: Document = toml::from_str(text).map_err(|e| {
        let line = text[..e.span().map_or(0, |s| s.start).min(text.len())].matches('\n').count() + 1;
        format!("line {line}: {}", e.message())
    })?;
    if document.keys.len() > limits::KEYS {
        return Err(format!("it has {} keys; at most {} are allowed", document.keys.len(), limits::KEYS));
    }
    let mut keys: Vec<Key> = Vec::with_capacity(document.keys.len());
    for row in document.keys {
        let name = wire::check_host(&row.name)?;
        let hash = unhex(&row.sha256).ok_or_else(|| format!("sha256 of {name} must be 64 hexadecimal digits"))?;
        if keys.iter().any(|k| k.name == name || k.hash == hash) {
            return Err(format!("the key of {name} is there twice"));
        }
        keys.push(Key { name, hash, created: clock::parse_rfc3339(&row.created) });
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
        let name = |key: &str| find(&keys.current(), &hash(key)).map(|k| k.name.clone());
        assert_eq!((name(&first).as_deref(), name(&second).as_deref(), name("other")), (Some("web-1"), Some("web-2"), None));
        assert!(add_key(&data, "web-1").unwrap_err().to_string().contains("key remove web-1"));
        assert!(add_key(&data, "../x").unwrap_err().to_string().contains("a host name is"));
        remove_key(&data, "web-1").unwrap();
        assert_eq!((name(&first), name(&second).as_deref()), (None, Some("web-2")));
        assert!(Arc::ptr_eq(&keys.current(), &keys.reload()));
        assert!(remove_key(&data, "web-1").unwrap_err().to_string().contains("it has none"));
        assert_eq!(list_keys(&data).unwrap().iter().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["web-2"]);
        let meta = std::fs::metadata(file(&data)).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o600);
        assert!(!std::fs::read_to_string(file(&data)).unwrap().contains(&second));
    }

    #[test]
    fn a_bad_file_keeps_the_old_keys_and_a_good_one_replaces_them() {
        let dir = tempfile::tempdir().unwrap();
        let key = add_key(dir.path(), "web-1").unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let known = || find(&keys.current(), &hash(&key)).is_some();
        let good = std::fs::read(file(dir.path())).unwrap();
        for bad in ["[[key]\n", "[[key]]\nname = 'x'\nsha256 = 'y'\n", "\u{fffd}"] {
            std::fs::write(file(dir.path()), bad).unwrap();
            assert!(known(), "{bad}");
            assert!(Keys::open(dir.path()).is_err() && add_key(dir.path(), "web-9").is_err(), "{bad}");
        }
        std::fs::write(file(dir.path()), &good).unwrap();
        assert!(known());
        std::fs::remove_file(file(dir.path())).unwrap();
        assert!(!known());
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
        check(&(row("a", &"0".repeat(64)) + &row("A", &"1".repeat(64))), "the key of a is there twice");
        check(&(0..=limits::KEYS).map(|i| row(&format!("h{i}"), &format!("{i:064}"))).collect::<String>(), "at most 1000");
    }
}
