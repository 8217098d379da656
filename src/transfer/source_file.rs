//! A local file while it is read: its `stat`, and whether that has changed afterwards.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::COPY_BUFFER_BYTES;
use crate::chunking::{Content, Splitter};
use crate::error::{Error, Kind, Result};
use crate::wire::files::{Chunk, Hash};
use crate::{clock, disk};

/// An open regular file.
pub struct SourceFile {
    pub file: File,
    pub size: u64,
    pub mode: u32,
    /// RFC 3339, nine decimals.
    pub mtime: String,
    shown: String,
    stat: ChangeAttributes,
}

/// The attributes that change when a program writes to a file.
#[derive(PartialEq)]
struct ChangeAttributes {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    inode: (u64, u64),
}

impl ChangeAttributes {
    fn of(meta: &Metadata) -> ChangeAttributes {
        ChangeAttributes {
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
            inode: (meta.dev(), meta.ino()),
        }
    }
}

impl SourceFile {
    /// `follow`: a symbolic link means its target.
    pub fn open(path: &Path, follow: bool) -> Result<SourceFile> {
        let shown = disk::show(path.as_os_str());
        let failed = |e: io::Error| Error {
            kind: Kind::Io,
            ..Error::io(format!("read {shown}"), &e)
        };
        let file = if follow {
            std::fs::canonicalize(path).and_then(|path| disk::open_regular(&path))
        } else {
            disk::open_regular(path)
        };
        SourceFile::of(file.map_err(failed)?, shown)
    }

    /// A regular file that is open already; `shown` is its name in messages.
    pub fn of(file: File, shown: String) -> Result<SourceFile> {
        let meta = file
            .metadata()
            .map_err(|e| Error::io(format!("look at {shown}"), &e))?;
        Ok(SourceFile {
            size: meta.size(),
            mode: meta.mode(),
            mtime: mtime(&meta),
            stat: ChangeAttributes::of(&meta),
            file,
            shown,
        })
    }

    /// Reads the whole file; passes each chunk and its offset as it ends, except the last one.
    pub fn split(
        &self,
        mut ended: impl FnMut(Chunk, u64) -> super::HubResult<()>,
    ) -> super::HubResult<Content> {
        let (mut splitter, mut buffer, mut begin) =
            (Splitter::default(), vec![0; COPY_BUFFER_BYTES], 0);
        loop {
            let n = match self.file.read_at(&mut buffer, splitter.size()) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Err(Error {
                        kind: Kind::Io,
                        ..Error::io(format!("read {}", self.shown), &e)
                    }
                    .into());
                }
            };
            let mut rest = &buffer[..n];
            while !rest.is_empty() {
                if let (_, Some(chunk)) = splitter.take(&mut rest) {
                    ended(chunk, begin)?;
                    begin += chunk.size;
                }
            }
            // a program that keeps appending would keep this loop reading
            if splitter.size() > self.size {
                return Err(self.changed().into());
            }
        }
        let content = splitter.finish();
        self.check(content.size)?;
        Ok(content)
    }

    /// Fails if the file has changed since it was opened.
    pub fn check(&self, read: u64) -> Result<()> {
        let now = self
            .file
            .metadata()
            .map_err(|e| Error::io(format!("look at {}", self.shown), &e))?;
        if read == self.size && ChangeAttributes::of(&now) == self.stat {
            Ok(())
        } else {
            Err(self.changed())
        }
    }

    /// Reads so many bytes from a place on.
    pub(super) fn part(&self, at: u64, size: u64) -> impl Read {
        let file = &self.file;
        PlaceReader { file, at }.take(size)
    }

    /// Fails if the bytes at this offset are not those of the chunk.
    pub fn check_chunk(&self, chunk: Chunk, at: u64) -> Result<()> {
        let (mut reader, mut hash) = (self.part(at, chunk.size), Sha256::new());
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => hash.update(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(format!("read {}", self.shown), &e)),
            }
        }
        if Hash(hash.finalize().into()) == chunk.sha256 {
            Ok(())
        } else {
            Err(self.changed())
        }
    }

    fn changed(&self) -> Error {
        Error::new(
            Kind::Busy,
            format!("cannot upload {}: it changed while it was read", self.shown),
        )
        .hint("repeat it when no program writes to it")
    }
}

/// Reads a file from a place on, and leaves its own place as it is.
pub(super) struct PlaceReader<'a> {
    pub(super) file: &'a File,
    pub(super) at: u64,
}

impl Read for PlaceReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(into, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// The modification time as it is sent.
pub fn mtime(meta: &Metadata) -> String {
    clock::rfc3339_nanos(meta.modified().unwrap_or(std::time::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_checked_against_the_bytes_at_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let check = |chunk: &[u8], at: u64| {
            let local = SourceFile::open(&path, false).unwrap();
            let sha256 = Hash::of(chunk);
            let size = chunk.len() as u64;
            let checked = local.check_chunk(Chunk { sha256, size }, at);
            checked.map_err(|e| e.kind)
        };
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(check(b"345", 3), Ok(()));
        assert_eq!(check(b"345", 4), Err(Kind::Busy));
        assert_eq!(check(b"89x", 8), Err(Kind::Busy));
    }
}
