//! Messages and hosts in the store: the tables, the effect of each operation on them, and the reads.
//!
//! It opens no transaction and knows nothing of files.

pub mod apply;
pub mod live;
pub mod read;
pub mod tables;

/// Milliseconds after which a host that has not pulled holds no broadcast back.
pub const STALE_HOST_MILLIS: u64 = 30 * 86_400_000;
/// Hosts, those included that are only named as targets.
pub const MAX_HOSTS: u64 = crate::config::limits::HOSTS;
/// Ids remembered, at most.
pub const MAX_IDS: u64 = crate::config::limits::IDS;
