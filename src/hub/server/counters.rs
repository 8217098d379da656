//! Counters of the server, for `/metrics` and for tests. No decision depends on them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a caller was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The head is malformed or ambiguous, or asks for an unsupported protocol.
    Head,
    /// The head or the target is too long.
    HeadSize,
    /// The head did not arrive in time.
    HeadTime,
    /// Too many connections in total.
    Connections,
    /// Too many connections from one address.
    Address,
    /// No thread could be started for the connection.
    Thread,
    /// The process has no file descriptor left; the connection waits in the backlog.
    Descriptors,
    /// The gate refused: key, token, protected mode, limits of a route.
    Gate,
    /// The body is longer than the route allows.
    BodySize,
    /// The client was slower than the minimum rate.
    Slow,
    /// No connection to the workers became free, or no worker answered.
    Workers,
    /// The memory for bodies is used up.
    Memory,
    /// Too many long transfers at the same time.
    Transfers,
    /// Too many event streams at the same time.
    Streams,
    /// The connection was idle or slow when another one needed its place.
    GaveWay,
    /// The TLS handshake failed or took too long.
    Handshake,
}

impl Reason {
    pub const NAMES: [&'static str; 16] = [
        "head",
        "head_size",
        "head_time",
        "connections",
        "address",
        "thread",
        "descriptors",
        "gate",
        "body_size",
        "slow",
        "workers",
        "memory",
        "transfers",
        "streams",
        "gave_way",
        "handshake",
    ];
}

/// Counts since the start; `open` is the current number.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// Connections to tiny_http that broke and were replaced.
    pub replaced: AtomicU64,
    /// New tiny_http servers after one stopped accepting.
    pub restarts: AtomicU64,
    refused: [AtomicU64; Reason::NAMES.len()],
}

impl Counters {
    pub fn refuse(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
    }

    #[cfg(test)]
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Relaxed)
    }

    /// Every reason by its name in the metrics.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Reason::NAMES
            .iter()
            .zip(&self.refused)
            .map(|(name, n)| (*name, n.load(Relaxed)))
    }
}
