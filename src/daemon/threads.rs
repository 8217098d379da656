//! The client's threads: started with names, supervised, joined at the end.
//!
//! A thread that ends by itself or panics is a failure of the whole client, which then ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::clock;
use crate::error::{Error, Kind, Result};

/// The size of a stack.
const THREAD_STACK_BYTES: usize = 256 * 1024;

/// The state that all threads of a client share.
#[derive(Debug, Default)]
pub struct Shared {
    pub stopping: AtomicBool,
    fatal: Mutex<Option<Error>>,
}

impl Shared {
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    pub fn fatal(&self) -> Option<Error> {
        self.fatal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn failed(&self, e: Error) {
        self.fatal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(e);
    }
}

/// Running threads.
#[derive(Default)]
pub struct Threads {
    pub shared: Arc<Shared>,
    list: Vec<(String, JoinHandle<()>)>,
}

impl Threads {
    #[allow(clippy::disallowed_methods)] // where the client's threads start
    pub fn spawn(
        &mut self,
        name: &str,
        body: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (shared, title) = (self.shared.clone(), name.to_string());
        let guarded = move || {
            let error = match catch_unwind(AssertUnwindSafe(body)) {
                Ok(Ok(())) if shared.is_stopping() => return,
                Ok(Ok(())) => {
                    Error::new(Kind::Failed, format!("thread {title} ended unexpectedly"))
                }
                Ok(Err(e)) => e,
                Err(_) => crashed(&title),
            };
            shared.failed(error);
        };
        let thread = std::thread::Builder::new()
            .name(name.into())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(guarded);
        self.list
            .push((name.to_string(), thread.map_err(|e| not_started(name, &e))?));
        Ok(())
    }

    pub fn has(&self, name: &str) -> bool {
        self.list.iter().any(|(started, _)| started == name)
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn first_name(&self) -> Option<&str> {
        self.list.first().map(|(name, _)| name.as_str())
    }

    /// Waits for all threads until `end`, and calls `remind` meanwhile; leaves those behind that do
    /// not end. Returns whether all have ended.
    pub fn join(&mut self, end: Instant, remind: impl Fn()) -> bool {
        let mut all = true;
        for (name, thread) in self.list.drain(..) {
            while !thread.is_finished() && clock::monotonic() < end {
                remind();
                std::thread::park_timeout(Duration::from_millis(5));
            }
            if thread.is_finished() {
                drop(thread.join())
            } else {
                all = false;
                log::warn!("thread does not end; abandoning it thread={name}");
            }
        }
        all
    }
}

/// The limit on threads is a shortage too: a retry may succeed.
fn not_started(name: &str, e: &std::io::Error) -> Error {
    Error {
        kind: Kind::Busy,
        ..Error::io(format!("start thread {name}"), e)
    }
}

pub fn crashed(name: &str) -> Error {
    Error::new(Kind::Failed, format!("thread {name} panicked"))
}

/// A thread that ends with a scope. `failed` is called after a panic, because the other threads
/// would wait forever.
#[allow(clippy::disallowed_methods)] // where the client's threads start
pub fn scoped<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    name: &str,
    failed: impl FnOnce(Error) + Send + 'scope,
    body: impl FnOnce() + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, ()>> {
    let title = name.to_string();
    let guarded = move || {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            failed(crashed(&title));
        }
    };
    let thread = std::thread::Builder::new()
        .name(name.into())
        .stack_size(THREAD_STACK_BYTES)
        .spawn_scoped(scope, guarded);
    thread.map_err(|e| not_started(name, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::wakeup::Wakeup;

    #[test]
    fn a_crash_of_a_thread_is_reported_to_those_that_wait_for_it() {
        let (wakeup, said) = (Wakeup::new(Arc::default()), Mutex::new(None));
        std::thread::scope(|scope| {
            let failed = |e: Error| {
                *said.lock().unwrap() = Some(e.what);
                wakeup.stop();
            };
            scoped(scope, "upload-1", failed, || panic!("as a bug does")).unwrap();
            assert!(!wakeup.pause(Duration::from_secs(60)), "nobody was told");
        });
        assert_eq!(
            said.into_inner().unwrap().as_deref(),
            Some("thread upload-1 panicked")
        );
    }
}
