//! The synced directory on a disk: implements the engine's tree with system calls.
//!
//! It decides nothing. Every name is reached through [`root::Root`], which never leads outside; renames and syncs are those of
//! [`crate::disk`]. A change is durable when the method returns, except for [`Tree::discard`]: a file that reappears after a
//! power loss is removed as left over.

mod clean;
pub mod hash;
mod listings;
mod make;
pub mod marker;
mod metadata;
mod moves;
mod names;
mod opened;
pub mod partial;
pub mod root;
pub mod scan;
pub mod stage;
pub mod sync_set;
mod temporary;

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::{FileType, RawDir};
use uuid::Uuid;

use super::engine::traits::{
    CallResult, Fault, NameCollision, Presence, RenameOutcome, StagedFile, Tree,
};
use super::ignore::{self, Ignore, Origin};
use super::plan::{Entry, LocalEntry, Stamp, is_below, parent};
use crate::config::limits;
use crate::error::{Error, Kind, Result};
use crate::relpath;
pub use listings::NameFolding;
use root::{InodeType, Root, fault};
use scan::ScanItem;

/// See the module documentation.
#[derive(Debug)]
pub struct DiskTree {
    root: Root,
    /// `None`: opened for a dry run, and without a marker.
    id: Option<Uuid>,
    memory: hash::HashCache,
    cleaner: clean::WriteBack,
    /// A write through a mapping never changes a time here, so no stamp is believed.
    blind: bool,
    pub(super) trashed: hash::TrashedHashes,
    opened: Arc<opened::Opened>,
    /// The open directories of temporary names; users may move these directories.
    beside: temporary::TemporaryDirs,
    /// Milliseconds, see [`Root::tick`].
    tick: u64,
    /// The filesystem keeps modes as they are set.
    keeps_modes: bool,
    /// Cleared when the filesystem turns out to lack RENAME_EXCHANGE or RENAME_NOREPLACE.
    exchange: AtomicBool,
    noreplace: AtomicBool,
    rules: RwLock<Ignore>,
    rules_text: Mutex<String>,
    /// How often the rules have changed.
    rules_changed: AtomicU64,
    /// From the settings: patterns, and paths that are never synced, relative to the root.
    given: Vec<String>,
    places: Vec<String>,
    /// Directories with a marker of their own, as last checked.
    nested: RwLock<BTreeSet<String>>,
    _lock: Option<File>,
}

/// Applies if the rules cannot be read and were never known: only the rules file itself is synced,
/// so that it can be corrected from any machine, and no file is sent that it may exclude.
const UNREADABLE: &str = "*";

/// The result of opening a directory.
#[derive(Debug)]
pub enum OpenedTree {
    Ready(Box<DiskTree>),
    /// The directory is held until a user confirms it, with the reason.
    Held(String),
}

impl DiskTree {
    /// Opens a directory to keep it in sync. `known`: its former marker; `None`: there is no state
    /// for it, so it keeps its present marker, or gets `fresh`. Errors: `Settings` if it does not
    /// exist, `Busy` if another process keeps it in sync.
    ///
    /// `ignore`: patterns that follow those of `.mesyncignore`. `private`: paths that are never
    /// synced, wherever they are: mesync's own data and keys.
    pub fn open(
        path: &Path,
        known: Option<Uuid>,
        fresh: Uuid,
        ignore: &[String],
        private: &[PathBuf],
    ) -> Result<OpenedTree> {
        let root = Root::open(path)?;
        let failed = |e: io::Error| Error::io(format!("read the marker of {}", path.display()), &e);
        let id = match known {
            Some(id) => match marker::check(&root, id) {
                Ok(()) => id,
                Err(why) => return Ok(OpenedTree::Held(why)),
            },
            None => marker::read(&root).map_err(failed)?.unwrap_or(fresh),
        };
        let lock = marker::lock(&root)?;
        root.try_names();
        if known.is_none() && marker::read(&root).map_err(failed)?.is_none() {
            marker::create(&root, id)?;
        }
        let tree = DiskTree::with_root(root, Some(id), Some(lock), ignore, private);
        if let Err(e) = tree.close_left_open() {
            log::warn!(
                "cannot close directories that were opened for a change: {e} dir={}",
                path.display()
            );
        }
        Ok(OpenedTree::Ready(Box::new(tree)))
    }

    /// Opens a directory for a dry run that leaves no trace: no lock, no marker. `known` as for
    /// [`DiskTree::open`].
    pub fn open_to_look(
        path: &Path,
        known: Option<Uuid>,
        ignore: &[String],
        private: &[PathBuf],
    ) -> Result<OpenedTree> {
        let root = Root::open(path)?;
        root.observe_names();
        match known.map_or(Ok(()), |id| marker::check(&root, id)) {
            Ok(()) => Ok(OpenedTree::Ready(Box::new(DiskTree::with_root(
                root, known, None, ignore, private,
            )))),
            Err(why) => Ok(OpenedTree::Held(why)),
        }
    }

    fn with_root(
        root: Root,
        id: Option<Uuid>,
        lock: Option<File>,
        ignore: &[String],
        private: &[PathBuf],
    ) -> DiskTree {
        let tree = DiskTree {
            id,
            memory: hash::HashCache::default(),
            cleaner: clean::WriteBack::default(),
            blind: root.is_blind(),
            trashed: hash::TrashedHashes::default(),
            opened: Arc::default(),
            beside: temporary::TemporaryDirs::default(),
            tick: root.tick(),
            keeps_modes: lock.as_ref().is_none_or(marker::keeps_modes),
            exchange: AtomicBool::new(true),
            noreplace: AtomicBool::new(true),
            rules: RwLock::default(),
            rules_text: Mutex::default(),
            rules_changed: AtomicU64::new(0),
            given: ignore.to_vec(),
            places: private
                .iter()
                .filter_map(|place| below(root.path(), place))
                .collect(),
            nested: RwLock::default(),
            root,
            _lock: lock,
        };
        if tree.read_rules().is_err() {
            tree.use_rules(UNREADABLE);
        }
        tree
    }

    /// Reads `.mesyncignore` again; returns whether the rules changed. After an error the old rules
    /// remain.
    pub fn read_rules(&self) -> io::Result<bool> {
        let mut bytes = Vec::new();
        match self.read(ignore::FILE, None) {
            Ok(Some(file)) => drop(
                file.take(limits::IGNORE_BYTES as u64 + 1)
                    .read_to_end(&mut bytes)?,
            ),
            Ok(None) => match self.stamp(ignore::FILE) {
                Ok(None) => {}
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "it is not a regular file",
                    ));
                }
            },
            Err(e) if root::is(&e, &[rustix::io::Errno::NOENT]) => {}
            Err(e) => return Err(e),
        }
        if bytes.len() > limits::IGNORE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("more than {} bytes", limits::IGNORE_BYTES),
            ));
        }
        Ok(self.use_rules(&String::from_utf8_lossy(&bytes)))
    }

    /// The text of the current rules, without those of the settings.
    pub fn rules_text(&self) -> String {
        self.rules_text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Uses this text as that of `.mesyncignore`; returns whether the rules changed.
    pub fn use_rules(&self, text: &str) -> bool {
        let mut rules = Ignore::default();
        rules.add(text, Origin::File);
        // the settings have the last word, because that file is synced and other machines and the
        // hub can write it
        self.given
            .iter()
            .for_each(|pattern| rules.add(pattern, Origin::Settings));
        *self
            .rules_text
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = text.to_string();
        let mut known = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *known != rules;
        *known = rules;
        self.rules_changed.fetch_add(u64::from(changed), Relaxed);
        changed
    }

    pub fn rules_changed(&self) -> u64 {
        self.rules_changed.load(Relaxed)
    }

    /// Whether the rules exclude a name; the caller knows whether it is a directory.
    pub fn ignores(&self, path: &str, is_dir: bool) -> bool {
        let private = |place: &String| path == place || is_below(path, place);
        self.places.iter().any(private)
            || self.is_nested(path)
            || self
                .rules
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .ignores(path, is_dir)
    }

    /// Whether the path is in or at another synced directory.
    fn is_nested(&self, path: &str) -> bool {
        let nested = self.nested.read().unwrap_or_else(PoisonError::into_inner);
        !nested.is_empty()
            && std::iter::successors(Some(path), |p| parent(p)).any(|p| nested.contains(p))
    }

    /// Looks for a marker in a subdirectory; a directory with one is excluded until the marker is
    /// gone.
    pub fn find_nested(&self, dir: &str) -> bool {
        let own = format!("{dir}/{}", relpath::OWN_DIR);
        let found = matches!(self.shown(&own), Ok(Ok(shown)) if shown.what == InodeType::Dir);
        if found
            == self
                .nested
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(dir)
        {
            return found;
        }
        let mut nested = self.nested.write().unwrap_or_else(PoisonError::into_inner);
        if !found {
            nested.remove(dir);
        } else if nested.len() < limits::NESTED_DIRECTORIES {
            nested.insert(dir.to_string());
        }
        found
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The id that distinguishes this directory from others.
    pub fn id(&self) -> Option<Uuid> {
        self.id
    }

    /// Checks that this is still the same directory: called before and after each conclusion from
    /// the absence of a file.
    pub fn check(&self) -> CallResult<()> {
        let checked = match self.id {
            Some(id) => marker::check(&self.root, id),
            None if self.root.is_in_place() => Ok(()),
            None => Err("it was replaced, removed or unmounted".into()),
        };
        checked.map_err(|why| Fault::Fatal(marker::held(self.root.path(), &why)))
    }

    /// Passes every name in a directory with its type to `visit`, in the order of the directory,
    /// until it returns `false`.
    pub(super) fn entries(
        &self,
        dir: &str,
        visit: &mut dyn FnMut(&CStr, FileType) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut stopped = None;
        list(
            &self.root.readable(dir)?,
            &mut |name, kind| match visit(name, kind) {
                Ok(go_on) => go_on,
                Err(e) => {
                    stopped = Some(e);
                    false
                }
            },
        )?;
        stopped.map_or(Ok(()), Err)
    }
}

impl Drop for DiskTree {
    fn drop(&mut self) {
        self.close_directories();
    }
}

/// The path of a place within the root, relative to it; links on the way to either are followed.
fn below(root: &Path, place: &Path) -> Option<String> {
    // a path that does not exist yet is resolved through its parent
    let real = |path: &Path| match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), ..) => Some(real),
        (Err(_), Some(parent), Some(name)) => {
            parent.canonicalize().ok().map(|real| real.join(name))
        }
        _ => None,
    };
    real(place)?
        .strip_prefix(root.canonicalize().ok()?)
        .ok()?
        .to_str()
        .map(String::from)
}

/// Every name in an open directory except "." and "..".
fn list(dir: &OwnedFd, visit: &mut dyn FnMut(&CStr, FileType) -> bool) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(dir.as_fd(), &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name())
            && !visit(entry.file_name(), entry.file_type())
        {
            break;
        }
    }
    Ok(())
}

impl Tree for DiskTree {
    fn examine(&self, path: &str, known: Option<(&Stamp, &Entry)>) -> CallResult<Presence> {
        self.examine_entry(path, known)
    }

    fn stamp(&self, path: &str) -> CallResult<Option<Stamp>> {
        Ok(match self.shown(path)? {
            Ok(shown) if shown.what != InodeType::Special => Some(shown.stamp),
            Ok(_) => Some(Stamp {
                inode: 0,
                size: 0,
                mtime: 0,
                ctime: 0,
                mode: 0,
            }),
            Err(Presence::Absent) => self.moved_away(path)?,
            Err(_) => {
                return Err(Fault::Later(Error::new(
                    Kind::Busy,
                    format!("cannot look at {path}"),
                )));
            }
        })
    }

    fn is_empty(&self, dir: &str) -> CallResult<bool> {
        self.is_bare(dir).map_err(|e| fault("list", dir, &e))
    }

    fn below(&self, dir: &str, visit: &mut dyn FnMut(&str) -> CallResult<bool>) -> CallResult<()> {
        scan::scan(self, dir, scan::Depth::All, &mut |found| match found {
            ScanItem::Name { path, .. } => visit(path),
            _ => Ok(true),
        })
        .map(|_| ())
    }

    fn place(
        &self,
        path: &str,
        staged: &StagedFile,
        over: Option<&LocalEntry>,
    ) -> CallResult<RenameOutcome> {
        self.together(&[(path, staged, over)], |(path, staged, over), synced| {
            self.put(path, staged, *over, synced)
        })
        .remove(0)
    }

    fn place_all(
        &self,
        all: &[(&str, &StagedFile, Option<&LocalEntry>)],
    ) -> Vec<CallResult<RenameOutcome>> {
        self.together(all, |(path, staged, over), synced| {
            self.put(path, staged, *over, synced)
        })
    }

    fn shift(&self, from: &str, to: &str, expected: Option<&Stamp>) -> CallResult<RenameOutcome> {
        self.rename_all(&[(from, to, expected)]).remove(0)
    }

    fn shift_all(&self, all: &[(&str, &str, &Stamp)]) -> Vec<CallResult<RenameOutcome>> {
        let all = all.iter().map(|(from, to, e)| (*from, *to, Some(*e)));
        self.rename_all(&all.collect::<Vec<_>>())
    }

    fn holds(&self, path: &str, what: &LocalEntry) -> CallResult<bool> {
        self.still_holds(path, what)
    }

    fn keeps_modes(&self) -> bool {
        self.keeps_modes
    }

    fn name_collision(&self, path: &str) -> CallResult<Option<NameCollision>> {
        self.twin_of(path)
    }

    fn respell(&self, there: &str, wanted: &str) -> CallResult<RenameOutcome> {
        self.spell(there, wanted)
    }

    fn set_metadata(
        &self,
        path: &str,
        expected: &Stamp,
        mode: u32,
        mtime: Option<i64>,
    ) -> CallResult<Option<Stamp>> {
        self.together(&[path], |path, synced| {
            self.change_metadata(path, expected, mode, mtime, synced)
        })
        .remove(0)
    }

    fn set_metadata_all(&self, all: &[(&str, &Stamp, u32, i64)]) -> Vec<CallResult<Option<Stamp>>> {
        self.together(all, |(path, expected, mode, mtime), synced| {
            self.change_metadata(path, expected, *mode, Some(*mtime), synced)
        })
    }

    fn sync(&self, path: &str) -> CallResult<()> {
        self.sync_name(path)
    }

    fn discard(&self, temp: &str) -> CallResult<()> {
        self.throw_away(temp)
    }

    fn remove_dir(&self, path: &str) -> CallResult<bool> {
        self.rmdir(path)
    }

    /// A pattern for directories applies to a path that is a directory here; a missing path counts
    /// as a file.
    fn ignored(&self, path: &str) -> bool {
        let (as_file, as_dir) = (self.ignores(path, false), self.ignores(path, true));
        if as_file == as_dir {
            return as_file;
        }
        let is_dir = matches!(self.shown(path), Ok(Ok(shown)) if shown.what == InodeType::Dir);
        if is_dir { as_dir } else { as_file }
    }
}

#[cfg(test)]
mod tests;
