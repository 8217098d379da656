//! A client in the simulation: it writes files and messages through any hub, repeats what has a key, and takes its messages.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::Scope;

use uuid::Uuid;

use super::hub::{Answer, Request, SimHub, content, lacking};
use super::schedule::{Crashed, MachineId, Schedule, ThreadId};
use super::witness::Witness;
use super::{CLIENTS, CONTENTS, EPOCH};
use crate::hub::store::messages::read::{PullRequest, Pulled};
use crate::hub::store::ops::files::{Author, Changed, FileOp, Put};
use crate::hub::store::ops::{Incoming, Op, Outcome};
use crate::wire::Status;
use crate::wire::files::{EntryKind, ExtraMetadata, Hash, Name};
use crate::wire::revision::{Condition, Revision};

/// Names that the clients write.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Milliseconds for which a change or message is repeated: hubs remember keys for longer.
const REPEATED_FOR: u64 = 3 * super::DAY;

pub struct Client {
    number: usize,
    machine: MachineId,
    schedule: Arc<Schedule>,
    hubs: Vec<Arc<SimHub>>,
    thread: Mutex<Option<ThreadId>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hub: usize,
    rests: bool,
    done: bool,
    /// The revisions that it knows.
    base: BTreeMap<&'static str, Revision>,
    newest: Revision,
    /// The last message that it has taken.
    after: u64,
    taken: BTreeSet<Uuid>,
    /// Messages that a hub has accepted, with their targets.
    posted: Vec<(Uuid, usize)>,
    /// Ids of changes with the revisions that they were answered with.
    made: BTreeMap<Uuid, u64>,
}

impl Client {
    pub fn new(
        number: usize,
        machine: MachineId,
        schedule: Arc<Schedule>,
        hubs: Vec<Arc<SimHub>>,
    ) -> Client {
        Client {
            number,
            machine,
            schedule,
            hubs,
            thread: Mutex::default(),
            state: Mutex::default(),
        }
    }

    pub fn start<'s>(self: &Arc<Self>, scope: &'s Scope<'s, '_>) {
        let thread = self.schedule.thread(self.machine);
        *self.thread.lock().unwrap() = Some(thread);
        let client = Arc::clone(self);
        scope.spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| {
                client.schedule.enter(thread);
                client.run(thread);
            }));
            if let Err(why) = ended
                && !why.is::<Crashed>()
            {
                let text = why.downcast_ref::<String>().cloned().unwrap_or_default();
                client.fault(format!("panicked: {text}"));
            }
            client.schedule.leave(thread);
        });
    }

    /// Only takes messages from now on, until there are no more.
    pub fn rest(&self) {
        let mut state = self.state.lock().unwrap();
        (state.rests, state.done) = (true, false);
    }

    pub fn is_done(&self) -> bool {
        self.state.lock().unwrap().done
    }

    pub fn end(&self, me: ThreadId) {
        self.schedule.crash(self.machine);
        let thread = self.thread.lock().unwrap().unwrap();
        while !self.schedule.is_done(thread) {
            self.schedule.pass(me, 1);
        }
    }

    fn fault(&self, what: String) {
        self.hubs[0]
            .bucket
            .witness
            .lock()
            .unwrap()
            .fault(format!("client {}: {what}", self.number));
    }

    /// Each accepted message has arrived, or is in the tables for its target.
    pub fn check(&self, witness: &mut Witness) {
        let state = self.state.lock().unwrap();
        for (id, _) in &state.posted {
            if !witness.outcomes.contains_key(id) {
                witness.fault(format!(
                    "client {}: message {id} is not in the log",
                    self.number
                ));
            }
        }
    }

    fn draw(&self) -> Uuid {
        Uuid::from_u64_pair(self.schedule.below(u64::MAX), self.schedule.below(u64::MAX))
    }

    fn run(&self, me: ThreadId) {
        loop {
            self.schedule.pass(me, self.schedule.below(300));
            let rests = self.state.lock().unwrap().rests;
            match if rests { 0 } else { self.schedule.below(10) } {
                0..4 => self.poll(me),
                4..8 => self.change(me),
                _ => self.post(me),
            }
        }
    }

    fn another_hub(&self) {
        self.state.lock().unwrap().hub = self.schedule.below(self.hubs.len() as u64) as usize;
    }

    fn hub(&self) -> &Arc<SimHub> {
        &self.hubs[self.state.lock().unwrap().hub]
    }

    /// Sends an operation and waits for its outcome; `None`: it is unknown.
    fn ask(&self, me: ThreadId, op: Op, content: Option<u64>) -> Option<Outcome> {
        let Some(running) = self.hub().running() else {
            self.another_hub();
            return None;
        };
        let answer = Arc::new(Mutex::new(Answer::Waiting));
        running.queue.lock().unwrap().push_back(Request {
            op,
            submitted: running.clock.now(),
            content,
            answer: Arc::clone(&answer),
        });
        for _ in 0..40 {
            self.schedule.pass(me, 100);
            match answer.lock().unwrap().clone() {
                Answer::Waiting => {}
                Answer::Unknown => break,
                // the response is lost
                Answer::Is(_) if self.schedule.one_in(12) => break,
                Answer::Is(outcome) => return Some(outcome),
            }
        }
        self.another_hub();
        None
    }

    fn change(&self, me: ThreadId) {
        let name = NAMES[self.schedule.below(4) as usize];
        let (base, newest) = {
            let state = self.state.lock().unwrap();
            (state.base.get(name).copied(), state.newest)
        };
        let id = self.draw();
        let is_keyed = !self.schedule.one_in(5);
        let author = Author {
            host: format!("c{}", self.number),
            key: is_keyed.then_some(id),
            knows: newest,
        };
        let condition = match base {
            _ if self.schedule.one_in(5) => Condition::None,
            Some(at) => Condition::Match(at),
            None => Condition::Absent,
        };
        let live = self
            .id_of(name)
            .filter(|_| base.is_some() && self.schedule.one_in(5));
        let number = self.schedule.below(CONTENTS);
        let (op, number) = match live {
            // deletes always have a key: it is their identity here
            Some(file) => (
                FileOp::delete(
                    file,
                    condition,
                    Author {
                        key: Some(id),
                        ..author
                    },
                ),
                None,
            ),
            None => {
                let bytes = content(number);
                let put = Put {
                    name: Name {
                        path: String::new(),
                        name: name.into(),
                    },
                    kind: EntryKind::File,
                    size: bytes.len() as u64,
                    sha256: Hash::of(&bytes),
                    chunks: lacking(number),
                    mode: None,
                    mtime: None,
                    content_type: None,
                    extra: ExtraMetadata::default(),
                    condition,
                    from: None,
                    author,
                    fresh: id,
                };
                (FileOp::put([put]), Some(number))
            }
        };
        let begun = self.schedule.now();
        for _ in 0..10 {
            if self.schedule.now() - begun > REPEATED_FOR {
                return;
            }
            match self.ask(me, Op::File(op.clone()), number) {
                Some(Outcome::Changed(changed)) => {
                    let answer = changed.into_iter().next().unwrap();
                    match &answer {
                        Changed::Missing(_) => continue,
                        Changed::OtherHistory => self.fault("a hub denies its own history".into()),
                        Changed::DiskFull => self.fault("one hub's disk decided".into()),
                        Changed::Created { record, .. } | Changed::Updated { record, .. } => {
                            let mut state = self.state.lock().unwrap();
                            let before = state.made.insert(id, record.rev);
                            drop(state);
                            if before.is_some_and(|before| before != record.rev) {
                                self.fault(format!("{id} was made twice"));
                            }
                        }
                        _ => {}
                    }
                    return;
                }
                Some(other) => return self.fault(format!("{other:?}")),
                None if !is_keyed && number.is_some() => return,
                None => {}
            }
        }
    }

    /// The id of a file, from any hub's view.
    fn id_of(&self, name: &str) -> Option<Uuid> {
        let running = self.hub().running()?;
        let record = running
            .store
            .file_named(&Name {
                path: String::new(),
                name: name.into(),
            })
            .unwrap()?;
        record.deleted_at.is_none().then_some(record.id)
    }

    fn post(&self, me: ThreadId) {
        let (id, target) = (self.draw(), self.schedule.below(CLIENTS as u64) as usize);
        let json = format!(r#"{{"id":"{id}","type":"x"}}"#);
        let message = Incoming {
            id,
            source: format!("c{}", self.number),
            target: Some(format!("c{target}")),
            ttl: None,
            digest: crate::hub::store::ops::digest(&json),
            json,
        };
        let begun = self.schedule.now();
        for _ in 0..10 {
            if self.schedule.now() - begun > REPEATED_FOR {
                return;
            }
            match self.ask(me, Op::Post(vec![message.clone()]), None) {
                Some(Outcome::Posted { results, .. }) => {
                    if [Status::Queued, Status::Duplicate].contains(&results[0].status) {
                        self.state.lock().unwrap().posted.push((id, target));
                    }
                    return;
                }
                Some(other) => return self.fault(format!("{other:?}")),
                None => {}
            }
        }
    }

    /// Reads files and messages as far as its hub has them.
    fn poll(&self, me: ThreadId) {
        let Some(running) = self.hub().running() else {
            return self.another_hub();
        };
        let (newest, after) = {
            let state = self.state.lock().unwrap();
            (state.newest, state.after)
        };
        let counters = running.store.counters().unwrap();
        if counters.rev < newest.rev || counters.seq < after {
            // a number ahead of the view is not another history: the hub looks at the end of the log first
            let wanted = {
                let mut polls = running.polls.lock().unwrap();
                polls.0 += 1;
                polls.0
            };
            let mut left = 60;
            while running.polls.lock().unwrap().1 < wanted {
                self.schedule.pass(me, 50);
                left -= 1;
                if left == 0 || self.hub().running().is_none() {
                    return self.another_hub();
                }
            }
            let counters = running.store.counters().unwrap();
            if counters.rev < newest.rev || counters.seq < after {
                return self.fault(format!(
                    "{counters:?} although {newest:?} and {after} were given"
                ));
            }
        }
        let mut newest = newest;
        for name in NAMES {
            if let Some(record) = running
                .store
                .file_named(&Name {
                    path: String::new(),
                    name: name.into(),
                })
                .unwrap()
            {
                let at = record.revision();
                let mut state = self.state.lock().unwrap();
                if record.deleted_at.is_none() {
                    state.base.insert(name, at)
                } else {
                    state.base.remove(name)
                };
                newest = newest.max(at);
            }
        }
        self.state.lock().unwrap().newest = newest;
        self.pull(me, &running, after);
    }

    fn pull(&self, me: ThreadId, running: &super::hub::Running, after: u64) {
        let ask = PullRequest {
            host: format!("c{}", self.number),
            instance: Some(Uuid::from_u128(1 + self.number as u128)),
            epoch: Some(EPOCH),
            after: Some(after),
            id: None,
            limit: 100,
            now: running.store.age().unwrap(),
            again: false,
        };
        let page = match running.store.pull(&ask).unwrap() {
            Pulled::Now(page) => page,
            Pulled::Once(op, page) => match self.ask(me, op, None) {
                Some(Outcome::Pulled) => page,
                Some(other) => return self.fault(format!("{other:?}")),
                None => return,
            },
            other => return self.fault(format!("{other:?} after {after}")),
        };
        let mut state = self.state.lock().unwrap();
        state.done = state.rests && page.messages.is_empty();
        for (seq, json) in page.messages {
            let id = json.get(7..43).and_then(|id| id.parse().ok()).unwrap();
            if !state.taken.insert(id) {
                drop(state);
                return self.fault(format!("message {id} arrived twice"));
            }
            state.after = seq;
        }
    }

    pub fn has_taken(&self, id: Uuid) -> bool {
        self.state.lock().unwrap().taken.contains(&id)
    }

    pub fn posted(&self) -> Vec<(Uuid, usize)> {
        self.state.lock().unwrap().posted.clone()
    }
}
