//! The directory of chunks as a cache of the objects of a bucket: what it lacks is fetched.
//!
//! It does not know where the objects are, and decides nothing about them.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::chunk_source::ChunkSource;
use super::chunks::ChunkDir;
use crate::hub::store::chunk_name::ChunkName;
use crate::hub::store::staged::StagedChunk;
use crate::wire::files::Hash;
use crate::{clock, disk};

impl ChunkDir {
    /// From now on the directory is a cache: what it lacks is fetched from there.
    pub fn set_source(&self, source: Arc<dyn ChunkSource>) {
        let _ = self.source.set(source);
    }

    pub fn source(&self) -> Option<&Arc<dyn ChunkSource>> {
        self.source.get()
    }

    /// Fetches a chunk, verifies it and keeps it. Not synced: what a crash damages is fetched again.
    pub fn fetch(&self, source: &dyn ChunkSource, name: &ChunkName) -> io::Result<()> {
        let bytes = source.fetch(name)?;
        if Hash::of(&bytes) != name.hash {
            let what = format!("the object {name} has other bytes than its name says");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let (mut file, staged) = self.create()?;
        file.write_all(&bytes)?;
        self.cache(&staged, name.hash)
    }

    /// Moves a file to its place in the cache.
    pub fn cache(&self, staged: &StagedChunk, hash: Hash) -> io::Result<()> {
        let to = self.place_of(hash);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(disk::parent(&to))?;
        disk::rename(staged.path(), &to)?;
        self.left(staged);
        Ok(())
    }

    /// A reader has found that the file of a chunk is damaged: in a cache it is removed, otherwise the chunk is recorded as lost.
    pub fn damaged(&self, hash: Hash, why: &str) {
        if self.source.get().is_some() {
            self.remove([&hash]);
        } else {
            self.wanted.note(hash, why);
        }
    }

    /// Removes the chunks that were used longest ago if the disk has little more free space than uploads must leave; does nothing
    /// in a hub of its own. Returns the bytes that were removed.
    pub fn make_room(&self) -> io::Result<u64> {
        let wanted = self.wanted_free();
        let (free, _, _) = disk::free_space(self.root())?;
        if self.source.get().is_none() || free >= wanted + wanted / 2 {
            return Ok(0);
        }
        self.evict((2 * wanted).saturating_sub(free))
    }

    /// Two walks, so that memory does not grow with the cache: the first finds the age from which on enough bytes are removed.
    fn evict(&self, bytes: u64) -> io::Result<u64> {
        let mut by_hour: BTreeMap<u64, u64> = BTreeMap::new();
        self.walk(&mut |_, hour, size| {
            *by_hour.entry(hour).or_default() += size;
            Ok(())
        })?;
        let mut sum = 0;
        let enough = by_hour.iter().find(|(_, size)| {
            sum += **size;
            sum >= bytes
        });
        let last = enough.map_or(u64::MAX, |(hour, _)| *hour);
        let mut removed = 0;
        self.walk(&mut |path, hour, size| {
            if hour <= last && removed < bytes {
                std::fs::remove_file(path)?;
                removed += size;
            }
            Ok(())
        })?;
        Ok(removed)
    }

    /// Calls `each` with the path of each chunk, the hour in which it was last used, and its size.
    fn walk(&self, each: &mut dyn FnMut(&Path, u64, u64) -> io::Result<()>) -> io::Result<()> {
        for dir in std::fs::read_dir(self.root())? {
            for entry in std::fs::read_dir(dir?.path())? {
                let entry = entry?;
                let is_chunk = entry
                    .file_name()
                    .to_str()
                    .is_some_and(|name| name.parse::<Hash>().is_ok());
                let meta = match entry.metadata() {
                    Ok(meta) if is_chunk && meta.is_file() => meta,
                    Ok(_) => continue,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                };
                // a file system may keep no times of access
                let used = meta
                    .accessed()
                    .and_then(|at| Ok(at.max(meta.modified()?)))?;
                each(&entry.path(), clock::millis(used) / 3_600_000, meta.len())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;

    #[test]
    fn the_chunks_that_were_used_longest_ago_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let chunks = ChunkDir::open(dir.path(), Arc::default()).unwrap();
        let hash = |n: u8| Hash([n; 32]);
        for n in 1..=6 {
            let path = chunks.place_of(hash(n));
            std::fs::create_dir_all(disk::parent(&path)).unwrap();
            std::fs::write(&path, [n; 1000]).unwrap();
            let at = clock::from_millis(u64::from(n) * 86_400_000);
            let times = FileTimes::new().set_accessed(at).set_modified(at);
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_times(times)
                .unwrap();
        }
        let foreign = chunks.place_of(hash(1)).with_file_name("notes");
        std::fs::write(&foreign, "of a person").unwrap();
        assert_eq!(
            chunks.make_room().unwrap(),
            0,
            "a hub of its own removes nothing"
        );
        let there = || {
            (1..=6)
                .filter(|n| chunks.place_of(hash(*n)).exists())
                .collect::<Vec<u8>>()
        };
        assert_eq!(
            (chunks.evict(1500).unwrap(), there()),
            (2000, vec![3, 4, 5, 6])
        );
        assert_eq!((chunks.evict(1).unwrap(), there()), (1000, vec![4, 5, 6]));
        assert_eq!((chunks.evict(1 << 40).unwrap(), there()), (3000, vec![]));
        assert!(foreign.exists());
    }
}
