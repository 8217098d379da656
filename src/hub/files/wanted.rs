//! The files that clients are asked for, because the hub has lost a part of their content.
//!
//! A search for their names reads all records, so one result serves all clients for a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;
use crate::config::limits;
use crate::hub::store::Store;
use crate::wire::files::Name;

/// Names are searched again after this time, or when a chunk was lost or replaced: files are renamed, and files that no
/// client has must not displace others.
const NAMES_AGE: Duration = Duration::from_secs(60);

/// The result of the last search.
#[derive(Debug, Default)]
pub struct WantedNames(Mutex<Option<CachedNames>>);

#[derive(Debug)]
struct CachedNames {
    at: Instant,
    changes: u64,
    names: Vec<Name>,
    /// The number of names that the last search skipped.
    skipped: usize,
}

impl WantedNames {
    /// Some of the names; each search returns others.
    pub fn names(&self, store: &Store) -> Vec<Name> {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, changes) = (clock::monotonic(), store.wanted_changes());
        if let Some(found) = found
            .as_ref()
            .filter(|f| f.changes == changes && now.duration_since(f.at) < NAMES_AGE)
        {
            return found.names.clone();
        }
        let skip = found.as_ref().map_or(0, |f| f.skipped + f.names.len());
        let look = |skip| store.wanted_names(skip, limits::NAMED_LOST_FILES);
        let (names, skipped) = match look(skip) {
            Ok((names, count)) if names.is_empty() && count > 0 => {
                (look(0).map(|(names, _)| names).unwrap_or_default(), 0)
            }
            Ok((names, _)) => (names, skip),
            Err(e) => {
                log::warn!("cannot look for files whose content is lost: {e}");
                return Vec::new();
            }
        };
        *found = Some(CachedNames {
            at: now,
            changes,
            names: names.clone(),
            skipped,
        });
        names
    }
}
