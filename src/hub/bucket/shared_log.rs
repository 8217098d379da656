//! The log that several hubs share: entries `log/1`, `log/2`, … of one bucket, each written once and never changed.
//!
//! The outcome of a group is that of its entry, at its place; so a hub that loses a race applies what won and tries the next
//! number with the same operations. There is no leader, no lease, and no clock but the store's. Snapshots, removal and start
//! are elsewhere in this directory.
//!
//! The rules, each of which `tests` shows to be necessary:
//!
//! * The bytes of an attempt at one number do not change, and a request whose outcome is unknown is repeated as it was: the
//!   first may still arrive.
//! * 412 means nothing until the object was read: its nonce tells whether it is our own.
//! * An entry that was written, or an end that was seen, more than half of [`LOG_KEPT`] after the birth of the entry before may
//!   be at a place that was removed long ago: the floor decides.
//! * The view and its position change in one transaction.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::chunks::ChunkObjects;
use super::clock::StoreClock;
use super::objects::{ObjectFault, ObjectStore, PutIf, PutOutcome};
use super::pace::{CommitPace, PollSchedule, SHORTEST_POLL_MILLIS};
use super::{closed, entry_name, read_floor};
use crate::error::{Error, Kind};
use crate::hub::commit_log::{Committed, HubClock, Log, LogFault, Uploader};
use crate::hub::store::Store;
use crate::hub::store::ops::files::Bytes;
use crate::hub::store::ops::shared::{BEHAVIOUR, ChunkObject, FORMAT, LogEntry, LogOp, Position};
use crate::hub::store::ops::{Group, Limits, Op, Outcome};
use crate::hub::store::shared::NotApplied;

/// Milliseconds for which entries are kept at least, after a snapshot has them.
pub const LOG_KEPT: u64 = 6 * 86_400_000;
/// Milliseconds after which callers are told that the outcome is not known.
pub const COMMIT_PATIENCE_MILLIS: u64 = 15_000;
/// The first pause after a request without an outcome, and the longest.
const FIRST_PAUSE: u64 = 50;
const LONGEST_PAUSE: u64 = 5_000;
/// Milliseconds after which a commit of the view is synced.
const SYNC_INTERVAL: u64 = 1_000;
/// Milliseconds for which times of pulls may wait: an idle hub writes few entries.
const FLUSH_INTERVAL: u64 = 3_600_000;
/// Milliseconds for which acks may wait: until then, other hubs show the messages as waiting, and after a minute as trouble.
const ACK_INTERVAL: u64 = 20_000;

/// One hub's end of the log.
pub struct SharedLog {
    objects: Arc<dyn ObjectStore>,
    store: Arc<Store>,
    clock: Arc<StoreClock>,
    hub: Uuid,
    position: Position,
    /// A time, by the store's clock, at which the entry at `position` was the last one or one of the last: its birth, or that
    /// of a proven end after it. `None`: unknown.
    seen: Option<u64>,
    /// The hub was moved out of the bucket: nothing may be written.
    closed: bool,
    pending: Option<PendingGroup>,
    /// Outcomes of entries that no caller waits for, until the next call returns.
    others: Vec<Outcome>,
    pace: CommitPace,
    /// When the view was last synced.
    synced: u64,
    polls: PollSchedule,
    chunks: Arc<ChunkObjects>,
    /// Called after each entry of this hub.
    pub on_written: Box<dyn Fn() + Send>,
}

/// A group on its way into the log.
struct PendingGroup {
    /// Hub time when it was given.
    begun: u64,
    nonce: Uuid,
    limits: Limits,
    ops: Vec<Op>,
    placed: Vec<ChunkObject>,
    /// The number that is tried, and the bytes.
    attempt: Option<(u64, Vec<u8>)>,
}

/// How a request for the end of the log came out.
enum LogAdvance {
    /// Another hub's entry was applied.
    Entry,
    End,
}

impl SharedLog {
    /// `position`: that of the view.
    pub fn new(
        objects: Arc<dyn ObjectStore>,
        store: Arc<Store>,
        clock: Arc<StoreClock>,
        chunks: Arc<ChunkObjects>,
        hub: Uuid,
        window: Duration,
        poll: Duration,
    ) -> crate::error::Result<SharedLog> {
        let (position, closed) = (store.position()?, store.is_closed()?);
        clock.at_least(store.age()?);
        Ok(SharedLog {
            objects,
            store,
            clock,
            hub,
            position,
            closed,
            seen: None,
            pending: None,
            others: Vec::new(),
            pace: CommitPace {
                window: window.as_millis() as u64,
                ..CommitPace::default()
            },
            synced: 0,
            polls: PollSchedule {
                last: 0,
                interval: SHORTEST_POLL_MILLIS,
                longest: poll.as_millis() as u64,
            },
            chunks,
            on_written: Box::new(|| {}),
        })
    }

    /// Applies all entries up to the end of the log.
    pub fn catch_up(&mut self) -> Result<(), LogFault> {
        while let LogAdvance::Entry = self.read_next()? {}
        Ok(())
    }

    fn check_open(&self) -> Result<(), LogFault> {
        if self.closed {
            Err(LogFault::Final(closed()))
        } else {
            Ok(())
        }
    }

    /// An earlier group whose outcome is unknown is written first: its callers may have sent later operations since.
    fn finish_pending(&mut self) -> Result<(), LogFault> {
        if self.pending.is_some() {
            let outcomes = self.drive()?;
            self.others.extend(outcomes);
        }
        Ok(())
    }

    /// Tries until the pending group is in the log.
    fn drive(&mut self) -> Result<Vec<Outcome>, LogFault> {
        let until = self.objects.monotonic() + COMMIT_PATIENCE_MILLIS;
        let mut pause = FIRST_PAUSE;
        loop {
            self.check_open()?;
            let (n, bytes) = self.attempt()?;
            let began = self.objects.monotonic();
            let put = self.objects.put(&entry_name(n), &bytes, PutIf::Absent);
            let fault = match put {
                Ok(response) => {
                    self.clock.note_date(response.date);
                    self.pace.put = self.objects.monotonic().saturating_sub(began);
                    let entry = match response.value {
                        PutOutcome::Done => self.accepted(n, response.date, &bytes).map(Some),
                        PutOutcome::Failed => self.taken(n),
                    };
                    match entry {
                        Ok(Some((entry, born))) => return self.win(&entry, born),
                        Ok(None) => {
                            self.give_way()?;
                            continue;
                        }
                        Err(AttemptFault::Log(fault)) => return Err(fault),
                        Err(AttemptFault::Object(fault)) => fault,
                    }
                }
                Err(fault) => fault,
            };
            let e = fault.error();
            let now = self.objects.monotonic();
            if now >= until {
                return Err(LogFault::Busy(Error {
                    kind: Kind::Busy,
                    ..e
                }));
            }
            log::debug!("{e}; trying again n={n}");
            self.objects.wait(Duration::from_millis(
                pause / 2 + self.objects.random() % (pause / 2),
            ));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// After a lost race: the others that want to write are at it too.
    fn give_way(&mut self) -> Result<(), LogFault> {
        let longest = self.pace.lost(self.objects.monotonic());
        self.objects
            .wait(Duration::from_millis(self.objects.random() % (longest + 1)));
        if let Err(fault @ (LogFault::StartAgain(_) | LogFault::Final(_))) = self.catch_up() {
            return Err(fault);
        }
        Ok(self.drop_if_late(self.clock.now())?)
    }

    /// The number and the bytes to be tried: the same as before while the number is free.
    fn attempt(&mut self) -> Result<(u64, Vec<u8>), LogFault> {
        let n = self.position.n + 1;
        let before = self.store.counters().map_err(LogFault::Final)?;
        let now = self.clock.now();
        let hub = self.hub;
        let Some(pending) = &mut self.pending else {
            return Err(LogFault::Final(Error::new(
                Kind::Failed,
                "no group is to be written",
            )));
        };
        match &pending.attempt {
            Some((at, bytes)) if *at == n => Ok((n, bytes.clone())),
            _ => {
                let entry = LogEntry {
                    format: FORMAT,
                    behaviour: BEHAVIOUR,
                    n,
                    nonce: pending.nonce,
                    hub,
                    now,
                    wall: now,
                    limits: pending.limits,
                    before,
                    placed: pending.placed.clone(),
                    ops: pending.ops.clone(),
                };
                let bytes = entry.encode();
                pending.attempt = Some((n, bytes.clone()));
                Ok((n, bytes))
            }
        }
    }

    /// The store has accepted our entry: the entry, with the time of its birth.
    fn accepted(&self, n: u64, date: u64, bytes: &[u8]) -> Result<(LogEntry, u64), AttemptFault> {
        self.check_floor(n, date)?;
        Ok((self.decode(n, bytes)?, date))
    }

    /// The error if the number is below the floor, where no hub reads any more: possible only after a long sleep.
    fn check_floor(&self, n: u64, date: u64) -> Result<(), AttemptFault> {
        if !self.is_fresh(date) && self.floor()? >= n {
            return Err(self.behind());
        }
        Ok(())
    }

    /// The number is taken. Our own entry, with the time of its birth; `None`: another one, which is applied now.
    fn taken(&mut self, n: u64) -> Result<Option<(LogEntry, u64)>, AttemptFault> {
        let name = entry_name(n);
        let response = self.objects.get(&name).map_err(AttemptFault::Object)?;
        self.clock.note_date(response.date);
        let Some(object) = response.value else {
            // it was removed: the floor says so
            if self.floor()? >= n {
                return Err(self.behind());
            }
            let what = format!("cannot read {name}, which exists");
            let error = Error::new(Kind::Unreachable, what);
            return Err(AttemptFault::Object(ObjectFault::Unknown(error)));
        };
        let entry = self.decode(n, &object.bytes)?;
        let is_ours = self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.nonce == entry.nonce);
        if is_ours {
            self.check_floor(n, response.date)?;
            return Ok(Some((entry, object.modified)));
        }
        self.apply_other(&entry, object.modified)?;
        self.drop_if_late(response.date)?;
        Ok(None)
    }

    /// Gives up a group that is in the log at no number for certain and whose callers were told long ago that its outcome is not
    /// known: what they have done since must not be undone by it.
    fn drop_if_late(&mut self, date: u64) -> Result<(), AttemptFault> {
        let is_late =
            |group: &mut PendingGroup| date.saturating_sub(group.begun) > COMMIT_PATIENCE_MILLIS;
        match self.pending.take_if(is_late) {
            Some(_) => {
                let what = "cannot write to the log of the bucket: it did not respond in time";
                let error = Error::new(Kind::Busy, what);
                Err(AttemptFault::Log(LogFault::Busy(error)))
            }
            None => Ok(()),
        }
    }

    /// Applies our own entry, as it was read.
    fn win(&mut self, entry: &LogEntry, born: u64) -> Result<Vec<Outcome>, LogFault> {
        (self.on_written)();
        let outcomes = self.apply(entry, born)?;
        if let Some(pending) = self.pending.take() {
            self.store.cache_staged(&pending.ops);
        }
        self.pace.won(self.objects.monotonic());
        // nothing came after it when it was written
        self.clock.reached_end();
        Ok(outcomes)
    }

    /// Reads the next entry and applies it.
    fn read_next(&mut self) -> Result<LogAdvance, LogFault> {
        let n = self.position.n + 1;
        let began = self.objects.monotonic();
        let response = self
            .objects
            .get(&entry_name(n))
            .map_err(|fault| LogFault::Busy(fault.busy()))?;
        self.clock.note_date(response.date);
        self.pace.get = self.objects.monotonic().saturating_sub(began);
        let read = match response.value {
            Some(object) => self
                .decode(n, &object.bytes)
                .and_then(|entry| self.apply_other(&entry, object.modified))
                .map(|()| LogAdvance::Entry),
            None => self.end(n, response.date),
        };
        Ok(read?)
    }

    /// There is no entry `n`: the end, unless this hub has slept so long that the entry was removed.
    fn end(&mut self, n: u64, date: u64) -> Result<LogAdvance, AttemptFault> {
        self.check_floor(n, date)?;
        self.seen = Some(self.seen.unwrap_or(0).max(date));
        self.clock.reached_end();
        Ok(LogAdvance::End)
    }

    fn is_fresh(&self, date: u64) -> bool {
        self.seen
            .is_some_and(|seen| date.saturating_sub(seen) < LOG_KEPT / 2)
    }

    /// Entries up to this number may have been removed.
    fn floor(&self) -> Result<u64, AttemptFault> {
        let response = read_floor(self.objects.as_ref()).map_err(AttemptFault::Object)?;
        self.clock.note_date(response.date);
        Ok(response.value)
    }

    fn behind(&self) -> AttemptFault {
        let what = format!(
            "cannot continue after entry {} of the log: the next ones were removed while this hub was away",
            self.position.n
        );
        AttemptFault::Log(LogFault::StartAgain(Error::new(Kind::Failed, what)))
    }

    fn decode(&self, n: u64, bytes: &[u8]) -> Result<LogEntry, AttemptFault> {
        let entry = LogEntry::decode(bytes).and_then(|entry| {
            if entry.n == n {
                Ok(entry)
            } else {
                Err(format!("it says that it is entry {}", entry.n))
            }
        });
        entry.map_err(|why| {
            let what = format!("cannot use entry {n} of the log in the bucket: {why}");
            let error = Error::new(Kind::Damaged, what)
                .hint("update this hub; see \"Several hubs\" in mesync(7)");
            AttemptFault::Log(LogFault::Final(error))
        })
    }

    fn apply_other(&mut self, entry: &LogEntry, born: u64) -> Result<(), AttemptFault> {
        self.pace.saw(entry.hub, self.objects.monotonic());
        let outcomes = self.apply(entry, born).map_err(AttemptFault::Log)?;
        self.others.extend(outcomes);
        Ok(())
    }

    fn apply(&mut self, entry: &LogEntry, born: u64) -> Result<Vec<Outcome>, LogFault> {
        let now = self.objects.monotonic();
        let durable = now.saturating_sub(self.synced) >= SYNC_INTERVAL;
        let outcomes = self.store.apply_entry(entry, durable).map_err(|not| match not {
            NotApplied::Failed(e) => LogFault::Final(e),
            NotApplied::Diverged { ours, theirs } => {
                let what = format!(
                    "cannot apply entry {}: this hub's tables differ from those of the hub that wrote it ({ours:?}, {theirs:?})",
                    entry.n
                );
                self.store.set_aside();
                LogFault::StartAgain(Error::new(Kind::Damaged, what))
            }
        })?;
        if durable {
            self.synced = now;
        }
        self.polls.interval = SHORTEST_POLL_MILLIS;
        self.position = entry.position();
        self.seen = Some(born);
        self.clock.at_least(entry.now);
        self.closed |= entry.ops.contains(&Op::Log(LogOp::Close));
        Ok(outcomes)
    }

    fn draw(&self) -> Uuid {
        Uuid::from_u64_pair(self.objects.random(), self.objects.random())
    }
}

impl Log for SharedLog {
    fn clock(&self) -> HubClock {
        let clock = Arc::clone(&self.clock);
        Arc::new(move || clock.now())
    }

    fn await_turn(&mut self) {
        let left = (self.pace.hold_until).saturating_sub(self.objects.monotonic());
        if left > 0 {
            self.objects.wait(Duration::from_millis(left));
        }
    }

    fn commit(&mut self, group: Group) -> Result<Committed, LogFault> {
        self.check_open()?;
        self.finish_pending()?;
        let mut placed: Vec<ChunkObject> = Vec::new();
        for (chunk, bytes) in group.ops.iter().flat_map(Op::chunks) {
            if let Bytes::Staged(staged) = bytes
                && let Some(name) = staged.object()
                && placed.iter().all(|object| object.name != *name)
            {
                placed.push(ChunkObject {
                    name: name.clone(),
                    size: chunk.size,
                });
            }
        }
        self.pending = Some(PendingGroup {
            begun: self.clock.now(),
            nonce: self.draw(),
            limits: group.limits,
            ops: group.ops,
            placed,
            attempt: None,
        });
        let outcomes = self.drive()?;
        self.check_open()?;
        Ok(Committed {
            outcomes,
            others: std::mem::take(&mut self.others),
        })
    }

    fn follow(&mut self) -> Result<Committed, LogFault> {
        self.polls.last = self.objects.monotonic();
        self.polls.interval = (self.polls.interval * 2).min(self.polls.longest);
        self.finish_pending()?;
        self.catch_up()?;
        self.check_open()?;
        Ok(Committed {
            outcomes: Vec::new(),
            others: std::mem::take(&mut self.others),
        })
    }

    fn next_poll(&self) -> Option<Duration> {
        let since = self.objects.monotonic().saturating_sub(self.polls.last);
        Some(Duration::from_millis(
            self.polls.interval.saturating_sub(since),
        ))
    }

    fn flush_intervals(&self) -> [u64; 2] {
        [ACK_INTERVAL, FLUSH_INTERVAL]
    }

    fn uploader(&self) -> Option<Arc<dyn Uploader>> {
        Some(Arc::clone(&self.chunks) as Arc<dyn Uploader>)
    }
}

/// Why an attempt did not end.
enum AttemptFault {
    Object(ObjectFault),
    Log(LogFault),
}

impl From<AttemptFault> for LogFault {
    fn from(fault: AttemptFault) -> LogFault {
        match fault {
            AttemptFault::Log(fault) => fault,
            AttemptFault::Object(fault) => LogFault::Busy(fault.busy()),
        }
    }
}
