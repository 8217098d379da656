//! Long files that are being sent: what others may know before they are committed.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Hash, Name};

/// Files that a hub knows at the same time, at most.
pub const MAX_UPCOMING_FILES: usize = 64;

/// A long file that a machine is sending. It may never be committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpcomingFile {
    /// Of the announcement, not of the file.
    pub id: Uuid,
    #[serde(flatten)]
    pub name: Name,
    pub size: u64,
    pub checksum_sha256: Hash,
}

/// The response to an announcement, which is a [`super::Commit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    pub id: Uuid,
}
