//! The client as a running thing: starts its threads, and ends them.
//!
//! It decides nothing about messages. Threads: `tick` owns the spool, `inotify` and `sse` wake it, `hooks` decides what the
//! `hook-N` run. A thread that dies makes [`Part::fatal`] say so: the process ends rather than limp on.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use inotify::{EventMask, Inotify, WatchMask};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::backoff::Backoff;
use crate::client::HubClient;
use crate::clock;
use crate::config::{Settings, limits};
use crate::credentials;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::messages::hooks::run::{Ran, Setup};
use crate::messages::hooks::schedule::Schedule;
use crate::messages::hooks::{self, Record};
use crate::messages::spool;
use crate::messages::tick::{Event, REFUSED, Tick};
use crate::messages::{Queue, is_hidden};
use crate::service::Part;
use crate::sse;

/// A thread that works on one thing for longer hangs.
const STUCK: Duration = Duration::from_secs(300);
/// Pause before the event stream is opened again, at most.
const STREAM_PAUSE: Duration = Duration::from_secs(15);
/// Pause before watching the outbox is tried again.
const WATCH_PAUSE: Duration = Duration::from_secs(60);

/// A running client.
pub struct Daemon {
    shared: Arc<Shared>,
    events: Sender<Event>,
    hub: Arc<HubClient>,
    /// Ends the threads that wait on a descriptor.
    wake: Arc<OwnedFd>,
    /// Dropped to end those that wait on a channel.
    stop: Option<Sender<()>>,
    threads: Vec<(String, JoinHandle<()>)>,
    _lock: std::fs::File,
}

struct Shared {
    stopping: AtomicBool,
    began: Instant,
    /// Milliseconds since `began` at which the tick began to work; 0: it waits.
    busy_since: AtomicU64,
    fatal: Mutex<Option<Error>>,
}

impl Daemon {
    /// Starts the client. Another one at work in the base directory: `Busy`.
    pub fn start(settings: &Settings) -> Result<Daemon> {
        let lock = lock(settings)?;
        let hub = Arc::new(hub(settings)?);
        let (events, inbound) = bounded(limits::EVENTS);
        let (poke_hooks, hooks_poked) = bounded(limits::POKE);
        let (stop, stopped) = bounded::<()>(0);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| Error::io("make an eventfd", &e.into()))?;
        let shared = Arc::new(Shared {
            stopping: AtomicBool::new(false),
            began: clock::monotonic(),
            busy_since: AtomicU64::new(0),
            fatal: Mutex::new(None),
        });
        let mut daemon = Daemon {
            shared,
            events: events.clone(),
            hub: hub.clone(),
            wake: Arc::new(wake),
            stop: Some(stop),
            threads: Vec::new(),
            _lock: lock,
        };

        let tick = Tick::open(settings, hub.clone(), poke_hooks.clone())?;
        let shared = daemon.shared.clone();
        daemon.spawn("tick", move || {
            tick.run(&inbound, |working| {
                let now = if working { shared.elapsed() } else { 0 };
                shared.busy_since.store(now, Ordering::Relaxed);
            })
        })?;
        let watch = Watch {
            outbox: Queue::Outbox.dir(&settings.base_dir),
            records: hooks::records_dir(&settings.base_dir),
            wake: daemon.wake.clone(),
            events: events.clone(),
            hooks: poke_hooks.clone(),
        };
        daemon.spawn("inotify", move || watch.run())?;
        let (host, hub, stopping) = (settings.host_id.clone(), hub, stopped.clone());
        daemon.spawn("sse", move || listen(&hub, &host, &stopping, &events))?;
        let (ended, runs) = bounded(settings.hook_jobs);
        let (jobs, work) = bounded::<Record>(settings.hook_jobs);
        for n in 1..=settings.hook_jobs {
            let (work, ended, shared) = (work.clone(), ended.clone(), daemon.shared.clone());
            let setup = Setup { base: settings.base_dir.clone(), timeout: settings.hook_timeout };
            daemon.spawn(&format!("hook-{n}"), move || run_hooks(&setup, &work, &ended, &|| shared.stopping.load(Ordering::Relaxed)))?;
        }
        let schedule = Schedule::new(&settings.base_dir, settings.hook_jobs);
        daemon.spawn("hooks", move || schedule_hooks(schedule, &hooks_poked, &stopped, jobs, &runs, false))?;
        log::info!("started host={} base={} server={}", settings.host_id, settings.base_dir.display(), settings.server_url);
        Ok(daemon)
    }

    #[allow(clippy::disallowed_methods)] // where the client's threads start
    fn spawn(&mut self, name: &str, body: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        let (shared, title) = (self.shared.clone(), name.to_string());
        let guarded = move || {
            let error = match catch_unwind(AssertUnwindSafe(body)) {
                Ok(Ok(())) if shared.stopping.load(Ordering::Relaxed) => return,
                Ok(Ok(())) => Error::new(Kind::Failed, format!("thread {title} has ended by itself")),
                Ok(Err(e)) => e,
                Err(_) => Error::new(Kind::Failed, format!("thread {title} has crashed")),
            };
            shared.fatal.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
        };
        let thread = std::thread::Builder::new().name(name.into()).stack_size(256 * 1024).spawn(guarded);
        let thread = thread.map_err(|e| Error::io(format!("start thread {name}"), &e))?;
        self.threads.push((name.to_string(), thread));
        Ok(())
    }
}

impl Part for Daemon {
    fn alive(&self) -> bool {
        // what matters is that the tick comes to an end with what it does; waiting is being alive
        let since = self.shared.busy_since.load(Ordering::Relaxed);
        since == 0 || self.shared.elapsed() - since < STUCK.as_millis() as u64
    }

    fn fatal(&self) -> Option<Error> {
        self.shared.fatal.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Nothing to read again: keys are read at each login.
    fn reload(&self) {
        let _ = self.events.try_send(Event::Overflow);
    }

    fn stop(mut self: Box<Self>, grace: Duration) {
        let end = clock::monotonic() + grace;
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.stop = None;
        let _ = self.events.try_send(Event::Stop);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        self.hub.stop();
        for (name, thread) in self.threads.drain(..) {
            while !thread.is_finished() && clock::monotonic() < end {
                let _ = self.events.try_send(Event::Stop);
                std::thread::park_timeout(Duration::from_millis(5));
            }
            match thread.is_finished() {
                true => drop(thread.join()),
                false => log::warn!("thread {name} does not end; leaving it behind"),
            }
        }
    }
}

impl Shared {
    /// Milliseconds, never 0.
    fn elapsed(&self) -> u64 {
        self.began.elapsed().as_millis() as u64 + 1
    }
}

/// One full pass and the hooks that are due, for cron, under the lock that [`lock`] gave.
pub fn once(settings: &Settings, _lock: &std::fs::File) -> Result<()> {
    let hub = Arc::new(hub(settings)?);
    let (poke, poked) = bounded(limits::POKE);
    let passed = Tick::open(settings, hub, poke.clone())?.once();
    let (ended, runs) = bounded(settings.hook_jobs);
    let (jobs, work) = bounded::<Record>(settings.hook_jobs);
    let setup = Setup { base: settings.base_dir.clone(), timeout: settings.hook_timeout };
    // hooks that were there before run even if the hub cannot be reached
    let hooked = std::thread::scope(|scope| {
        for n in 1..=settings.hook_jobs {
            let (setup, work, ended) = (&setup, work.clone(), ended.clone());
            let thread = std::thread::Builder::new().name(format!("hook-{n}"));
            thread.spawn_scoped(scope, move || run_hooks(setup, &work, &ended, &|| false)).map_err(|e| Error::io("start a thread", &e))?;
        }
        drop(ended);
        schedule_hooks(Schedule::new(&settings.base_dir, settings.hook_jobs), &poked, &never(), jobs, &runs, true)
    });
    passed.and(hooked)
}

/// The hub of the settings, as this machine calls it.
pub fn hub(settings: &Settings) -> Result<HubClient> {
    let access = settings.clone();
    HubClient::new(settings, Box::new(move || credentials::access(&access)))
}

/// Makes the spool's directories, and sees to it that one client works there at a time. Another one: `Busy`.
pub fn lock(settings: &Settings) -> Result<std::fs::File> {
    spool::create(&settings.base_dir)?;
    let path = lock_file(settings);
    disk::lock(&path, &std::process::id().to_string())?.ok_or_else(|| {
        let holder = disk::lock_holder(&path).unwrap_or_default();
        let what = format!("another mesync client (process {}) is at work in {}", holder.trim(), settings.base_dir.display());
        Error::new(Kind::Busy, what).hint("a second one on this machine needs a MESYNC_BASE_DIR and a MESYNC_HOST_ID of its own")
    })
}

/// Held by the client that runs; its content is the number of the process.
pub fn lock_file(settings: &Settings) -> PathBuf {
    settings.base_dir.join("state/lock")
}

/// Thread `inotify`: says what comes into the outbox, and that a person retries a hook. Without a watch everything still
/// works, at the rate of the tick.
struct Watch {
    outbox: PathBuf,
    records: PathBuf,
    wake: Arc<OwnedFd>,
    events: Sender<Event>,
    hooks: Sender<()>,
}

enum Watched {
    Stopped,
    /// A directory was removed or moved away.
    Lost,
}

impl Watch {
    fn run(&self) -> Result<()> {
        let mut said = false;
        loop {
            let failed = match self.until_lost() {
                Ok(Watched::Stopped) => return Ok(()),
                Ok(Watched::Lost) => std::io::Error::from_raw_os_error(libc::ENOENT),
                Err(e) => e,
            };
            if !std::mem::replace(&mut said, true) {
                let hint = match failed.raw_os_error() {
                    Some(libc::EMFILE) => ": raise the sysctl fs.inotify.max_user_instances",
                    Some(libc::ENOSPC) => ": raise the sysctl fs.inotify.max_user_watches",
                    _ => "",
                };
                let why = crate::error::plain(&failed);
                log::warn!("cannot watch {}: {why}{hint}; looking at it at every poll_interval instead", self.outbox.display());
            }
            if readable(self.wake.as_fd(), None, Some(WATCH_PAUSE))? {
                return Ok(());
            }
        }
    }

    fn until_lost(&self) -> std::io::Result<Watched> {
        let mut inotify = Inotify::init()?;
        let gone = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
        let outbox = inotify.watches().add(&self.outbox, WatchMask::CREATE | WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | gone)?;
        inotify.watches().add(&self.records, WatchMask::MOVED_TO | gone)?;
        let mut buffer = [0; 4096];
        // what came before the watch
        if self.events.send(Event::Overflow).is_err() {
            return Ok(Watched::Stopped);
        }
        loop {
            if readable(self.wake.as_fd(), Some(inotify.as_fd()), None).map_err(|e| std::io::Error::other(e.what))? {
                return Ok(Watched::Stopped);
            }
            let batch = match inotify.read_events(&mut buffer) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
                other => other?,
            };
            for event in batch {
                if event.mask.intersects(EventMask::IGNORED | EventMask::MOVE_SELF | EventMask::DELETE_SELF) {
                    return Ok(Watched::Lost);
                }
                let event = match event.name {
                    Some(name) if event.wd != outbox => {
                        // a retry: our own renames count runs, and end in another number
                        if name.as_encoded_bytes().ends_with(b".0") {
                            let _ = self.hooks.try_send(());
                        }
                        continue;
                    }
                    Some(name) if is_hidden(name.as_encoded_bytes()) => continue,
                    Some(name) if event.mask.contains(EventMask::MOVED_TO) => Event::Arrived(name.to_os_string()),
                    Some(name) => Event::Written(name.to_os_string()),
                    None => Event::Overflow,
                };
                if self.events.send(event).is_err() {
                    return Ok(Watched::Stopped);
                }
            }
        }
    }
}

/// Waits until one of two descriptors can be read, or a time has passed; whether it is the first.
fn readable(first: std::os::fd::BorrowedFd<'_>, second: Option<std::os::fd::BorrowedFd<'_>>, time: Option<Duration>) -> Result<bool> {
    let time = time.map(|t| rustix::event::Timespec { tv_sec: t.as_secs() as i64, tv_nsec: 0 });
    let mut fds: Vec<PollFd> = [Some(first), second].into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    match poll(&mut fds, time.as_ref()) {
        Ok(_) => Ok(!fds[0].revents().is_empty()),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(Error::io("wait for events", &e.into())),
    }
}

/// Thread `sse`: keeps an event stream of the hub open and says when messages wait there.
fn listen(hub: &HubClient, host: &str, stopped: &Receiver<()>, events: &Sender<Event>) -> Result<()> {
    let mut backoff = Backoff::new(STREAM_PAUSE);
    loop {
        let mut refused = false;
        match hub.events(host) {
            Ok(stream) => {
                backoff.reset();
                log::debug!("event stream is open");
                // whatever was queued while there was none
                if events.send(Event::Queued).is_err() || follow(stream, events).is_err() {
                    return Ok(());
                }
                log::debug!("event stream has ended");
            }
            Err(failure) => {
                log::debug!("no event stream: {}", failure.error);
                refused = failure.error.kind == Kind::Refused;
            }
        }
        let pause = if refused { REFUSED } else { backoff.next(uuid::Uuid::new_v4().as_u64_pair().0) };
        match stopped.recv_timeout(pause) {
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
    }
}

/// Reads a stream to its end; `Err`: nobody listens to us any more.
fn follow(stream: impl Read, events: &Sender<Event>) -> std::result::Result<(), ()> {
    let mut lines = BufReader::with_capacity(4096, stream);
    let mut parser = sse::Parser::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut lines).take(sse::MAX_EVENT as u64).read_until(b'\n', &mut line) {
            Ok(n) if n > 0 && line.ends_with(b"\n") => {}
            _ => return Ok(()),
        }
        let text = String::from_utf8_lossy(&line);
        if let Some(event) = parser.line(text.trim_end_matches('\n'))
            && serde_json::from_str::<serde_json::Value>(&event.data).is_ok_and(|v| v["type"] == "message_queued")
        {
            events.send(Event::Queued).map_err(drop)?;
        }
    }
}

/// Thread `hook-N`: runs one hook after the other.
fn run_hooks(setup: &Setup, work: &Receiver<Record>, ended: &Sender<(String, Ran)>, stopping: &dyn Fn() -> bool) -> Result<()> {
    for record in work {
        if stopping() {
            break;
        }
        let ran = setup.run(&record, stopping).map_err(|e| Error::io(format!("run hook {}", record.kind), &e))?;
        if ended.send((record.kind, ran)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Thread `hooks`: hands records to those who run them. `until_idle`: returns when nothing runs or can run now.
fn schedule_hooks(
    mut schedule: Schedule,
    poked: &Receiver<()>,
    stopped: &Receiver<()>,
    jobs: Sender<Record>,
    ended: &Receiver<(String, Ran)>,
    until_idle: bool,
) -> Result<()> {
    let mut scan = true;
    let mut next_scan = clock::monotonic();
    loop {
        let now = clock::monotonic();
        if std::mem::take(&mut scan) || now >= next_scan {
            schedule.scan(clock::now(), now)?;
            next_scan = now + Duration::from_secs(60);
        }
        while let Some(record) = schedule.next(now) {
            // never waits: no more records are out than the channel holds
            if jobs.send(record).is_err() {
                return Ok(());
            }
        }
        if until_idle && schedule.is_idle() {
            return Ok(());
        }
        let due: Instant = schedule.next_due().unwrap_or(next_scan).min(next_scan);
        select! {
            recv(ended) -> run => match run {
                Ok((kind, ran)) => scan = schedule.ended(&kind, ran, clock::monotonic())?,
                Err(_) => return Ok(()),
            },
            recv(poked) -> poke => match poke {
                Ok(()) => scan = true,
                // nobody is left who could poke: the daemon ends
                Err(_) => break,
            },
            recv(stopped) -> _ => break,
            default(due.saturating_duration_since(clock::monotonic())) => {}
        }
    }
    // those that run come to their end, and their records are filed away
    drop(jobs);
    while let Ok((kind, ran)) = ended.recv() {
        schedule.ended(&kind, ran, clock::monotonic())?;
    }
    Ok(())
}
