//! Messages and hosts in the store: the tables, the effect of each operation on them, and the reads.
//!
//! It opens no transaction and knows nothing of files.

pub mod apply;
pub mod live;
pub mod read;
pub mod tables;

/// Milliseconds after which a host that does not pull no longer delays the removal of broadcasts.
pub const STALE_HOST_MILLIS: u64 = 30 * 86_400_000;
/// Hosts at most, including names that are only targets.
/// Remembered ids at most.
pub const MAX_IDS: u64 = crate::config::limits::MESSAGE_IDS;
