//! What is known about names on a disk: whether it folds them, and recent listings of its
//! directories. It reads nothing itself.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;

/// How long a listing is believed when it contains a name. A missing name is always checked again.
const LISTING_LIFETIME: Duration = Duration::from_secs(1);
/// Names in all listings that are kept.
pub(super) const MAX_LISTED_NAMES: usize = 200_000;
/// Filesystems that never fold names: ext2 to ext4, XFS, Btrfs, F2FS, tmpfs, overlayfs, ZFS, UBIFS,
/// JFFS2.
const ORDINARY: [u64; 9] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x0102_1994,
    0x794c_7630,
    0x2fc1_2fc1,
    0x2405_1905,
    0x72b6,
];

/// Which directories of a disk fold names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFolding {
    Nowhere,
    /// Those with a flag.
    Some,
    Everywhere,
}

/// What is known about names, beside an open root.
#[derive(Debug)]
pub struct Names {
    pub(super) folds: NameFolding,
    /// The disk takes every name, as a disk made for Linux does.
    pub(super) ordinary: bool,
    known: Mutex<KnownNames>,
    renaming: Mutex<()>,
}

/// The names in one directory.
pub(super) type DirectoryListing = HashSet<Box<[u8]>>;

#[derive(Debug, Default)]
pub(super) struct KnownNames {
    /// For each directory, when it was listed, and its names.
    listings: BTreeMap<String, (Instant, DirectoryListing)>,
    names: usize,
    pub(super) folding: BTreeMap<String, bool>,
}

impl Names {
    pub const fn new(folds: NameFolding, ordinary: bool) -> Names {
        let known = KnownNames {
            listings: BTreeMap::new(),
            names: 0,
            folding: BTreeMap::new(),
        };
        Names {
            folds,
            ordinary,
            known: Mutex::new(known),
            renaming: Mutex::new(()),
        }
    }

    /// Held from the check of a name until after it is changed: a disk that folds names may replace
    /// a file that another worker has just placed under the other spelling (FUSE has no
    /// RENAME_NOREPLACE).
    pub fn alone(&self) -> Option<std::sync::MutexGuard<'_, ()>> {
        (self.folds == NameFolding::Everywhere)
            .then(|| self.renaming.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn known(&self) -> std::sync::MutexGuard<'_, KnownNames> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a recent listing of the directory contains the name.
    pub(super) fn listed(&self, dir: &str, name: &str) -> bool {
        let known = self.known();
        known.listings.get(dir).is_some_and(|(at, names)| {
            at.elapsed() < LISTING_LIFETIME && names.contains(name.as_bytes())
        })
    }

    pub(super) fn keep(&self, dir: &str, names: DirectoryListing) {
        let mut known = self.known();
        if known.names + names.len() > MAX_LISTED_NAMES {
            (known.listings, known.names) = (BTreeMap::new(), 0);
        }
        if names.len() <= MAX_LISTED_NAMES {
            known.names += names.len();
            if let Some((_, old)) = known
                .listings
                .insert(dir.to_string(), (clock::monotonic(), names))
            {
                known.names -= old.len();
            }
        }
    }

    /// Marks the listings as outdated after a change.
    pub fn changed(&self) {
        if self.folds != NameFolding::Nowhere {
            let mut known = self.known();
            (known.listings, known.names) = (BTreeMap::new(), 0);
        }
    }

    /// Also forgets which directories fold names.
    pub fn forget(&self) {
        self.changed();
        self.known().folding.clear();
    }
}

/// Whether a filesystem takes every name.
pub fn is_ordinary(filesystem: u64) -> bool {
    ORDINARY.contains(&filesystem)
}
