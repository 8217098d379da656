//! The news that one hub of a bucket sends another at once. All of it is a hint: the bucket has the truth about files and messages.
//!
//! Pure.

use serde::{Deserialize, Serialize};

/// Bytes of the JSON at most.
pub const MAX_NEWS_BYTES: usize = 256 * 1024;
/// Machines in it at most; each takes up to 1.2 KB.
pub const MAX_MACHINES: usize = 200;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerNews {
    /// An entry was written to the log.
    #[serde(default)]
    pub written: bool,
    /// Machines that have called the sender.
    #[serde(default)]
    pub machines: Vec<HeardMachine>,
    /// Machines that an administrator has removed there.
    #[serde(default)]
    pub forgotten: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardMachine {
    pub host: String,
    /// The header [`super::fleet::STATE_HEADER`] of its call.
    pub state: String,
    /// Hub time of the call in milliseconds: the time of the bucket, which all of its hubs have.
    pub at: u64,
}
