//! The client as a running thing: starts its threads, and ends them.
//!
//! It decides nothing about messages or files. Threads: `tick` owns the spool, `inotify` and `sse` wake it, `hooks` decides what
//! the `hook-N` run; `sync-N` watches over those of one synced directory ([`directories`]), `requests` tells them what a person
//! asks. A thread that dies makes [`Part::fatal`] say so: the process ends rather than limp on.

pub mod directories;
pub mod pass;
pub mod servers;

mod hooks;
mod outbox;
mod report;
mod requests;
mod stream;
mod threads;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never};
use rustix::event::{EventfdFlags, eventfd};

use crate::client::HubClient;
use crate::clock;
use crate::config::watch::WatchSettings;
use crate::config::{Settings, limits};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::files::board::News;
use crate::messages::hooks::run::Setup;
use crate::messages::hooks::schedule::Schedule;
use crate::messages::hooks::{self as records, Record};
use crate::messages::spool;
use crate::messages::tick::{Event, Tick};
use crate::messages::{Queue, announce};
use crate::service::Part;
use directories::{Control, Supervisor};
use hooks::{run_hooks, schedule_hooks};
use outbox::Watch;
use requests::Requests;
use stream::{Heard, Stream};
use threads::Threads;

/// A thread that works on one thing for longer hangs.
const STUCK: Duration = Duration::from_secs(300);

/// A running client.
pub struct Daemon {
    threads: Threads,
    tick: Arc<Busy>,
    /// `None`: no messages.
    events: Option<Sender<Event>>,
    hubs: Vec<Arc<HubClient>>,
    directories: Vec<Arc<Control>>,
    /// Ends the threads that wait on a descriptor.
    wake: Arc<OwnedFd>,
    /// Dropped to end those that wait on a channel.
    stop: Option<Sender<()>>,
    _lock: Option<std::fs::File>,
}

/// Since when a loop works on one thing.
struct Busy {
    began: Instant,
    /// Milliseconds since `began`; 0: it waits.
    since: AtomicU64,
}

impl Busy {
    /// Milliseconds, never 0.
    fn elapsed(&self) -> u64 {
        self.began.elapsed().as_millis() as u64 + 1
    }
}

/// Which halves of a client run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halves {
    Both,
    Files,
}

impl Daemon {
    /// Starts the client with the directories of the settings. Another one at work in the base directory: `Busy`.
    pub fn start(settings: &Settings, halves: Halves) -> Result<Daemon> {
        let lock = if halves == Halves::Both { Some(lock(settings)?) } else { None };
        let (of_messages, of_files) = servers::both(settings)?;
        let (stop, stopped) = bounded::<()>(0);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| Error::io("make an eventfd", &e.into()))?;
        let mut daemon = Daemon {
            threads: Threads::default(),
            tick: Arc::new(Busy { began: clock::monotonic(), since: AtomicU64::new(0) }),
            events: None,
            hubs: vec![of_messages.clone(), of_files.clone()],
            directories: Vec::new(),
            wake: Arc::new(wake),
            stop: Some(stop),
            _lock: lock,
        };
        let (poke_hooks, hooks_poked) = bounded(limits::POKE);
        daemon.start_directories(settings, &of_files, halves, &poke_hooks)?;
        let listens = !settings.watches.is_empty();
        if halves == Halves::Both {
            daemon.start_messages(settings, &of_messages, (poke_hooks, hooks_poked), &stopped)?;
        }
        let one = Arc::ptr_eq(&of_messages, &of_files);
        if halves == Halves::Both {
            let host = Some(settings.host_id.clone());
            daemon.listen("sse", Stream { hub: of_messages, host, files: listens && one }, &stopped)?;
        }
        if listens && (halves == Halves::Files || !one) {
            daemon.listen("sse-files", Stream { hub: of_files, host: None, files: true }, &stopped)?;
        }
        log::info!("started host={} base={} server={}", settings.host_id, settings.base_dir.display(), settings.server_url);
        Ok(daemon)
    }

    fn start_messages(
        &mut self,
        settings: &Settings,
        hub: &Arc<HubClient>,
        (poke_hooks, hooks_poked): (Sender<()>, Receiver<()>),
        stopped: &Receiver<()>,
    ) -> Result<()> {
        let (events, inbound) = bounded(limits::EVENTS);
        self.events = Some(events.clone());
        let tick = Tick::open(settings, hub.clone(), poke_hooks.clone())?;
        let busy = self.tick.clone();
        self.threads
            .spawn("tick", move || tick.run(&inbound, |working| busy.since.store(if working { busy.elapsed() } else { 0 }, Relaxed)))?;
        let watch = Watch {
            outbox: Queue::Outbox.dir(&settings.base_dir),
            records: records::records_dir(&settings.base_dir),
            wake: self.wake.clone(),
            events,
            hooks: poke_hooks,
        };
        self.threads.spawn("inotify", move || watch.run())?;
        let (ended, runs) = bounded(settings.hook_jobs);
        let (jobs, work) = bounded::<Record>(settings.hook_jobs);
        for n in 1..=settings.hook_jobs {
            let (work, ended, shared) = (work.clone(), ended.clone(), self.threads.shared.clone());
            let setup = Setup { base: settings.base_dir.clone(), timeout: settings.hook_timeout };
            self.threads.spawn(&format!("hook-{n}"), move || run_hooks(&setup, &work, &ended, &|| shared.is_stopping()))?;
        }
        let (schedule, stopped) = (Schedule::new(&settings.base_dir, settings.hook_jobs), stopped.clone());
        self.threads.spawn("hooks", move || schedule_hooks(schedule, &hooks_poked, &stopped, jobs, &runs, false))
    }

    fn start_directories(&mut self, settings: &Settings, hub: &Arc<HubClient>, halves: Halves, hooks: &Sender<()>) -> Result<()> {
        for (n, watch) in settings.watches.iter().enumerate() {
            let (base, hooks, host) = (settings.base_dir.clone(), hooks.clone(), settings.host_id.clone());
            let news = move |news: &News, watch: &WatchSettings| {
                if halves == Halves::Both && tell_hook(&base, &host, news, watch) {
                    let _ = hooks.try_send(());
                }
            };
            let supervisor = Supervisor::new(settings, watch, hub.clone(), self.threads.shared.clone(), Arc::new(news));
            self.directories.push(supervisor.control.clone());
            self.threads.spawn(&format!("sync-{}", n + 1), move || supervisor.run())?;
        }
        if self.directories.is_empty() {
            return Ok(());
        }
        let (dir, wake, directories) = (crate::files::state::dir(&settings.base_dir), self.wake.clone(), self.directories.clone());
        let asked = Box::new(move || directories.iter().for_each(|control| control.asked()));
        self.threads.spawn("requests", move || Requests { dir, wake, asked }.run())
    }

    fn listen(&mut self, name: &str, stream: Stream, stopped: &Receiver<()>) -> Result<()> {
        let (events, directories, stopped) = (self.events.clone(), self.directories.clone(), stopped.clone());
        self.threads.spawn(name, move || {
            stream.listen(&stopped, &|heard| {
                if stream.files && heard != Heard::Queued {
                    directories.iter().for_each(|control| control.heard(heard));
                }
                // whatever was queued while there was no stream, too
                let queued = stream.host.is_some() && matches!(heard, Heard::Queued | Heard::Opened);
                !queued || events.as_ref().is_none_or(|events| events.send(Event::Queued).is_ok())
            })
        })
    }
}

/// Runs the hook for what is news about a directory, if there is one; whether there is.
fn tell_hook(base: &std::path::Path, host: &str, news: &News, watch: &WatchSettings) -> bool {
    let dir = watch.path.to_string_lossy();
    let (kind, payload) = match news {
        News::Changed { count, paths } => ("mesync.changed", serde_json::json!({ "dir": dir, "count": count, "paths": paths })),
        News::Conflict { path, copy } => ("mesync.conflict", serde_json::json!({ "dir": dir, "path": path, "copy": copy })),
        News::Held { count, paths } => ("mesync.held", serde_json::json!({ "dir": dir, "count": count, "paths": paths })),
    };
    announce::announce(base, host, kind, payload).unwrap_or_else(|e| {
        log::warn!("cannot run the hook {kind}: {e}");
        false
    })
}

impl Part for Daemon {
    fn alive(&self) -> bool {
        // what matters is that the tick comes to an end with what it does; waiting is being alive
        let since = self.tick.since.load(Relaxed);
        since == 0 || self.tick.elapsed() - since < STUCK.as_millis() as u64
    }

    fn fatal(&self) -> Option<Error> {
        self.threads.shared.fatal()
    }

    /// Nothing to read again: keys are read at each login.
    fn reload(&self) {
        if let Some(events) = &self.events {
            let _ = events.try_send(Event::Overflow);
        }
        self.directories.iter().for_each(|control| control.asked());
    }

    fn stop(mut self: Box<Self>, grace: Duration) {
        let end = clock::monotonic() + grace;
        self.threads.shared.stopping.store(true, Relaxed);
        self.stop = None;
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        self.directories.iter().for_each(|control| control.stop());
        self.hubs.iter().for_each(|hub| hub.stop());
        let (events, directories) = (self.events.clone(), self.directories.clone());
        self.threads.join(end, || {
            if let Some(events) = &events {
                let _ = events.try_send(Event::Stop);
            }
            directories.iter().for_each(|control| control.stop());
        });
    }
}

/// One full pass and the hooks that are due, for cron, under the lock that [`lock`] gave.
pub fn once(settings: &Settings, _lock: &std::fs::File) -> Result<()> {
    let hub = Arc::new(servers::messages(settings)?);
    let (poke, poked) = bounded(limits::POKE);
    let passed = Tick::open(settings, hub, poke.clone())?.once();
    let (ended, runs) = bounded(settings.hook_jobs);
    let (jobs, work) = bounded::<Record>(settings.hook_jobs);
    let setup = Setup { base: settings.base_dir.clone(), timeout: settings.hook_timeout };
    // hooks that were there before run even if the hub cannot be reached
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
        schedule_hooks(Schedule::new(&settings.base_dir, settings.hook_jobs), &poked, &never(), jobs, &runs, true)
    });
    passed.and(hooked)
}

/// Makes the spool's directories, and sees to it that one client works there at a time. Another one: `Busy`.
pub fn lock(settings: &Settings) -> Result<std::fs::File> {
    spool::create(&settings.base_dir)?;
    let path = lock_file(settings);
    disk::lock(&path, &std::process::id().to_string())?.ok_or_else(|| {
        let holder = disk::lock_holder(&path).unwrap_or_default();
        let pid = holder.lines().next().unwrap_or_default().trim();
        let what = format!("another mesync client (process {}) is at work in {}", pid, settings.base_dir.display());
        Error::new(Kind::Busy, what).hint(
            "to sync a directory as well, start that one with -w DIR (on the hub's machine: \"mesync serve --start -w DIR\"), or run \"mesync daemon -w DIR\" beside it; a second client needs a MESYNC_BASE_DIR and a MESYNC_HOST_ID of its own",
        )
    })
}

/// Held by the client that runs; its content is the number of the process.
pub fn lock_file(settings: &Settings) -> PathBuf {
    settings.base_dir.join("state/lock")
}
