//! The session with the hub: the threads that exchange messages, and those that receive its events and
//! pass them to the synced directories.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, eventfd};

use super::control::Control;
use super::machine_state::{MachineStates, SharedWatches};
use super::outbox::OutboxWatch;
use super::requests::RequestWatch;
use super::stream::{StreamEvent, StreamListener};
use super::threads::Threads;
use crate::client::HubClient;
use crate::clock;
use crate::config::{Settings, limits};
use crate::error::{Error, Result};
use crate::messages::Queue;
use crate::messages::exchange::{Exchange, TickEvent};
use crate::messages::hooks as records;

/// The controls of the directories that are synced now, for the threads that pass them events.
pub type Controls = Arc<Mutex<Vec<Arc<Control>>>>;

pub fn each_control(controls: &Controls, act: impl Fn(&Control)) {
    controls
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .for_each(|control| act(control));
}

/// The threads that exchange messages with the hub and receive its events.
pub struct HubSession {
    pub threads: Threads,
    pub tick: Arc<Iteration>,
    /// `None`: no messages.
    pub events: Option<Sender<TickEvent>>,
    of_messages: Arc<HubClient>,
    pub of_files: Arc<HubClient>,
    /// Ends the threads that wait on a descriptor.
    wake: Arc<OwnedFd>,
    /// Dropped to end the threads that wait on a channel.
    stop: Option<Sender<()>>,
    stopped: Receiver<()>,
}

/// When the current iteration of a loop started.
pub struct Iteration {
    began: Instant,
    /// Milliseconds since `began`; 0: the loop waits.
    pub since: AtomicU64,
}

impl Iteration {
    /// Milliseconds, never 0.
    pub fn elapsed(&self) -> u64 {
        self.began.elapsed().as_millis() as u64 + 1
    }
}

impl HubSession {
    pub fn new((of_messages, of_files): (Arc<HubClient>, Arc<HubClient>)) -> Result<HubSession> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::io("make an eventfd", &e.into()))?;
        let (stop, stopped) = bounded::<()>(0);
        let tick = Arc::new(Iteration {
            began: clock::monotonic(),
            since: AtomicU64::new(0),
        });
        let (wake, stop) = (Arc::new(wake), Some(stop));
        Ok(HubSession {
            threads: Threads::default(),
            tick,
            events: None,
            of_messages,
            of_files,
            wake,
            stop,
            stopped,
        })
    }

    /// `hooks`: with messages, and the channel that reports a pending hook.
    pub fn start(
        &mut self,
        settings: &Settings,
        hooks: Option<Sender<()>>,
        controls: &Controls,
        watched: &SharedWatches,
    ) -> Result<()> {
        if !self.threads.has("state") {
            let states = MachineStates::new(
                (&settings.base_dir, watched.clone()),
                (&self.of_messages, &self.of_files),
            );
            let stopped = self.stopped.clone();
            self.threads.spawn("state", move || states.run(&stopped))?;
        }
        if !settings.watches.is_empty() && !self.threads.has("requests") {
            let (dir, wake, asked) = (
                crate::files::state::dir(&settings.base_dir),
                self.wake.clone(),
                controls.clone(),
            );
            let asked = Box::new(move || each_control(&asked, Control::asked));
            self.threads
                .spawn("requests", move || RequestWatch { dir, wake, asked }.run())?;
        }
        let (both, listens) = (hooks.is_some(), !settings.watches.is_empty());
        let one = Arc::ptr_eq(&self.of_messages, &self.of_files);
        if let Some(hooks) = hooks {
            let events = match &self.events {
                Some(events) => events.clone(),
                None => {
                    let tick = Exchange::open(settings, self.of_messages.clone(), hooks.clone())?;
                    let (events, inbound) = bounded(limits::CLIENT_EVENTS);
                    let busy = self.tick.clone();
                    let run = move || {
                        tick.run(&inbound, |works| {
                            busy.since
                                .store(if works { busy.elapsed() } else { 0 }, Relaxed)
                        })
                    };
                    self.threads.spawn("tick", run)?;
                    self.events.insert(events).clone()
                }
            };
            if !self.threads.has("inotify") {
                let outbox = Queue::Outbox.dir(&settings.base_dir);
                let records = records::records_dir(&settings.base_dir);
                let watch = OutboxWatch {
                    outbox,
                    records,
                    wake: self.wake.clone(),
                    events,
                    hooks,
                };
                self.threads.spawn("inotify", move || watch.run())?;
            }
            let host = Some(settings.host_id.clone());
            self.listen(
                "sse",
                StreamListener {
                    hub: self.of_messages.clone(),
                    host,
                    watched: (listens && one).then(|| watched.clone()),
                },
                controls,
            )?;
        }
        if listens && (!both || !one) {
            self.listen(
                "sse-files",
                StreamListener {
                    hub: self.of_files.clone(),
                    host: None,
                    watched: Some(watched.clone()),
                },
                controls,
            )?;
        }
        Ok(())
    }

    fn listen(&mut self, name: &str, stream: StreamListener, controls: &Controls) -> Result<()> {
        if self.threads.has(name) {
            return Ok(());
        }
        let (events, controls, stopped) =
            (self.events.clone(), controls.clone(), self.stopped.clone());
        self.threads.spawn(name, move || {
            stream.listen(&stopped, &|heard| {
                if stream.watched.is_some() && heard != StreamEvent::Queued {
                    each_control(&controls, |control| control.heard(&heard));
                }
                let event = match heard {
                    StreamEvent::Queued => TickEvent::Queued,
                    StreamEvent::Opened => TickEvent::StreamOpened,
                    StreamEvent::Closed => TickEvent::StreamClosed,
                    StreamEvent::Refused(why) => TickEvent::StreamRefused(why),
                    StreamEvent::Files => return true,
                };
                stream.host.is_none()
                    || events
                        .as_ref()
                        .is_none_or(|events| events.send(event).is_ok())
            })
        })
    }

    /// Ends the session, with all its calls of the hubs; returns whether all of its threads have
    /// ended.
    pub fn stop(&mut self, end: Instant, remind: impl Fn()) -> bool {
        self.threads.shared.stopping.store(true, Relaxed);
        self.stop = None;
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        self.of_messages.stop();
        self.of_files.stop();
        let events = self.events.clone();
        self.threads.join(end, || {
            if let Some(events) = &events {
                let _ = events.try_send(TickEvent::Stop);
            }
            remind();
        })
    }
}
