//! The long files that machines are sending, so that others can download what has arrived before they are committed.
//!
//! It is in memory only and promises nothing: a file exists once it is committed. It knows neither chunks on the disk nor
//! callers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::wire::files::{Chunk, Hash, MAX_UPCOMING_FILES, Name, UpcomingFile};

/// Chunks of all of them, at most: 2.6 MB of memory, 64 GiB of content.
pub const MAX_UPCOMING_CHUNKS: usize = 65_536;
/// A file of which no chunk has come for so long is no longer being sent.
const MAX_SILENCE: Duration = Duration::from_secs(120);

/// See the module documentation.
#[derive(Default)]
pub struct UpcomingFiles(Mutex<Announcements>);

#[derive(Default)]
struct Announcements {
    /// The number of the newest one.
    last: u64,
    /// Oldest first.
    all: Vec<Announcement>,
}

struct Announcement {
    number: u64,
    heard: Instant,
    content: Arc<UpcomingContent>,
}

/// A file, and what it is made of.
pub struct UpcomingContent {
    pub file: UpcomingFile,
    pub chunks: Vec<Chunk>,
    pub host: String,
    /// Chunks that its sender must not use before it has sent them.
    pub unproven: BTreeSet<Hash>,
}

impl UpcomingFiles {
    /// Records a file in place of that of the same host and name, whose id it keeps if it is the same content. The oldest ones
    /// make room for it.
    pub fn announce(&self, mut content: UpcomingContent, now: Instant) -> Uuid {
        let mut list = self.current(now);
        let same = |old: &Announcement| {
            let (old, new) = (&old.content, &content);
            (&old.host, &old.file.name) == (&new.host, &new.file.name)
        };
        if let Some(at) = list.all.iter().position(same) {
            let old = list.all.remove(at).content;
            if old.file.checksum_sha256 == content.file.checksum_sha256 {
                content.file.id = old.file.id;
            }
        }
        let chunks_of = |all: &[Announcement]| -> usize {
            all.iter().map(|old| old.content.chunks.len()).sum()
        };
        while list.all.len() >= MAX_UPCOMING_FILES
            || !list.all.is_empty()
                && chunks_of(&list.all) + content.chunks.len() > MAX_UPCOMING_CHUNKS
        {
            list.all.remove(0);
        }
        list.last += 1;
        let (number, id) = (list.last, content.file.id);
        list.all.push(Announcement {
            number,
            heard: now,
            content: Arc::new(content),
        });
        id
    }

    /// The files with these paths.
    pub fn list(&self, reads: &dyn Fn(&str) -> bool, now: Instant) -> Vec<UpcomingFile> {
        let list = self.current(now);
        let files = list.all.iter().map(|one| &one.content.file);
        files
            .filter(|file| reads(&file.name.path))
            .cloned()
            .collect()
    }

    /// Whether a file with such a path was announced after the announcement with this number; the number of the newest one.
    pub fn news(&self, after: u64, reads: &dyn Fn(&str) -> bool) -> (bool, u64) {
        let list = self.lock();
        let mut newer = list.all.iter().filter(|one| one.number > after);
        let is_new = newer.any(|one| reads(&one.content.file.name.path));
        (is_new, list.last)
    }

    pub fn find(&self, id: Uuid, now: Instant) -> Option<Arc<UpcomingContent>> {
        let list = self.current(now);
        let found = list.all.iter().find(|one| one.content.file.id == id);
        found.map(|one| one.content.clone())
    }

    /// A host has sent a chunk.
    pub fn arrived(&self, host: &str, hash: Hash, now: Instant) {
        let mut list = self.lock();
        for one in list.all.iter_mut() {
            let content = &one.content;
            if content.host == host && content.chunks.iter().any(|chunk| chunk.sha256 == hash) {
                one.heard = now;
            }
        }
    }

    /// A host has sent all of a file.
    pub fn ended(&self, host: &str, name: &Name) {
        let is_it = |one: &Announcement| one.content.host == host && one.content.file.name == *name;
        self.lock().all.retain(|one| !is_it(one));
    }

    /// Without those that are no longer being sent.
    fn current(&self, now: Instant) -> MutexGuard<'_, Announcements> {
        let mut list = self.lock();
        list.all
            .retain(|one| now.saturating_duration_since(one.heard) < MAX_SILENCE);
        list
    }

    fn lock(&self) -> MutexGuard<'_, Announcements> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn content(host: &str, name: &str, chunks: usize) -> UpcomingContent {
        let chunk = Chunk {
            sha256: Hash::of(name.as_bytes()),
            size: 1,
        };
        UpcomingContent {
            file: UpcomingFile {
                id: Uuid::new_v4(),
                name: Name::parse(name).unwrap(),
                size: chunks as u64,
                checksum_sha256: chunk.sha256,
            },
            chunks: vec![chunk; chunks],
            host: host.into(),
            unproven: BTreeSet::new(),
        }
    }

    fn names(files: &UpcomingFiles, now: Instant) -> Vec<String> {
        let all = files.list(&|_| true, now);
        all.iter().map(|file| file.name.full()).collect()
    }

    #[test]
    fn a_file_is_known_until_it_is_sent_or_its_sender_is_silent() {
        let (files, now) = (UpcomingFiles::default(), clock::monotonic());
        let id = files.announce(content("a", "d/x", 1), now);
        assert_eq!(files.announce(content("a", "d/x", 1), now), id, "again");
        assert_ne!(files.announce(content("b", "d/x", 1), now), id);
        files.announce(content("b", "y", 1), now);
        assert_eq!(names(&files, now), ["d/x", "d/x", "y"]);
        assert_eq!(files.list(&|path| path == "d", now).len(), 2);
        files.ended("b", &Name::parse("d/x").unwrap());
        assert_eq!(names(&files, now), ["d/x", "y"]);
        files.arrived("a", Hash::of(b"d/x"), now + MAX_SILENCE / 2);
        files.arrived("b", Hash::of(b"d/x"), now + MAX_SILENCE / 2);
        assert_eq!(names(&files, now + MAX_SILENCE), ["d/x"]);
        assert!(files.find(id, now + MAX_SILENCE).is_some());
        assert!(files.find(id, now + MAX_SILENCE * 2).is_none());
    }

    #[test]
    fn another_content_takes_the_place_of_the_first() {
        let (files, now) = (UpcomingFiles::default(), clock::monotonic());
        let id = files.announce(content("a", "x", 1), now);
        let mut changed = content("a", "x", 2);
        changed.file.checksum_sha256 = Hash::of(b"changed");
        let new = files.announce(changed, now);
        assert!(new != id && files.find(id, now).is_none());
        assert_eq!(files.list(&|_| true, now)[0].size, 2);
    }

    #[test]
    fn a_listener_learns_of_new_files_that_it_may_read() {
        let (files, now) = (UpcomingFiles::default(), clock::monotonic());
        assert_eq!(files.news(0, &|_| true), (false, 0));
        files.announce(content("a", "d/x", 1), now);
        assert_eq!(files.news(0, &|_| true), (true, 1));
        assert_eq!(files.news(0, &|path| path == "e"), (false, 1));
        assert_eq!(files.news(1, &|_| true), (false, 1));
    }

    #[test]
    fn the_oldest_ones_make_room() {
        let (files, now) = (UpcomingFiles::default(), clock::monotonic());
        for n in 0..MAX_UPCOMING_FILES + 2 {
            files.announce(content("a", &format!("f{n}"), 1), now);
        }
        let all = names(&files, now);
        assert_eq!((all.len(), all[0].as_str()), (MAX_UPCOMING_FILES, "f2"));
        files.announce(content("a", "long", MAX_UPCOMING_CHUNKS - 1), now);
        assert_eq!(
            names(&files, now),
            [&format!("f{}", MAX_UPCOMING_FILES + 1), "long"]
        );
    }
}
