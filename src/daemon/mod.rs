//! The running client: starts its threads, and ends them.
//!
//! It decides nothing about messages or files. Threads: `tick` owns the spool, `inotify` and `sse` wake it, `hooks` schedules
//! the `hook-N`; `sync-N` supervises the threads of one synced directory ([`directories`]), `requests` passes on requests of
//! users, `state` tells the hub how the machine is ([`machine_state`]). If a thread dies, [`ServicePart::fatal`] returns an error, and
//! the process ends.

pub mod directories;
pub mod once;
pub mod servers;

mod approvals;
mod control;
mod hooks;
mod machine_state;
mod outbox;
mod report;
mod requests;
mod session;
mod stream;
mod threads;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, never};

use crate::clock;
use crate::config::watch::WatchSettings;
use crate::config::{Settings, limits};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::files::directory::ProcessWide;
use crate::files::stats::Notification;
use crate::messages::exchange::{Exchange, TickEvent};
use crate::messages::hooks::HookRecord;
use crate::messages::hooks::run::HookRunner;
use crate::messages::hooks::schedule::Schedule;
use crate::messages::lock::Client;
use crate::messages::{local_events, lock, spool};
use crate::service::ServicePart;
use control::Control;
use directories::Supervisor;
use hooks::{run_hooks, schedule_hooks};
use machine_state::SharedWatches;
use session::{Controls, HubSession, each_control};
use threads::Threads;

/// How long running work may take to end before new settings are applied.
const SETTINGS_CHANGE_TIMEOUT: Duration = Duration::from_secs(20);
/// A thread that works on one item for longer counts as stuck.
const STUCK_THREAD_TIMEOUT: Duration = Duration::from_secs(300);

/// A running client.
pub struct Daemon {
    /// The settings in use.
    settings: Arc<Settings>,
    halves: ClientHalves,
    /// `None`: the client handles no messages.
    hooks: Option<Hooks>,
    exchange: HubSession,
    directories: Vec<RunningDirectory>,
    process: Arc<ProcessWide>,
    controls: Controls,
    watched: SharedWatches,
    /// The error of a part that did not restart.
    failed: Option<Error>,
    /// Some parts could not start for lack of descriptors, memory, threads or disk space; they are started as soon as
    /// possible.
    unfinished: bool,
    lock: Option<std::fs::File>,
}

/// The threads that run hooks; a change of settings does not end them, because it must not end
/// hooks.
struct Hooks {
    threads: Threads,
    /// Dropped to end `hooks`, and with it `hook-N`.
    stop: Option<Sender<()>>,
    wakeup: Sender<()>,
    /// The maximum seconds that a hook may run.
    timeout: Arc<AtomicU64>,
}

/// One synced directory.
struct RunningDirectory {
    watch: WatchSettings,
    control: Arc<Control>,
    threads: Threads,
}

/// Which halves of a client run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientHalves {
    Both,
    Files,
}

impl Daemon {
    /// Starts the client with the directories of the settings. If another client uses the base directory: `Busy`.
    pub fn start(settings: &Arc<Settings>, halves: ClientHalves) -> Result<Daemon> {
        let lock = if halves == ClientHalves::Both {
            Some(lock(settings)?.ok_or_else(|| another_client(settings))?)
        } else {
            None
        };
        let exchange = HubSession::new(servers::both(settings)?)?;
        let mut daemon = Daemon {
            settings: settings.clone(),
            halves,
            hooks: None,
            exchange,
            directories: Vec::new(),
            process: Arc::default(),
            controls: Controls::default(),
            watched: SharedWatches::default(),
            failed: None,
            unfinished: false,
            lock,
        };
        if let Err(e) = daemon.start_all() {
            daemon.failed = Some(e.clone());
            Box::new(daemon).stop(SETTINGS_CHANGE_TIMEOUT);
            return Err(e);
        }
        log::info!(
            "started host={} base={} server={}",
            settings.host_id,
            settings.base_dir.display(),
            settings.server_url
        );
        if disk::is_in_memory(&settings.base_dir) {
            log::warn!(
                "the base directory is in memory: a restart of the machine loses its messages and state; \
                 set MESYNC_BASE_DIR to a directory on a disk; base={}",
                settings.base_dir.display()
            );
        }
        Ok(daemon)
    }

    /// Starts every part that does not run. After an error, another call starts the rest.
    fn start_all(&mut self) -> Result<()> {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) =
            self.settings.watches.clone();
        if self.hooks.is_none() && self.halves == ClientHalves::Both {
            self.hooks = Some(Hooks::start(&self.settings)?);
        }
        let wakeup = self.hooks.as_ref().map(|hooks| hooks.wakeup.clone());
        for watch in self.settings.watches.clone() {
            if !self.directories.iter().any(|kept| kept.watch == watch) {
                let kept = self.keep(&watch, wakeup.clone())?;
                self.directories.push(kept);
            }
        }
        *self.controls.lock().unwrap_or_else(PoisonError::into_inner) = self
            .directories
            .iter()
            .map(|kept| kept.control.clone())
            .collect();
        self.exchange
            .start(&self.settings, wakeup, &self.controls, &self.watched)
    }

    fn keep(&self, watch: &WatchSettings, hooks: Option<Sender<()>>) -> Result<RunningDirectory> {
        let (base, host) = (
            self.settings.base_dir.clone(),
            self.settings.host_id.clone(),
        );
        let news = move |news: &Notification, watch: &WatchSettings| {
            if let Some(hooks) = &hooks
                && tell_hook(&base, &host, news, watch)
            {
                let _ = hooks.try_send(());
            }
        };
        let mut threads = Threads::default();
        let hub = self.exchange.of_files.clone();
        let supervisor = Supervisor::new(
            &self.settings,
            watch,
            hub,
            (threads.shared.clone(), self.process.clone()),
            Arc::new(news),
        );
        let control = supervisor.control.clone();
        let names: Vec<&str> = self
            .directories
            .iter()
            .filter_map(|kept| kept.threads.first_name())
            .collect();
        let name = (1..)
            .map(|n| format!("sync-{n}"))
            .find(|name| !names.contains(&name.as_str()))
            .unwrap_or_default();
        threads.spawn(&name, move || supervisor.run())?;
        Ok(RunningDirectory {
            watch: watch.clone(),
            control,
            threads,
        })
    }

    /// Applies other settings: restarts the parts that depend on a changed one.
    fn change(&mut self, mut new: Settings) -> Result<()> {
        for (key, changed) in [
            ("base_dir", new.base_dir != self.settings.base_dir),
            ("host_id", new.host_id != self.settings.host_id),
            ("hook_jobs", new.hook_jobs != self.settings.hook_jobs),
        ] {
            if changed {
                log::warn!("{key} has changed: restart the client to use it");
            }
        }
        let old = self.settings.clone();
        new.base_dir.clone_from(&old.base_dir);
        new.host_id.clone_from(&old.host_id);
        new.hook_jobs = old.hook_jobs;
        let new = Arc::new(new);
        // settings that only one part reads, or none of these
        let shared = |s: &Settings| {
            let (watches, hub) = (
                Vec::new(),
                crate::config::HubSettings {
                    data_dir: s.hub.data_dir.clone(),
                    ..Default::default()
                },
            );
            Settings {
                watches,
                hub,
                hook_timeout: Duration::ZERO,
                log: None,
                ..s.clone()
            }
        };
        // the stream reports files only if there is a directory
        let all = shared(&old) != shared(&new) || old.watches.is_empty() != new.watches.is_empty();
        // a mistake, or a shortage of descriptors, is to be found before anything is stopped
        let exchange = if all {
            Some(HubSession::new(servers::both(&new)?)?)
        } else {
            None
        };
        if let Some(hooks) = &self.hooks {
            hooks.timeout.store(new.hook_timeout.as_secs(), Relaxed);
        }
        let end = clock::monotonic() + SETTINGS_CHANGE_TIMEOUT;
        let stays = |kept: &RunningDirectory| !all && new.watches.contains(&kept.watch);
        let (stay, go): (Vec<_>, Vec<_>) = std::mem::take(&mut self.directories)
            .into_iter()
            .partition(stays);
        self.directories = stay;
        go.iter()
            .for_each(|kept| log::info!("stopped syncing dir={}", kept.watch.path.display()));
        if let Some(exchange) = exchange {
            // two threads that move messages would undo each other's work
            let ended = self
                .exchange
                .stop(end, || go.iter().for_each(RunningDirectory::tell_to_stop));
            if !ended {
                return Err(Error::new(
                    Kind::Failed,
                    "cannot apply the new settings: a thread of the old ones does not end",
                ));
            }
            self.exchange = exchange;
        }
        go.into_iter().for_each(|kept| kept.stop(end));
        self.settings = new;
        self.start_all()
    }
}

impl Hooks {
    fn start(settings: &Settings) -> Result<Hooks> {
        let ((stop, stopped), (wakeup, woken)) = (bounded::<()>(0), bounded(limits::WAKEUPS));
        let timeout = Arc::new(AtomicU64::new(settings.hook_timeout.as_secs()));
        let mut started = Hooks {
            threads: Threads::default(),
            stop: Some(stop),
            wakeup,
            timeout,
        };
        let (ended, runs) = bounded(settings.hook_jobs);
        let (jobs, work) = bounded::<HookRecord>(settings.hook_jobs);
        for n in 1..=settings.hook_jobs {
            let (work, ended, shared) =
                (work.clone(), ended.clone(), started.threads.shared.clone());
            let (base, timeout) = (settings.base_dir.clone(), started.timeout.clone());
            let setup = move || HookRunner {
                base: base.clone(),
                timeout: Duration::from_secs(timeout.load(Relaxed)),
            };
            started.threads.spawn(&format!("hook-{n}"), move || {
                run_hooks(&setup, &work, &ended, &|| shared.is_stopping())
            })?;
        }
        let schedule = Schedule::new(&settings.base_dir, settings.hook_jobs);
        started.threads.spawn("hooks", move || {
            schedule_hooks(schedule, &woken, &stopped, jobs, &runs, false)
        })?;
        Ok(started)
    }
}

impl RunningDirectory {
    fn tell_to_stop(&self) {
        self.threads.shared.stopping.store(true, Relaxed);
        self.control.stop();
    }

    fn stop(mut self, end: Instant) {
        self.tell_to_stop();
        let control = self.control.clone();
        self.threads.join(end, || control.stop());
    }
}

/// Runs the hook for an event of a directory, if there is one; returns whether there is.
fn tell_hook(
    base: &std::path::Path,
    host: &str,
    news: &Notification,
    watch: &WatchSettings,
) -> bool {
    let dir = watch.path.to_string_lossy();
    let (kind, payload) = match news {
        Notification::Changed { count, paths } => (
            "mesync.changed",
            serde_json::json!({ "dir": dir, "count": count, "paths": paths }),
        ),
        Notification::Conflict { path, copy } => (
            "mesync.conflict",
            serde_json::json!({ "dir": dir, "path": path, "copy": copy }),
        ),
        Notification::Held { count, paths } => (
            "mesync.held",
            serde_json::json!({ "dir": dir, "count": count, "paths": paths }),
        ),
    };
    local_events::announce(base, host, kind, payload).unwrap_or_else(|e| {
        log::warn!("cannot run the hook {kind}: {e}");
        false
    })
}

impl ServicePart for Daemon {
    fn alive(&self) -> bool {
        // the tick must end its current iteration; waiting counts as being alive
        let since = self.exchange.tick.since.load(Relaxed);
        since == 0 || self.exchange.tick.elapsed() - since < STUCK_THREAD_TIMEOUT.as_millis() as u64
    }

    fn fatal(&self) -> Option<Error> {
        let hooks = self.hooks.iter().map(|hooks| &hooks.threads);
        let mut all = hooks
            .chain([&self.exchange.threads])
            .chain(self.directories.iter().map(|kept| &kept.threads));
        self.failed
            .clone()
            .or_else(|| all.find_map(|threads| threads.shared.fatal()))
    }

    fn tend(&mut self) {
        if self.unfinished {
            match self.start_all() {
                Ok(()) => {
                    self.unfinished = false;
                    log::info!("applied the new settings");
                }
                Err(e) if e.kind == Kind::Busy => {}
                Err(e) => self.failed = Some(e),
            }
        }
    }

    /// Keys are read at each login.
    fn reload(&mut self, settings: Option<&Settings>) {
        if let Some(new) = settings.filter(|new| **new != *self.settings) {
            let before = self.settings.clone();
            if let Err(e) = self.change(new.clone()) {
                // nothing was stopped: the settings cannot be used
                let untouched = self.settings == before
                    && !self.exchange.threads.is_empty()
                    && self.directories.len() == before.watches.len();
                match e.kind {
                    _ if untouched => {
                        log::error!("cannot apply the new settings, keeping the old ones: {e}")
                    }
                    Kind::Busy => {
                        log::warn!("cannot apply the new settings yet: {e}; retrying");
                        self.unfinished = true;
                    }
                    _ => self.failed = Some(e),
                }
            }
        }
        if let Some(events) = &self.exchange.events {
            let _ = events.try_send(TickEvent::Overflow);
        }
        each_control(&self.controls, Control::asked);
    }

    fn stop(mut self: Box<Self>, grace: Duration) {
        let (end, failure) = (clock::monotonic() + grace, self.fatal());
        self.directories
            .iter()
            .for_each(RunningDirectory::tell_to_stop);
        if let Some(hooks) = &mut self.hooks {
            hooks.threads.shared.stopping.store(true, Relaxed);
            hooks.stop = None;
        }
        let directories = std::mem::take(&mut self.directories);
        self.exchange.stop(end, || {
            directories.iter().for_each(RunningDirectory::tell_to_stop)
        });
        directories.into_iter().for_each(|kept| kept.stop(end));
        if let Some(hooks) = &mut self.hooks {
            hooks.threads.join(end, || {});
        }
        if let Some(lock) = self.lock.take() {
            lock::end(&self.settings.base_dir, lock, failure.as_ref());
        }
    }
}

/// One full pass and the pending hooks, for cron, under the lock from [`lock()`]. Returns why messages remain in the outbox, if
/// they do.
pub fn once(settings: &Arc<Settings>, lock: std::fs::File) -> Result<Option<Kind>> {
    let passed = exchange_once(settings);
    lock::end(&settings.base_dir, lock, passed.as_ref().err());
    passed
}

fn exchange_once(settings: &Arc<Settings>) -> Result<Option<Kind>> {
    let hub = Arc::new(servers::messages(settings)?);
    let (wakeup, woken) = bounded(limits::WAKEUPS);
    let passed = Exchange::open(settings, hub, wakeup.clone())?.once();
    let (ended, runs) = bounded(settings.hook_jobs);
    let (jobs, work) = bounded::<HookRecord>(settings.hook_jobs);
    let setup = || HookRunner {
        base: settings.base_dir.clone(),
        timeout: settings.hook_timeout,
    };
    // hooks from before run even if the hub cannot be reached
    let hooked = std::thread::scope(|scope| {
        for n in 1..=settings.hook_jobs {
            let (setup, work, ended) = (&setup, work.clone(), ended.clone());
            threads::scoped(
                scope,
                &format!("hook-{n}"),
                |e| log::warn!("{e}"),
                move || {
                    if let Err(e) = run_hooks(setup, &work, &ended, &|| false) {
                        log::warn!("{e}");
                    }
                },
            )?;
        }
        drop(ended);
        schedule_hooks(
            Schedule::new(&settings.base_dir, settings.hook_jobs),
            &woken,
            &never(),
            jobs,
            &runs,
            true,
        )
    });
    match hooked {
        Ok(()) => passed,
        Err(e) if passed.is_ok() => Err(e),
        Err(e) => {
            log::warn!("{e}");
            passed
        }
    }
}

/// Creates the spool's directories and locks them for one client. `None`: another client holds the lock.
pub fn lock(settings: &Settings) -> Result<Option<std::fs::File>> {
    spool::create(&settings.base_dir)?;
    lock::take(&settings.base_dir, &settings.host_id)
}

/// The error of a second client.
pub fn another_client(settings: &Settings) -> Error {
    let base = settings.base_dir.display();
    let process = match lock::read(&settings.base_dir).0 {
        Client::Running { process, .. } => process,
        _ => String::new(),
    };
    let what = format!("another mesync client (process {process}) is at work in {base}");
    Error::new(Kind::Busy, what).hint(
        "to sync a directory as well, start that one with -w DIR (on the hub's machine: \"mesync serve --start -w DIR\"), or run \"mesync daemon -w DIR\" beside it; a second client needs a MESYNC_BASE_DIR and a MESYNC_HOST_ID of its own",
    )
}
