//! The tick: exchanges messages between the spool and the hub whenever an event wakes it, and every few seconds in
//! any case.
//!
//! It owns outbox and inbox; hooks run elsewhere. Events are hints: the directories and the hub's log are the truth,
//! so any event may be lost.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use uuid::Uuid;

use super::identity::Identity;
use super::inbox::Inbox;
use super::outbox::sent::SentCleaner;
use super::outbox::{Batch, Outbox};
pub use super::tick_event::TickEvent;
use super::{lock, spool};
use crate::backoff::Backoff;
use crate::client::{Failure, HubClient, PullResult};
use crate::clock;
use crate::config::{Settings, limits};
use crate::error::{Error, Kind, Result};
use crate::logger::is_same_event;
use crate::wire::IdentityDoubt;

/// How long a hub that refuses this machine is not called: it allows 10 failed logins a minute.
pub const REFUSED: Duration = Duration::from_secs(30);
/// Minimum pause between two attempts, whatever wakes the tick.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// The name of the event stream among the parts of the work.
const STREAM: &str = "event stream";
/// How often the hub is asked for messages while its event stream is open.
const PULL_INTERVAL_WITH_STREAM: Duration = Duration::from_secs(60);
/// Interval between two runs of the cleanup.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(60);

/// Why messages were not exchanged.
enum ExchangeFault {
    /// A failure of the hub or of the connection.
    Hub(Failure),
    /// A failure of this machine.
    Disk(Error),
}

impl From<Failure> for ExchangeFault {
    fn from(failure: Failure) -> ExchangeFault {
        ExchangeFault::Hub(failure)
    }
}

impl From<Error> for ExchangeFault {
    fn from(error: Error) -> ExchangeFault {
        ExchangeFault::Disk(error)
    }
}

/// The message half of a client.
pub struct Exchange {
    base: PathBuf,
    outbox: Outbox,
    sent: SentCleaner,
    inbox: Inbox,
    hub: Arc<HubClient>,
    host: String,
    identity: Identity,
    /// The last doubt of the hub about this machine's identity.
    doubt: Option<IdentityDoubt>,
    poll_interval: Duration,
    /// Wakes the thread that runs the hooks.
    hooks: Sender<()>,
    arrived: Vec<(OsString, bool)>,
    scan: bool,
    pull: bool,
    /// The event stream is open.
    is_listening: bool,
    not_before: Instant,
    /// When the last attempt failed, if it did.
    failed_at: Option<Instant>,
    backoff: Backoff,
    /// The last problem with the hub that was logged; for `mesync status`, and to log it once.
    trouble: Option<String>,
    /// Problems with this machine's disk, by the part of the work; each is logged once, and passed to `mesync
    /// status`.
    wrong: BTreeMap<&'static str, String>,
    /// The hub has answered.
    has_reached: bool,
    /// What the lock file says now of the start and the problems.
    told: Option<Option<String>>,
}

impl Exchange {
    /// Opens the spool under the base directory, which exists, and finishes what a crash interrupted.
    pub fn open(settings: &Settings, hub: Arc<HubClient>, hooks: Sender<()>) -> Result<Exchange> {
        let base = &settings.base_dir;
        let mut outbox = Outbox::new(
            base,
            &settings.host_id,
            settings.send_deadline,
            !settings.sent_ttl.is_zero(),
        );
        outbox.recover()?;
        Ok(Exchange {
            base: base.clone(),
            outbox,
            sent: SentCleaner::new(base, settings.sent_ttl),
            inbox: Inbox::open(base, clock::now())?,
            hub,
            host: settings.host_id.clone(),
            identity: Identity::begin(base)?,
            doubt: None,
            poll_interval: settings.poll_interval,
            hooks,
            arrived: Vec::new(),
            scan: true,
            pull: true,
            is_listening: false,
            not_before: clock::monotonic(),
            failed_at: None,
            backoff: Backoff::new(Duration::from_secs(60)),
            trouble: None,
            wrong: BTreeMap::new(),
            has_reached: false,
            told: None,
        })
    }

    /// Runs until told to stop. `working` is called when work begins and ends.
    pub fn run(mut self, events: &Receiver<TickEvent>, working: impl Fn(bool)) -> Result<()> {
        let mut next_tick = clock::monotonic();
        let mut next_pull = next_tick;
        let mut next_cleaning = next_tick;
        // the file may be about another hub
        self.tell();
        loop {
            working(true);
            let now = clock::monotonic();
            if now >= next_tick {
                let mended = self.mend();
                self.judge("directories", mended);
                if !self.is_listening || now >= next_pull {
                    self.pull = true;
                    next_pull = now + PULL_INTERVAL_WITH_STREAM;
                }
                self.scan |= self.outbox.may_have_changed();
                next_tick = now + self.poll_interval;
            }
            if now >= next_cleaning || self.sent.is_in_a_round() {
                let cleaned = self.sent.turn(clock::now());
                if self.judge("cleaning", cleaned) != Some(false) {
                    let pruned = self.inbox.prune();
                    self.judge("pruning", pruned);
                    next_cleaning = now + HOUSEKEEPING_INTERVAL;
                }
            }
            let looked = self.look();
            let due = self.judge("outbox", looked).flatten();
            if now >= self.not_before {
                self.exchange(|| events.is_empty());
            }
            self.tell();
            working(false);
            let mut until = due.map_or(next_tick, |due| due.min(next_tick));
            if self.sent.is_in_a_round() {
                until = now;
            }
            if self.not_before > now && (self.pull || !self.outbox.is_empty()) {
                until = until.min(self.not_before);
            }
            match events.recv_timeout(until.saturating_duration_since(clock::monotonic())) {
                Ok(event) => {
                    for event in [event].into_iter().chain(events.try_iter()) {
                        if self.note(event) {
                            return Ok(());
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// One full pass, for cron: sends and receives everything that is possible now. The first failure of the hub ends it.
    /// Returns why files remain in the outbox, if they do; the log has the details.
    pub fn once(mut self) -> Result<Option<Kind>> {
        let end = clock::monotonic() + super::plan::MIN_UNTOUCHED_TIME + Duration::from_millis(100);
        while let Some(due) = self.look()?.filter(|due| *due <= end) {
            // for a file that was written just before; no event will wake this thread
            std::thread::park_timeout(due.saturating_duration_since(clock::monotonic()));
        }
        while self.step().map_err(|fault| match fault {
            ExchangeFault::Hub(failure) => failure.error,
            ExchangeFault::Disk(e) => e,
        })? {
            // a message that was just sent may be for this machine
            self.pull = true;
            self.tell();
        }
        while !self.sent.turn(clock::now())? {}
        self.inbox.prune()?;
        Ok(self.outbox.failure())
    }

    /// Handles an event; `true`: stop.
    fn note(&mut self, event: TickEvent) -> bool {
        match event {
            TickEvent::Arrived(name) => self.arrived.push((name, true)),
            TickEvent::Written(name) => self.arrived.push((name, false)),
            TickEvent::Overflow => self.scan = true,
            TickEvent::StreamClosed => self.is_listening = false,
            TickEvent::StreamRefused(why) => {
                self.is_listening = false;
                self.wrong.insert(STREAM, why);
            }
            TickEvent::Queued | TickEvent::StreamOpened => {
                // messages that were queued before are pulled now
                self.is_listening = true;
                self.wrong.remove(STREAM);
                self.pull = true;
                // the event stream of a hub whose other responses fail must not decide how often the hub is
                // called
                self.not_before = self.not_before.min(
                    self.failed_at
                        .map_or_else(clock::monotonic, |at| at + LEAST_PAUSE),
                );
            }
            TickEvent::Stop => return true,
        }
        false
    }

    /// Recreates directories that were removed while the client runs, and finishes what an error interrupted in the
    /// inbox.
    fn mend(&mut self) -> Result<()> {
        spool::create(&self.base)?;
        self.identity.restore(&self.base)?;
        if self.inbox.settle()? > 0 {
            let _ = self.hooks.try_send(());
        }
        self.inbox.restore()
    }

    /// Records whether a part of the work succeeded. An error of the disk ends nothing, because a restart would meet the
    /// same disk. The work remains to be done.
    fn judge<T>(&mut self, part: &'static str, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(done) => {
                self.wrong.remove(part);
                Some(done)
            }
            Err(e) => {
                let words = e.to_string();
                if self
                    .wrong
                    .get(part)
                    .is_none_or(|said| !is_same_event(said, &words))
                {
                    log::warn!("{words}; retrying");
                }
                self.wrong.insert(part, words);
                self.scan = true;
                None
            }
        }
    }

    /// Reports the start and the problems to `mesync status`, in the lock file.
    fn tell(&mut self) {
        let wrong = self
            .trouble
            .iter()
            .cloned()
            .chain(self.wrong.values().cloned())
            .chain(self.outbox.trouble());
        let wrong = wrong.collect::<Vec<_>>().join("; ");
        let state = (self.has_reached || !wrong.is_empty()).then_some(wrong);
        if self.told.as_ref() == Some(&state) {
            return;
        }
        // if the disk refuses writes, status detects that itself
        self.told = lock::tell(&self.base, &self.host, state.as_deref())
            .is_ok()
            .then_some(state);
    }

    /// Scans the outbox; returns when to scan again without an event.
    fn look(&mut self) -> Result<Option<Instant>> {
        if std::mem::take(&mut self.scan) {
            self.outbox.scan()?;
        }
        self.outbox
            .look(std::mem::take(&mut self.arrived).into_iter())?;
        self.outbox.look_again()
    }

    /// Exchanges messages with the hub until nothing is left to do, a call fails, or an event has arrived.
    fn exchange(&mut self, undisturbed: impl Fn() -> bool) {
        loop {
            match self.step() {
                Ok(true) if undisturbed() => {}
                Ok(_) => break,
                Err(ExchangeFault::Disk(e)) => {
                    self.judge::<()>("inbox", Err(e));
                    let now = clock::monotonic();
                    (self.not_before, self.failed_at) =
                        (now + self.backoff.next(random()), Some(now));
                    self.pull = true;
                    return;
                }
                Err(ExchangeFault::Hub(failure)) => return self.failed(failure),
            }
        }
        self.wrong.remove("inbox");
    }

    /// One request for messages and one with messages; `true`: there may be more.
    fn step(&mut self) -> std::result::Result<bool, ExchangeFault> {
        let (mut more, mut asked, mut untaken) = (false, self.pull, None);
        // the pull first: it shows whether the hub accepts this machine, and a wrong key must not fail
        // the messages
        if self.pull {
            // before the pull acknowledges: later messages must not overtake those that an error
            // has held up
            if self.inbox.settle()? > 0 {
                let _ = self.hooks.try_send(());
            }
            let cursor = self.inbox.cursor();
            let most = limits::PULL_SIZE;
            let (instance, run) = (self.identity.instance, self.identity.run);
            let pulled = (self.hub).pull(&self.host, instance, run, cursor, most);
            let pulled = match pulled {
                Err(failure) if failure.lacks_right() => Err(failure.error),
                pulled => Ok(pulled?),
            };
            match self.judge("pull", pulled) {
                // messages to be sent need not wait for it
                None => self.pull = false,
                Some(PullResult::OtherEpoch) => {
                    log::warn!(
                        "hub was restored or replaced; fetching all messages that it has url={}",
                        self.hub.url()
                    );
                    self.inbox.forget_cursor();
                    more = true;
                }
                Some(PullResult::Page(page)) => {
                    let said = std::mem::replace(&mut self.doubt, page.doubt);
                    if let Some(doubt) = page.doubt.filter(|doubt| said != Some(*doubt)) {
                        log::warn!("{}", doubt.words(&self.host));
                    }
                    match self.inbox.receive(&page, clock::now()) {
                        Ok(received) => {
                            if received.messages > 0 {
                                log::debug!("received messages count={}", received.messages);
                            }
                            if received.hooks > 0 {
                                let _ = self.hooks.try_send(());
                            }
                            // the next pull acknowledges this one
                            self.pull = !page.messages.is_empty();
                            more |= self.pull;
                        }
                        // pending messages need not wait for it
                        Err(e) => untaken = Some(e),
                    }
                }
            }
        }
        if let Some(batch) = self.outbox.batch()? {
            asked = true;
            self.send(&batch)?;
            more = true;
        }
        match untaken {
            Some(e) => Err(ExchangeFault::Disk(e)),
            None => {
                if asked {
                    self.reached();
                }
                Ok(more)
            }
        }
    }

    fn send(&mut self, batch: &Batch) -> std::result::Result<(), ExchangeFault> {
        match self
            .hub
            .post(&batch.texts, batch.places.iter().map(|place| place.2))
        {
            Ok(results) => {
                let sent = self.outbox.answered(batch, &results, random());
                log::debug!("sent messages count={sent}");
                Ok(())
            }
            Err(failure) => match failure.status {
                // the pull before has told that the key is known
                403 if failure.lacks_right() => {
                    self.outbox.refused(batch, &failure.error);
                    Ok(())
                }
                400 | 413 | 422 => {
                    self.outbox.refused(batch, &failure.error);
                    Ok(())
                }
                _ => {
                    if failure.status == 0 {
                        self.outbox.timed_out();
                    }
                    Err(failure.into())
                }
            },
        }
    }

    fn reached(&mut self) {
        self.has_reached = true;
        self.backoff.reset();
        self.failed_at = None;
        if self.trouble.take().is_some() {
            log::info!("hub is reachable again url={}", self.hub.url());
        }
    }

    /// Waits before the next attempt. An unreachable hub is called as often as a reachable one.
    fn failed(&mut self, failure: Failure) {
        let backoff = self.backoff.next(random());
        let wait = match (failure.error.kind, failure.status) {
            (_, 0) | (Kind::Unreachable, _) => backoff.min(self.poll_interval),
            (Kind::Refused, _) => REFUSED,
            _ => failure
                .retry_after
                .unwrap_or(backoff)
                .min(Duration::from_secs(300)),
        };
        let now = clock::monotonic();
        (self.not_before, self.failed_at) = (now + wait, Some(now));
        self.pull = true;
        let words = failure.error.to_string();
        if self
            .trouble
            .as_ref()
            .is_none_or(|said| !is_same_event(said, &words))
        {
            log::warn!("{words}; messages wait; retrying");
        }
        self.trouble = Some(words);
    }
}

fn random() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}
