//! The traffic of one synced directory: counted, and kept below its rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::files::rate_limit::Limiter;
use crate::transfer::TransferStep;

/// Bytes in each direction since the start, and their limits.
#[derive(Debug, Default)]
pub struct Traffic {
    pub sent: AtomicU64,
    pub received: AtomicU64,
    up: Option<Arc<Limiter>>,
    down: Option<Arc<Limiter>>,
}

impl Traffic {
    /// `limit`: bytes per second in each direction.
    pub fn new(limit: Option<u64>) -> Traffic {
        let limiter = || limit.map(Limiter::new);
        Traffic {
            up: limiter(),
            down: limiter(),
            ..Traffic::default()
        }
    }

    /// Counts bytes that were sent, and waits as the limit demands.
    pub fn up(&self, step: TransferStep<'_>) {
        if let TransferStep::Passed(bytes) = step {
            pass(&self.sent, self.up.as_deref(), bytes);
        }
    }

    /// Counts bytes that were received, and waits in the same way.
    pub fn down(&self, step: TransferStep<'_>) {
        if let TransferStep::Passed(bytes) = step {
            pass(&self.received, self.down.as_deref(), bytes);
        }
    }
}

fn pass(counter: &AtomicU64, limiter: Option<&Limiter>, bytes: u64) {
    counter.fetch_add(bytes, Relaxed);
    if let Some(limiter) = limiter {
        limiter.pass(bytes);
    }
}
