//! Walks a directory: regular files, symbolic links as themselves, and directories that are empty
//! or have their own mode.
//!
//! Links are never followed. Entries that cannot be sent are reported, not silently skipped. It
//! reads names, not content.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::relpath;
use crate::wire::files::{self, DIR_MODE, DIR_READABLE, Name};

/// An entry that can be sent.
#[derive(Debug, Clone)]
pub struct WalkEntry {
    pub local: PathBuf,
    pub name: Name,
    pub kind: files::EntryKind,
    /// Follow a link: the user has named this very file.
    pub follow: bool,
}

/// A result of the walk.
#[derive(Debug)]
pub enum WalkItem {
    Entry(WalkEntry),
    /// A socket, FIFO or device, which is never sent.
    Special(PathBuf),
    /// An entry whose name cannot be sent, and why.
    Unfit(PathBuf, String),
}

/// Walks a directory in the order of names, depth first.
pub struct Walk {
    /// Entries to visit, the next one last: local path, remote name.
    stack: Vec<(PathBuf, String)>,
    /// The content of the root is requested, not the root itself.
    root: bool,
    /// The server keeps modes of directories.
    modes: bool,
}

impl Walk {
    /// `remote`: the directory's name on the hub, "" for the root.
    pub fn new(dir: &Path, remote: &str) -> Walk {
        Walk {
            stack: vec![(dir.to_path_buf(), remote.to_string())],
            root: true,
            modes: false,
        }
    }

    /// Also reports directories with their own mode, before their content.
    pub fn with_modes(self, modes: bool) -> Walk {
        Walk { modes, ..self }
    }

    fn look_at(&mut self, path: PathBuf, remote: String, root: bool) -> Result<Option<WalkItem>> {
        let doing = || format!("read {}", disk::show(path.as_os_str()));
        let meta = match if root {
            std::fs::metadata(&path)
        } else {
            std::fs::symlink_metadata(&path)
        } {
            Ok(meta) => meta,
            // removed since its directory was read
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !root => return Ok(None),
            Err(e) => {
                return Err(Error {
                    kind: Kind::Io,
                    ..Error::io(doing(), &e)
                });
            }
        };
        if meta.is_dir() {
            let empty = self.descend(&path, &remote)?;
            let mode = meta.mode() & 0o777;
            let has_mode = self.modes && mode != DIR_MODE && mode & DIR_READABLE == DIR_READABLE;
            if !empty && !has_mode || remote.is_empty() {
                return Ok(None);
            }
        }
        let Some(kind) = kind(&meta) else {
            return Ok(Some(WalkItem::Special(path)));
        };
        Ok(Some(match Name::parse(&remote) {
            Ok(name) => WalkItem::Entry(WalkEntry {
                local: path,
                name,
                kind,
                follow: false,
            }),
            Err(why) => WalkItem::Unfit(path, why),
        }))
    }

    /// Pushes the entries of a directory on the stack; `true`: there are none.
    fn descend(&mut self, dir: &Path, remote: &str) -> Result<bool> {
        let failed = |e: std::io::Error| Error {
            kind: Kind::Io,
            ..Error::io(format!("read {}", disk::show(dir.as_os_str())), &e)
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
        }
        names.retain(|name| name.to_str().is_none_or(|name| !relpath::is_own(name)));
        names.sort_unstable_by(|a, b| b.as_bytes().cmp(a.as_bytes()));
        let between = if remote.is_empty() { "" } else { "/" };
        let empty = names.is_empty();
        self.stack.extend(names.into_iter().map(|name| {
            let shown = name.to_str().unwrap_or(NOT_UTF8);
            (dir.join(&name), format!("{remote}{between}{shown}"))
        }));
        Ok(empty)
    }
}

/// Represents a name that cannot be sent; every check of names refuses the empty component.
const NOT_UTF8: &str = "/";

impl Iterator for Walk {
    type Item = Result<WalkItem>;

    fn next(&mut self) -> Option<Result<WalkItem>> {
        loop {
            let (path, remote) = self.stack.pop()?;
            if remote.ends_with(NOT_UTF8) {
                return Some(Ok(WalkItem::Unfit(path, "its name is not UTF-8".into())));
            }
            let root = std::mem::take(&mut self.root);
            if let Some(found) = self.look_at(path, remote, root).transpose() {
                return Some(found);
            }
        }
    }
}

fn kind(meta: &Metadata) -> Option<files::EntryKind> {
    match meta.file_type() {
        t if t.is_file() => Some(files::EntryKind::File),
        t if t.is_symlink() => Some(files::EntryKind::Symlink),
        t if t.is_dir() => Some(files::EntryKind::Dir),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn a_tree_is_walked_in_order_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["b/empty", "b/full", ".mesync"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        for name in [
            "b/full/x",
            "a",
            ".hidden",
            ".mesync/id",
            ".mesync-0123456789abcdef.tmp",
        ] {
            std::fs::write(at(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc", at("link")).unwrap();
        std::fs::write(
            dir.path()
                .join(std::ffi::OsString::from_vec(b"z\xff".to_vec())),
            "",
        )
        .unwrap();
        drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
        let found: Vec<String> = Walk::new(dir.path(), "to")
            .map(|found| match found.unwrap() {
                WalkItem::Entry(e) => format!("{:?} {}", e.kind, e.name.full()),
                WalkItem::Special(path) => {
                    format!("special {}", path.file_name().unwrap().display())
                }
                WalkItem::Unfit(_, why) => why,
            })
            .collect();
        assert_eq!(
            found,
            [
                "File to/.hidden",
                "File to/a",
                "Dir to/b/empty",
                "File to/b/full/x",
                "Symlink to/link",
                "special socket",
                "its name is not UTF-8"
            ]
        );
        assert_eq!(Walk::new(&at("b/empty"), "").count(), 0);
        assert!(Walk::new(&at("none"), "").next().unwrap().is_err());
    }
}
