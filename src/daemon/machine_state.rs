//! Thread `state`: determines the state of this machine, and sends it to the hub if no pull or poll has done so recently. It also
//! asks for approvals of deletes ([`super::approvals`]).
//!
//! It reads the files that the parts write for `mesync status`. No other thread waits for it: a pull sends the latest known
//! state, or none if that is old.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::approvals::SharedApprovals;
use crate::client::HubClient;
use crate::clock;
use crate::config::watch::WatchSettings;
use crate::error::{Error, Kind, Result};
use crate::files::overview::{self, DirectoryRow};
use crate::files::status::DirectoryCondition;
use crate::logger::counted;
use crate::messages::exchange::REFUSED;
use crate::messages::lock::{self, Client};
use crate::messages::spool::survey::{self, is_behind, survey, unwritable};
use crate::messages::{Queue, hooks};
use crate::wire::fleet::{MAX_STATE_AGE, MachineState, STATE_INTERVAL};

/// How often the state is determined.
const READ_INTERVAL: Duration = Duration::from_secs(2);
/// The same where that takes long, as with 100,000 messages in the outbox: at most one part in
/// [`READ_SHARE`] of the time is used, up to this interval.
const MAX_READ_INTERVAL: Duration = Duration::from_secs(15);
const READ_SHARE: u32 = 50;

/// The current directories of the client.
pub type SharedWatches = Arc<Mutex<Vec<WatchSettings>>>;

/// The work of the thread: the directories to examine, and the servers that receive the state.
pub struct MachineStates {
    base_dir: PathBuf,
    watched: SharedWatches,
    latest: Arc<Mutex<Option<MachineHeader>>>,
    /// The servers that receive the state.
    hubs: Vec<Listener>,
    approvals: SharedApprovals,
}

struct MachineHeader {
    header: String,
    read: Instant,
}

struct Listener {
    hub: Arc<HubClient>,
    /// The time and state of the last request that had one. At first the time of the start, with no
    /// state: the first pull or poll carries it, and makes the machine known for messages as well.
    sent: Arc<Mutex<(Instant, Option<String>)>>,
    not_before: Instant,
}

impl MachineStates {
    /// Makes both clients send the state with each pull and poll from now on.
    pub fn new(
        (base_dir, watched): (&Path, SharedWatches),
        clients: (&Arc<HubClient>, &Arc<HubClient>),
    ) -> MachineStates {
        let latest: Arc<Mutex<Option<MachineHeader>>> = Arc::default();
        let mut hubs = vec![clients.0];
        if !Arc::ptr_eq(clients.0, clients.1) {
            hubs.push(clients.1);
        }
        let hubs = hubs.into_iter().map(|hub| {
            let latest = latest.clone();
            let sent = Arc::new(Mutex::new((clock::monotonic(), None)));
            let noted = sent.clone();
            hub.tell_with_polls(Box::new(move || {
                let header = fresh(&latest)?;
                let now = clock::monotonic();
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = (now, Some(header.clone()));
                Some(header)
            }));
            Listener {
                hub: hub.clone(),
                sent,
                not_before: clock::monotonic(),
            }
        });
        MachineStates {
            base_dir: base_dir.to_path_buf(),
            watched,
            hubs: hubs.collect(),
            latest,
            approvals: SharedApprovals::new(clients.1.clone()),
        }
    }

    /// Runs until the channel is closed.
    pub fn run(mut self, stopped: &Receiver<()>) -> Result<()> {
        loop {
            let began = clock::monotonic();
            self.read();
            let pause = (began.elapsed() * READ_SHARE).clamp(READ_INTERVAL, MAX_READ_INTERVAL);
            let latest = fresh(&self.latest);
            for listener in &mut self.hubs {
                listener.tell(latest.as_deref());
            }
            self.approvals.fetch(&self.base_dir);
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return Ok(()),
            }
        }
    }

    fn read(&self) {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = watched.clone();
        let latest = MachineHeader {
            header: state(&self.base_dir, &watched).header(),
            read: clock::monotonic(),
        };
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(latest);
    }
}

/// The latest state, unless it is old.
fn fresh(latest: &Mutex<Option<MachineHeader>>) -> Option<String> {
    let latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
    let fresh = latest.as_ref().filter(|l| l.read.elapsed() < MAX_STATE_AGE);
    fresh.map(|latest| latest.header.clone())
}

impl Listener {
    /// Sends the state in its own request if it is new, or if no request has sent it for [`STATE_INTERVAL`].
    fn tell(&mut self, latest: Option<&str>) {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, header) = &*sent;
        let is_new = header.is_some() && latest.is_some_and(|now| header.as_deref() != Some(now));
        let due = is_new || at.elapsed() >= STATE_INTERVAL;
        drop(sent);
        if !due || clock::monotonic() < self.not_before {
            return;
        }
        if let Err(failure) = self.hub.tell_state() {
            log::debug!("cannot send the state of this machine: {}", failure.error);
            // do not repeat a wrong key often; a server that is not a hub stores no states
            if !matches!(failure.error.kind, Kind::Unreachable | Kind::Busy) {
                self.not_before = clock::monotonic() + REFUSED;
            }
        }
    }
}

fn state(base: &Path, watched: &[WatchSettings]) -> MachineState {
    let all = overview::rows(base, watched);
    // directories without settings are no longer synced
    let rows = || {
        all.iter()
            .filter(|row| row.configured || row.process.is_some() || row.died)
    };
    let outbox = survey(base, Queue::Outbox).unwrap_or_default();
    let records = hooks::list(base).unwrap_or_default();
    let mut state = MachineState {
        version: env!("CARGO_PKG_VERSION").into(),
        trouble: None,
        pending: outbox.count as u64 + rows().map(pending).sum::<u64>(),
        held_deletes: rows().map(|row| row.held_deletes).sum(),
        conflict_copies: rows().map(|row| row.conflict_copies).sum(),
        failed_messages: survey::count(base, Queue::Failed).unwrap_or(0),
        failed_hooks: records.iter().filter(|r| r.is_failed()).count() as u64,
    };
    let behind = is_behind(outbox.oldest).then(|| "the outbox is behind".to_string());
    let counts = [
        (state.failed_messages, "message", "failed"),
        (state.failed_hooks, "hook", "failed"),
    ];
    let counts = counts.into_iter().filter(|(n, ..)| *n > 0);
    let counts = counts.map(|(n, noun, how)| format!("{} {how}", counted(n, noun)));
    let troubles: Vec<String> = of_messages(base)
        .into_iter()
        .chain(rows().filter_map(trouble))
        .chain(behind)
        .chain(counts)
        .collect();
    state.trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
    state
}

/// The problem of the client of messages; a stopped one is no problem.
fn of_messages(base: &Path) -> Option<String> {
    let unwritable = || {
        let (dir, e) = unwritable(base)?;
        Some(Error::io(format!("write to {}", dir.display()), &e).to_string())
    };
    match lock::read(base).0 {
        Client::Running { problem, .. } => problem.or_else(unwritable),
        Client::Failed(why) => Some(format!("the client of messages has failed: {why}")),
        Client::Died { process } => Some(format!(
            "the client of messages (process {process}) has died"
        )),
        Client::Stopped => None,
    }
}

/// The pending paths; at least one for a directory that is not known to be in sync.
fn pending(row: &DirectoryRow) -> u64 {
    let known = row.process.is_some() && row.is_in_sync();
    row.pending.max(u64::from(!known))
}

/// Why a directory needs a person's attention.
fn trouble(row: &DirectoryRow) -> Option<String> {
    let cannot = matches!(
        row.condition,
        DirectoryCondition::Stuck | DirectoryCondition::Held | DirectoryCondition::Failed
    );
    let first = row.unsyncable.iter().chain(&row.waiting).next();
    let why = match (row.problems.first(), first) {
        (Some(problem), _) => problem.clone(),
        (None, Some(path)) => format!("{}: {}", path.path, path.why),
        (None, None) if row.unwatched > 0 => "not all of it is watched".into(),
        (None, None) if cannot => "not in sync".into(),
        (None, None) => return None,
    };
    Some(format!("{}: {why}", row.dir))
}
