//! Lets those who commit at the same time share one transaction: the first one carries out what has gathered, the others wait.
//!
//! It has no delay of its own, and does not look at what is written.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::error::{Error, Kind};
use crate::files::engine::env::{Called, Fault, Write};

/// See the module.
#[derive(Debug, Default)]
pub struct Group {
    queue: Mutex<Queue>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// One entry a caller, so no more than there are threads.
    waiting: Vec<Vec<Write>>,
    /// Callers so far, and those of them that have their result.
    came: u64,
    done: u64,
    failed: BTreeMap<u64, Fault>,
    leading: bool,
}

impl Group {
    /// Returns when `apply` has taken these writes, together with others', all in the order in which they came.
    pub fn commit(&self, writes: &[Write], apply: &dyn Fn(&[Vec<Write>]) -> Called<()>) -> Called<()> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = queue.came;
        queue.came += 1;
        queue.waiting.push(writes.to_vec());
        while queue.done <= mine {
            if queue.leading {
                queue = self.ended.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.leading = true;
            let groups = std::mem::take(&mut queue.waiting);
            drop(queue);
            // redb may panic on a damaged file: the others must not wait for ever
            let done = catch_unwind(AssertUnwindSafe(|| apply(&groups)));
            let done = done.unwrap_or_else(|_| Err(Fault::Fatal(Error::new(Kind::Damaged, "cannot write the state: its file is damaged"))));
            queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let (from, to) = (queue.done, queue.done + groups.len() as u64);
            if let Err(fault) = done {
                queue.failed.extend((from..to).map(|n| (n, fault.clone())));
            }
            (queue.done, queue.leading) = (to, false);
            self.ended.notify_all();
        }
        queue.failed.remove(&mine).map_or(Ok(()), Err)
    }
}
