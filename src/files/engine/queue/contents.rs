//! Which pending paths lose or get a content: the possible halves of renames.

use std::sync::Arc;

use super::{Direction, WorkQueue};
use crate::files::plan::is_below;
use crate::wire::files::Hash;

impl WorkQueue {
    /// Returns some of the deletes that remove these bytes.
    pub fn deleted(&self, hash: &Hash, most: usize) -> Vec<String> {
        let same = self
            .deleted
            .range((*hash, Arc::from(""))..)
            .take_while(|(h, _)| h == hash);
        same.take(most).map(|(_, path)| path.to_string()).collect()
    }

    /// Whether a new entry has these bytes, so that the delete of `path` may be half of a rename. Excludes ancestors and
    /// descendants, because both could not be worked on at once.
    pub fn has_twin(&self, path: &str, hash: &Hash) -> bool {
        let same = self
            .fresh
            .range((*hash, Direction::Up, Arc::from(""))..)
            .take_while(|(h, way, _)| (h, *way) == (hash, Direction::Up));
        same.map(|(.., p)| p)
            .any(|p| !is_below(p, path) && !is_below(path, p))
    }

    /// Returns some of the paths at which these bytes of the hub are new.
    pub fn comes(&self, hash: &Hash, most: usize) -> Vec<String> {
        let same = self
            .fresh
            .range((*hash, Direction::Down, Arc::from(""))..)
            .take_while(|(h, way, _)| (h, *way) == (hash, Direction::Down));
        same.take(most).map(|(.., p)| p.to_string()).collect()
    }

    /// Whether pending work brings these bytes, in either direction.
    pub fn brings(&self, hash: &Hash) -> bool {
        self.fresh
            .range((*hash, Direction::Up, Arc::from(""))..)
            .next()
            .is_some_and(|(h, ..)| h == hash)
    }
}
