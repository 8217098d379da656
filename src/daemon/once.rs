//! One pass over one directory, for cron and for `--dry-run`: until it is in sync, or nothing more
//! can be done now.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::directories::{adopt, private, start_workers};
use super::report::Reporter;
use super::threads::scoped;
use crate::client::HubClient;
use crate::clock;
use crate::config::Settings;
use crate::config::watch::WatchSettings;
use crate::error::{Error, Kind, Result};
use crate::files::directory::{
    Directory, DirectoryContext, DryRunState, OpenedDirectory, ProcessWide,
};
use crate::files::stats::Facts;
use crate::files::status::StatusFiles;
use crate::files::trash;
use crate::files::tree::marker;
use crate::files::watch::WatchCounters;

/// The interval between two updates of the progress.
const PROGRESS_REDRAW_INTERVAL: Duration = Duration::from_millis(200);
/// The pause between two attempts at waiting paths is this times their number.
const RETRY_STEP: Duration = Duration::from_millis(3);
/// How often the hub is polled for further deletes while some wait for the end of their burst.
const FEED_IN_BURST: Duration = Duration::from_millis(250);
/// How often waiting paths are retried before they are left to another pass.
const MAX_PASS_ATTEMPTS: u32 = 20;

/// The progress of a pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassProgress {
    pub done: u64,
    pub due: u64,
    /// Bytes that were transferred in both directions.
    pub bytes: u64,
}

/// The result of a pass.
#[derive(Debug)]
pub struct PassResult {
    in_sync: bool,
    pub facts: Facts,
    /// Paths that are not in sync, including those that the guard holds.
    pub remaining: usize,
    /// Deletes that the guard holds.
    pub held: usize,
    /// Bytes that were transferred.
    pub sent: u64,
    pub received: u64,
    pub trouble: Option<Error>,
}

impl PassResult {
    /// Merges the result with that of an earlier pass over the same directory.
    pub fn after(mut self, first: &PassResult) -> PassResult {
        self.facts.counts.add(&first.facts.counts);
        self.sent += first.sent;
        self.received += first.received;
        self
    }

    /// Why the directory is not in sync; `None`: it is.
    pub fn failure(&self) -> Option<Kind> {
        let kinds = self
            .trouble
            .iter()
            .map(|e| e.kind)
            .chain(self.facts.kinds());
        (!self.in_sync).then(|| Kind::worst(kinds).unwrap_or(Kind::Failed))
    }
}

/// Opens a directory for a pass. It stays open, and among the neighbours, until all directories
/// have passed.
pub fn open(
    settings: &Settings,
    watch: &WatchSettings,
    (hub, process): (&Arc<HubClient>, &Arc<ProcessWide>),
    allow_deletes: bool,
) -> Result<(Box<Directory>, StatusFiles)> {
    let private = private(settings);
    let context = DirectoryContext {
        base_dir: &settings.base_dir,
        server: hub.server_url(),
        private: &private,
        process,
        events: &Arc::default(),
    };
    let files = StatusFiles::beside(context.state_file(watch));
    adopt(&files, &settings.base_dir, watch)?;
    match Directory::open(&context, watch, hub.clone(), allow_deletes)? {
        OpenedDirectory::Ready(directory) => Ok((directory, files)),
        OpenedDirectory::Held(why) => {
            let e = marker::held(&watch.path, &why);
            Reporter::new(files, watch, hub.server_url())
                .trouble(crate::files::status::DirectoryCondition::Held, &e);
            Err(e)
        }
    }
}

/// Opens a directory for [`Directory::preview`]. Nothing is changed: no state, no marker, no
/// request; another process may be syncing it.
pub fn open_to_look(
    settings: &Settings,
    watch: &WatchSettings,
    hub: &Arc<HubClient>,
) -> Result<Box<Directory>> {
    let private = private(settings);
    let context = DirectoryContext {
        base_dir: &settings.base_dir,
        server: hub.server_url(),
        private: &private,
        process: &Arc::default(),
        events: &Arc::default(),
    };
    let start = if StatusFiles::beside(context.state_file(watch)).adoption() {
        DryRunState::Empty
    } else {
        DryRunState::Known
    };
    match Directory::open_to_look(&context, watch, hub.clone(), start)? {
        OpenedDirectory::Ready(directory) => Ok(directory),
        OpenedDirectory::Held(why) => Err(marker::held(&watch.path, &why)),
    }
}

/// Brings the directory into sync. Errors: the hub cannot be reached, or the directory was
/// replaced.
pub fn run(
    d: &Directory,
    files: StatusFiles,
    server: &str,
    show: &dyn Fn(PassProgress),
) -> Result<PassResult> {
    let mut reporter = Reporter::new(files, &d.settings, server);
    reporter.approve(d);
    d.clear_left_over()?;
    d.feed()?;
    let mut trouble = None;
    std::thread::scope(|scope| {
        let started = start_workers(scope, d);
        if started.is_ok() {
            // a scan of many files sometimes waits for room in the queue, and the progress must be
            // shown meanwhile
            let rescan = scoped(
                scope,
                "rescan",
                |e| d.fail(e),
                move || match d.rescan_all() {
                    Ok(()) => {}
                    Err(fault) => d.rescan_failed(fault),
                },
            );
            if let Ok(rescan) = rescan {
                while !rescan.is_finished() {
                    show(progress(d));
                    d.wakeup.pause(PROGRESS_REDRAW_INTERVAL);
                }
            }
            trouble = until_done(d, show);
        }
        d.wakeup.stop();
        started
    })?;
    if let Some(e) = d.fatal() {
        return Err(e);
    }
    if let Err(fault) = trash::expire(&d.tree, &d.state) {
        log::debug!("{}", Error::from(fault));
    }
    let facts = d.stats.facts();
    let passed = PassResult {
        in_sync: d.is_in_sync(&facts),
        facts,
        remaining: d.engine.due(),
        held: d.engine.held(),
        sent: d.traffic.sent.load(Relaxed),
        received: d.traffic.received.load(Relaxed),
        trouble: d.link.trouble().or(trouble),
    };
    reporter.report(d, &WatchCounters::default(), None);
    Ok(passed)
}

fn progress(d: &Directory) -> PassProgress {
    let bytes = d.traffic.sent.load(Relaxed) + d.traffic.received.load(Relaxed);
    PassProgress {
        done: d.stats.counts().all(),
        due: d.engine.active() as u64,
        bytes,
    }
}

/// Works as long as there is progress; returns the error that ended it, of the hub or of storing
/// its changes.
fn until_done(d: &Directory, show: &dyn Fn(PassProgress)) -> Option<Error> {
    let mut worked = None;
    while !d.wakeup.is_stopped() {
        until_quiet(d, show);
        if d.worked() == 0 && d.engine.due() == 0 && !d.wants_rescan() {
            // nothing to do, and nothing that could have changed that
            return None;
        }
        if d.take_rescan_wanted()
            && let Err(fault) = d.rescan_all()
        {
            d.rescan_failed(fault);
        }
        if !d.link.pause().is_zero() {
            return None;
        }
        if let Err(fault) = d.feed() {
            return Some(fault.into());
        }
        try_what_waits(d, show);
        let now = Some((d.worked(), d.engine.due()));
        let is_done = d.engine.active() == 0 && d.engine.due() == d.engine.held();
        if is_done && !d.wants_rescan() || now == worked {
            return None;
        }
        worked = now;
    }
    None
}

/// Retries waiting paths several times: two halves of a rename that are taken at the same moment
/// both wait for the other.
fn try_what_waits(d: &Directory, show: &dyn Fn(PassProgress)) {
    let before = d.worked();
    for n in 0..MAX_PASS_ATTEMPTS {
        d.engine.wake(false);
        d.wakeup.wake();
        until_quiet(d, show);
        if d.worked() != before
            || d.engine.active() == 0
            || d.is_paused()
            || !d.wakeup.pause(RETRY_STEP * n)
        {
            return;
        }
    }
}

fn until_quiet(d: &Directory, show: &dyn Fn(PassProgress)) {
    let mut next = clock::monotonic();
    let mut next_feed = next + FEED_IN_BURST;
    while !d.engine.is_quiet()
        && !d.is_paused()
        && d.wakeup.wait_until_done(PROGRESS_REDRAW_INTERVAL)
    {
        // deletes of another machine arrive one after the other
        if !d.end_of_burst().is_zero() && clock::monotonic() >= next_feed {
            // the last poll of the pass meets the same error
            let _ = d.feed();
            next_feed = clock::monotonic() + FEED_IN_BURST;
        }
        if clock::monotonic() >= next {
            next = clock::monotonic() + PROGRESS_REDRAW_INTERVAL;
            show(progress(d));
        }
    }
}
