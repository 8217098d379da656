//! A hub in the simulation: the real store, log and janitor on one machine, and a committer in a few lines.

use std::collections::VecDeque;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::Scope;
use std::time::Duration;

use tempfile::TempDir;
use uuid::Uuid;

use super::bucket::{Link, SimBucket};
use super::schedule::{Crashed, MachineId, Schedule, ThreadId};
use crate::chunking::tests::noise;
use crate::error::Kind;
use crate::hub::bucket::chunks::ChunkObjects;
use crate::hub::bucket::clock::StoreClock;
use crate::hub::bucket::janitor::{Janitor, JanitorTimes};
use crate::hub::bucket::objects::ObjectStore;
use crate::hub::bucket::shared_log::SharedLog;
use crate::hub::bucket::{Description, start};
use crate::hub::commit_log::{LONGEST_WAIT_MILLIS, Log, LogFault, Uploader};
use crate::hub::store::Store;
use crate::hub::store::files::ChunkSource;
use crate::hub::store::ops::files::Bytes;
use crate::hub::store::ops::{Group, Limits, Op, Outcome};
use crate::wire::files::{Chunk, Hash};
use crate::wire::revision::Tag;

/// A client's request: an operation whose content, if it has one, is still to be received.
#[derive(Clone)]
pub struct Request {
    pub op: Op,
    /// Hub time.
    pub submitted: u64,
    /// The number of the content.
    pub content: Option<u64>,
    pub answer: Arc<Mutex<Answer>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Waiting,
    /// The hub does not know.
    Unknown,
    Is(Outcome),
}

/// Bytes of content `n`: more than are kept in the tables.
pub fn content(n: u64) -> Vec<u8> {
    noise(n, 17_000)
}

pub struct SimHub {
    pub machine: MachineId,
    pub bucket: Arc<SimBucket>,
    pub description: Description,
    pub limits: Limits,
    dir: TempDir,
    pub running: Mutex<Option<Running>>,
    threads: Mutex<Vec<ThreadId>>,
}

#[derive(Clone)]
pub struct Running {
    pub store: Arc<Store>,
    pub clock: Arc<StoreClock>,
    pub queue: Arc<Mutex<VecDeque<Request>>>,
    /// How many looks at the end of the log have been asked for, and done.
    pub polls: Arc<Mutex<(u64, u64)>>,
}

impl SimHub {
    pub fn new(
        machine: MachineId,
        bucket: Arc<SimBucket>,
        description: Description,
        limits: Limits,
    ) -> SimHub {
        SimHub {
            machine,
            bucket,
            description,
            limits,
            dir: super::scratch(),
            running: Mutex::default(),
            threads: Mutex::default(),
        }
    }

    fn schedule(&self) -> &Schedule {
        &self.bucket.schedule
    }

    pub fn running(&self) -> Option<Running> {
        self.running.lock().unwrap().clone()
    }

    /// Starts its threads.
    pub fn start<'s>(self: &Arc<Self>, scope: &'s Scope<'s, '_>) {
        let hub = Arc::clone(self);
        self.spawn(scope, move |thread| hub.run(thread));
    }

    fn spawn<'s>(
        self: &Arc<Self>,
        scope: &'s Scope<'s, '_>,
        work: impl FnOnce(ThreadId) + Send + 's,
    ) {
        let thread = self.schedule().thread(self.machine);
        self.threads.lock().unwrap().push(thread);
        let hub = Arc::clone(self);
        scope.spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| {
                hub.schedule().enter(thread);
                work(thread);
            }));
            if let Err(why) = ended
                && !why.is::<Crashed>()
            {
                let text = why
                    .downcast_ref::<String>()
                    .cloned()
                    .unwrap_or_else(|| format!("{:?}", why.downcast_ref::<&str>()));
                hub.bucket
                    .witness
                    .lock()
                    .unwrap()
                    .fault(format!("hub {} panicked: {text}", hub.machine));
            }
            hub.schedule().leave(thread);
        });
    }

    /// Ends all threads; what was not synced is lost.
    pub fn crash(&self, me: ThreadId) {
        let file = self.dir.path().join(Store::FILE);
        // what the disk has before anything is closed
        let image = std::fs::read(&file).ok();
        self.schedule().crash(self.machine);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap());
        while threads
            .iter()
            .any(|thread| !self.schedule().is_done(*thread))
        {
            self.schedule().pass(me, 1);
        }
        *self.running.lock().unwrap() = None;
        if let Some(image) = image {
            std::fs::write(&file, image).unwrap();
        }
    }

    /// The data directory is lost too.
    pub fn lose_disk(&self) {
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap()
            } else {
                std::fs::remove_file(path).unwrap()
            }
        }
    }

    fn link(&self, thread: ThreadId) -> Arc<dyn ObjectStore> {
        Arc::new(Link {
            bucket: Arc::clone(&self.bucket),
            machine: self.machine,
            thread,
        })
    }

    /// The committer, and the janitor with it: by turns, as a scheduler might run them.
    fn run(&self, thread: ThreadId) {
        loop {
            match self.begin_and_work(thread) {
                Ok(()) => {}
                Err(e) if [Kind::Busy, Kind::Unreachable].contains(&e.kind) => {}
                Err(e) => {
                    return self
                        .bucket
                        .witness
                        .lock()
                        .unwrap()
                        .fault(format!("hub {} ends: {e}", self.machine));
                }
            }
            *self.running.lock().unwrap() = None;
            self.schedule().pass(thread, 1000);
        }
    }

    /// `Ok`: it must start again.
    fn begin_and_work(&self, thread: ThreadId) -> crate::error::Result<()> {
        let objects = self.link(thread);
        let dir = self.dir.path();
        let store = Arc::new(start::open_view(
            objects.as_ref(),
            &self.description,
            dir,
            1 << 20,
            0,
        )?);
        let clock = Arc::new(StoreClock::new(Arc::clone(&objects)));
        let chunks = Arc::new(ChunkObjects::new(Arc::clone(&objects), Arc::clone(&clock)));
        store.set_chunk_source(Arc::clone(&chunks) as Arc<dyn ChunkSource>);
        let id = Uuid::from_u128(self.machine as u128);
        let window = Duration::from_millis(self.schedule().below(100));
        let mut log = SharedLog::new(
            Arc::clone(&objects),
            Arc::clone(&store),
            Arc::clone(&clock),
            Arc::clone(&chunks),
            id,
            window,
            Duration::from_secs(2),
        )?;
        let running = Running {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            queue: Arc::default(),
            polls: Arc::default(),
        };
        match log.follow() {
            Ok(_) => {}
            Err(LogFault::StartAgain(_)) => return Ok(()),
            Err(LogFault::Busy(e) | LogFault::Final(e)) => return Err(e),
        }
        *self.running.lock().unwrap() = Some(running.clone());
        let mut janitor = Janitor {
            objects: Arc::clone(&objects),
            clock: Arc::clone(&clock),
            store: Arc::clone(&store),
            data_dir: dir.into(),
            snapshot_at: 0,
            snapshot_entries: 6,
            times: JanitorTimes::default(),
        };
        loop {
            self.schedule().pass(thread, self.schedule().below(50));
            let done = if self.schedule().one_in(12) {
                self.tidy(&mut log, &mut janitor, &store)
            } else {
                self.serve(&mut log, &running, &chunks)
            };
            match done {
                Ok(()) | Err(LogFault::Busy(_)) => {}
                Err(LogFault::StartAgain(_)) => return Ok(()),
                Err(LogFault::Final(e)) => return Err(e),
            }
            if self.schedule().one_in(4) {
                let n = store.position()?.n;
                self.bucket
                    .witness
                    .lock()
                    .unwrap()
                    .compare(self.machine, n, &store.dump());
            }
        }
    }

    fn group(&self, ops: Vec<Op>) -> Group {
        Group {
            now: 0,
            wall: 0,
            full: self.schedule().one_in(2),
            tag: Tag::default(),
            opened: 0,
            limits: self.limits,
            ops,
        }
    }

    /// One group of waiting requests, or a look at the log.
    fn serve(
        &self,
        log: &mut SharedLog,
        running: &Running,
        chunks: &ChunkObjects,
    ) -> Result<(), LogFault> {
        let taken: Vec<Request> = {
            let mut queue = running.queue.lock().unwrap();
            let most = queue.len().min(4);
            queue.drain(..most).collect()
        };
        let wanted = running.polls.lock().unwrap().0;
        if taken.is_empty() {
            if wanted > running.polls.lock().unwrap().1 || self.schedule().one_in(4) {
                log.follow()?;
                running.polls.lock().unwrap().1 = wanted;
            }
            return Ok(());
        }
        let (mut ops, mut answers) = (Vec::new(), Vec::new());
        for mut request in taken {
            let received = self.receive(&mut request, running, chunks);
            let waited = running.clock.now().saturating_sub(request.submitted);
            if received.is_some() && waited <= LONGEST_WAIT_MILLIS {
                ops.push(request.op);
                answers.push(request.answer);
            } else {
                *request.answer.lock().unwrap() = Answer::Unknown;
            }
        }
        let riding = self.schedule().one_in(5);
        let ids: Vec<_> = ops.iter().map(super::witness::id_of).collect();
        ops.extend(riding.then_some(Op::Sweep));
        log.await_turn();
        let committed = log.commit(self.group(ops));
        let outcomes = match committed {
            Ok(committed) => committed.outcomes.into_iter().map(Answer::Is).collect(),
            Err(_) => vec![Answer::Unknown; answers.len()],
        };
        for ((answer, outcome), id) in answers.iter().zip(outcomes).zip(ids) {
            if let (Answer::Is(outcome), Some(id)) = (&outcome, id) {
                self.bucket.witness.lock().unwrap().answered(id, outcome);
            }
            *answer.lock().unwrap() = outcome;
        }
        Ok(())
    }

    /// Receives the content of a request, as the thread of a connection does; `None`: it could not be put into the bucket.
    fn receive(
        &self,
        request: &mut Request,
        running: &Running,
        chunks: &ChunkObjects,
    ) -> Option<()> {
        let Some(number) = request.content else {
            return Some(());
        };
        let bytes = content(number);
        let hash = Hash::of(&bytes);
        let known = running.store.missing_chunks(&[hash]).unwrap().is_empty();
        let there = if known && !self.schedule().one_in(4) {
            Bytes::Known
        } else {
            let mut intake = running.store.intake().unwrap();
            intake.write(&bytes).unwrap();
            intake.finish().unwrap().bytes.remove(0)
        };
        for (_, bytes) in request.op.chunks_mut() {
            *bytes = there.clone();
        }
        chunks.upload(&request.op).ok()
    }

    fn tidy(
        &self,
        log: &mut SharedLog,
        janitor: &mut Janitor,
        store: &Arc<Store>,
    ) -> Result<(), LogFault> {
        let ignore = |done: crate::error::Result<()>| match done {
            Err(e) if ![Kind::Busy, Kind::Unreachable].contains(&e.kind) => Err(LogFault::Final(e)),
            _ => Ok(()),
        };
        // the operations of the janitor, by the log's own thread
        let log = Mutex::new(log);
        let fault = Mutex::new(None);
        let group = |op| self.group(vec![op]);
        let submit = |op: Op| match log.lock().unwrap().commit(group(op)) {
            Ok(committed) => committed.outcomes.into_iter().next(),
            Err(e) => {
                *fault.lock().unwrap() = Some(e);
                None
            }
        };
        match self.schedule().below(7) {
            0 => ignore(janitor.snapshot_and_cut())?,
            1 => ignore(janitor.collect(&submit))?,
            2 => ignore(janitor.remove_orphans(&submit))?,
            3 => drop(submit(Op::Sweep)),
            5 => ignore(janitor.remove_leftovers())?,
            // a bucket that was never set back is not taken for one that was
            4 => ignore(start::can_continue(janitor.objects.as_ref(), 0, store).map(drop))?,
            _ => self.read_something(store),
        }
        fault.into_inner().unwrap().map_or(Ok(()), Err)
    }

    /// A file that the tables have can be read, unless the bucket does not respond.
    fn read_something(&self, store: &Arc<Store>) {
        for number in 0..super::CONTENTS {
            let bytes = content(number);
            let hash = Hash::of(&bytes);
            let Some(mut reader) = store.chunk(hash).unwrap() else {
                continue;
            };
            let mut read = Vec::new();
            let outcome = reader.read_to_end(&mut read);
            let mut witness = self.bucket.witness.lock().unwrap();
            match outcome {
                Ok(_) if read == bytes => {}
                Ok(_) => witness.fault(format!(
                    "hub {}: content {number} has other bytes",
                    self.machine
                )),
                Err(e) if e.kind() == std::io::ErrorKind::Other => {}
                // the view may be behind, and the chunk dropped since
                Err(e)
                    if witness.store.chunk(hash).unwrap().is_some()
                        && store.position().unwrap().n == witness.n =>
                {
                    witness.fault(format!(
                        "hub {}: content {number} cannot be read: {e}",
                        self.machine
                    ));
                }
                Err(_) => {}
            }
        }
    }
}

/// A put of one chunk whose bytes come later.
pub fn lacking(number: u64) -> Vec<(Chunk, Bytes)> {
    let bytes = content(number);
    vec![(
        Chunk {
            sha256: Hash::of(&bytes),
            size: bytes.len() as u64,
        },
        Bytes::Known,
    )]
}
