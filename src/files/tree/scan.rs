//! Walks through the tree and reports every name, and everything that could not be read.
//!
//! It reads no contents and compares nothing. It keeps only the names of directories that it has
//! yet to enter, and a limited number of those of one directory, so its memory does not grow with the
//! number of files.

use std::ffi::CStr;
use std::io;
use std::ops::Range;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::DiskTree;
use super::root::{self, InodeType, fault};
use crate::error::{Error, Kind, plain};
use crate::files::engine::traits::CallResult;
use crate::relpath;

/// Names of a directory that are visited in their order, at most: they are in memory until then, and
/// only a few of them are neighbours if a directory has many more. The rows of neighbours share pages
/// of the databases, here and on the hub, so fewer pages are written.
const MAX_SORTED_NAMES: usize = 65_536;

/// One result of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanItem<'a> {
    /// A file, link or directory that may be synced. A directory is reported before its content.
    Name { path: &'a str, is_dir: bool },
    /// A temporary name of this program, perhaps left by a crash.
    Temporary(&'a str),
    /// The content of this directory is unknown, but not gone.
    Unknown { path: &'a str, why: &'a str },
}

/// Entries that a scan could not report by name: their number, with one example for each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkippedEntries {
    pub special: Example,
    /// Names that are not UTF-8, or too long.
    pub names: Example,
    /// Directories that could not be read.
    pub unknown: Example,
    /// The worst failure to read one of them.
    pub failure: Option<Kind>,
}

/// A number, and the first example, ready for a log line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Example {
    pub count: u64,
    pub first: Option<String>,
}

impl Example {
    fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        self.first.get_or_insert_with(what);
    }
}

/// How deep a scan descends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The names in the directory.
    Entries,
    All,
}

/// Reports everything below a directory ("" for the root) until `visit` returns `false`. Names that
/// are never synced, and the content of ignored directories, are left out. Checks at the beginning
/// and at the end that this is still the same directory.
pub fn scan(
    tree: &DiskTree,
    dir: &str,
    depth: Depth,
    visit: &mut dyn FnMut(ScanItem<'_>) -> CallResult<bool>,
) -> CallResult<SkippedEntries> {
    tree.check()?;
    let mut walk = ScanWalk {
        tree,
        visit,
        depth,
        skipped: SkippedEntries::default(),
        going: true,
    };
    walk.run(dir)?;
    tree.check()?;
    Ok(walk.skipped)
}

struct ScanWalk<'a> {
    tree: &'a DiskTree,
    visit: &'a mut dyn FnMut(ScanItem<'_>) -> CallResult<bool>,
    depth: Depth,
    skipped: SkippedEntries,
    going: bool,
}

impl ScanWalk<'_> {
    fn run(&mut self, from: &str) -> CallResult<()> {
        let mut todo = Vec::new();
        if from.is_empty() || !self.is_nested(from) {
            todo.push(from.to_string());
        }
        while let (true, Some(dir)) = (self.going, todo.pop()) {
            match self.scan_directory(&dir, &mut todo) {
                Err(e) => return Err(e),
                Ok(Ok(())) => {}
                // removed meanwhile, or never a directory
                Ok(Err(e)) if root::absent(&e) => {}
                Ok(Err(e))
                    if root::is(
                        &e,
                        &[
                            Errno::ACCESS,
                            Errno::PERM,
                            Errno::XDEV,
                            Errno::IO,
                            Errno::NAMETOOLONG,
                        ],
                    ) =>
                {
                    let why = if root::is(&e, &[Errno::XDEV]) {
                        root::MOUNTED.into()
                    } else {
                        plain(&e)
                    };
                    let kind = Error::io("list", &e).kind;
                    self.skipped.failure =
                        Kind::worst(self.skipped.failure.into_iter().chain([kind]));
                    self.skipped
                        .unknown
                        .add(|| format!("{}: {why}", show(&dir)));
                    self.going = (self.visit)(ScanItem::Unknown {
                        path: &dir,
                        why: &why,
                    })?;
                }
                Ok(Err(e)) => return Err(fault("list", &dir, &e)),
            }
        }
        Ok(())
    }

    /// Scans one directory. Its subdirectories are entered later, by name: no descriptor is kept
    /// open meanwhile.
    fn scan_directory(&mut self, dir: &str, todo: &mut Vec<String>) -> CallResult<io::Result<()>> {
        let (mut names, mut failed, others) = (EntryNames::default(), None, todo.len());
        let tree = self.tree;
        let listed = tree.entries(dir, &mut |name, kind| {
            names.push(name, kind);
            if names.found.len() < MAX_SORTED_NAMES {
                return Ok(true);
            }
            match self.visit_sorted(dir, std::mem::take(&mut names), todo) {
                Ok(visited) => visited.map(|()| self.going),
                Err(e) => {
                    failed = Some(e);
                    Ok(false)
                }
            }
        });
        if let Some(e) = failed {
            return Err(e);
        }
        let visited = self.visit_sorted(dir, names, todo)?;
        // the last one is the next
        todo[others..].sort_unstable_by(|a, b| b.cmp(a));
        Ok(listed.and(visited))
    }

    fn visit_sorted(
        &mut self,
        dir: &str,
        mut names: EntryNames,
        todo: &mut Vec<String>,
    ) -> CallResult<io::Result<()>> {
        let mut path = String::new();
        for (name, kind) in names.sorted() {
            if !self.going {
                break;
            }
            path.clear();
            if !dir.is_empty() {
                path.push_str(dir);
                path.push('/');
            }
            match std::str::from_utf8(name) {
                Ok(name) => path.push_str(name),
                Err(_) => {
                    let name = String::from_utf8_lossy(name);
                    self.skipped
                        .names
                        .add(|| format!("{path}{}", name.escape_debug()));
                    continue;
                }
            }
            let kind = match kind {
                FileType::Unknown => match kind_of(self.tree, &path) {
                    Ok(kind) => kind,
                    Err(e) => return Ok(Err(e)),
                },
                known => known,
            };
            self.going = self.entry(&path, kind, todo)?;
        }
        Ok(Ok(()))
    }

    fn entry(&mut self, path: &str, kind: FileType, todo: &mut Vec<String>) -> CallResult<bool> {
        let name = root::split(path).1;
        let is_dir = kind == FileType::Directory;
        if relpath::is_own(name) {
            return if relpath::is_temporary(name) {
                (self.visit)(ScanItem::Temporary(path))
            } else {
                Ok(true)
            };
        }
        if relpath::check(path).is_err() {
            self.skipped.names.add(|| show(path));
            return Ok(true);
        }
        if !is_dir && !matches!(kind, FileType::RegularFile | FileType::Symlink) {
            self.skipped.special.add(|| show(path));
            return Ok(true);
        }
        if is_dir
            && !self.is_nested(path)
            && self.depth == Depth::All
            && !self.tree.ignores(path, true)
        {
            todo.push(path.to_string());
        }
        (self.visit)(ScanItem::Name { path, is_dir })
    }

    /// Whether another synced directory is here, which is left out and named.
    fn is_nested(&mut self, path: &str) -> bool {
        let is_nested = self.tree.find_nested(path);
        if is_nested {
            let why = format!(
                "it is synced separately; if it is a copy, remove {} in it",
                relpath::OWN_DIR
            );
            self.skipped
                .unknown
                .add(|| format!("{}: {why}", show(path)));
        }
        is_nested
    }
}

/// Names of a directory, one after the other.
#[derive(Default)]
struct EntryNames {
    bytes: Vec<u8>,
    /// Where each begins and ends.
    found: Vec<(Range<usize>, FileType)>,
}

impl EntryNames {
    fn push(&mut self, name: &CStr, kind: FileType) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(name.to_bytes());
        self.found.push((begin..self.bytes.len(), kind));
    }

    fn sorted(&mut self) -> impl Iterator<Item = (&[u8], FileType)> {
        let EntryNames { bytes, found } = self;
        let name = |at: &Range<usize>| &bytes[at.clone()];
        found.sort_unstable_by(|(a, _), (b, _)| name(a).cmp(name(b)));
        found.iter().map(move |(at, kind)| (name(at), *kind))
    }
}

/// The type of a name; one that was removed meanwhile has a type that is not synced.
fn kind_of(tree: &DiskTree, path: &str) -> io::Result<FileType> {
    let (dir, name) = root::split(path);
    Ok(
        match root::show(tree.root().through(dir)?, name)?.map(|s| s.what) {
            Some(InodeType::File) => FileType::RegularFile,
            Some(InodeType::Dir) => FileType::Directory,
            Some(InodeType::Link) => FileType::Symlink,
            _ => FileType::Fifo,
        },
    )
}

fn show(path: &str) -> String {
    crate::disk::show(path.as_ref())
}
