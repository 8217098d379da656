//! What travels for one synced directory: counted, and kept below its rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::files::rate_limit::Limiter;
use crate::transfer::Step;

/// Bytes each way since the start, and their limits.
#[derive(Debug, Default)]
pub struct Traffic {
    pub sent: AtomicU64,
    pub received: AtomicU64,
    up: Option<Arc<Limiter>>,
    down: Option<Arc<Limiter>>,
}

impl Traffic {
    /// `limit`: bytes a second each way.
    pub fn new(limit: Option<u64>) -> Traffic {
        let limiter = || limit.map(Limiter::new);
        Traffic {
            up: limiter(),
            down: limiter(),
            ..Traffic::default()
        }
    }

    /// Bytes have gone to the hub. Waits as the limit wants it.
    pub fn up(&self, step: Step<'_>) {
        if let Step::Passed(bytes) = step {
            pass(&self.sent, self.up.as_deref(), bytes);
        }
    }

    /// Bytes have come.
    pub fn down(&self, step: Step<'_>) {
        if let Step::Passed(bytes) = step {
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
