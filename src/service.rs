//! A process that runs until a signal or a failure ends it: `serve`, `start`, and both in one.
//!
//! It knows neither hub nor client: the caller passes them as [`ServicePart`]s, in the order in which they
//! were started.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, never, select, tick};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Handle;

use crate::config::{Settings, limits};
use crate::error::{Error, Kind, Result};
use crate::{clock, sd_notify};

/// How long running work may take to end in order after the first SIGTERM.
pub const GRACE: Duration = Duration::from_secs(10);

/// How often a part is asked whether it has failed.
const HEALTH_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A running half of the program: a handle for its threads.
pub trait ServicePart {
    /// Whether every loop of it has advanced since the last call. Called at the rate of the
    /// watchdog.
    fn alive(&self) -> bool;
    /// A failure that it cannot recover from.
    fn fatal(&self) -> Option<Error>;
    /// Called about once a second: starts what could not be started before.
    fn tend(&mut self) {}
    /// SIGHUP: applies these settings, as far as possible without a restart, and names those that
    /// need one. `None`: they could not be read; other files, such as keys, are reloaded.
    fn reload(&mut self, settings: Option<&Settings>);
    /// Ends it: in order within the grace time, by force after it.
    fn stop(self: Box<Self>, grace: Duration);
}

/// Signals as channels: SIGTERM and SIGINT in one, SIGHUP in the other.
///
/// Each is a level: two signals before the channel is read count as one. The second SIGTERM or
/// SIGINT ends the process at once, as if it had no handler.
pub struct Signals {
    pub stop: Receiver<()>,
    pub reload: Receiver<()>,
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    pub fn start() -> Result<Signals> {
        let failed = |e: std::io::Error| Error::io("receive signals", &e);
        // SIGXFSZ only so that it does not kill: the write then fails like any other
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP, SIGXFSZ])
            .map_err(failed)?;
        let handle = signals.handle();
        let (send_stop, stop) = bounded(limits::WAKEUPS);
        let (send_reload, reload) = bounded(limits::WAKEUPS);
        let receive = move || {
            let mut stopping = false;
            for signal in signals.forever() {
                match signal {
                    SIGTERM | SIGINT if stopping => {
                        let _ = signal_hook::low_level::emulate_default_handler(signal);
                    }
                    SIGTERM | SIGINT => {
                        stopping = true;
                        let _ = send_stop.try_send(());
                    }
                    SIGHUP => drop(send_reload.try_send(())),
                    _ => {}
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("signals".into())
            .spawn(receive)
            .map_err(failed)?;
        Ok(Signals {
            stop,
            reload,
            handle,
            thread: Some(thread),
        })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads the settings as they are now.
pub type ReadSettings<'a> = &'a dyn Fn() -> Result<Settings>;

/// Runs the parts until SIGTERM or SIGINT, or until one of them fails; then stops them, the last
/// first.
pub fn run(
    signals: &Signals,
    mut parts: Vec<Box<dyn ServicePart>>,
    read: ReadSettings<'_>,
) -> Result<()> {
    sd_notify::tell(sd_notify::ServiceState::Ready);
    let look = tick(HEALTH_LOOK_INTERVAL);
    let watchdog = sd_notify::watchdog().map_or_else(never, tick);
    // SIGHUP arrived, and the settings could not be read for lack of descriptors or memory
    let mut reload_is_due = false;
    let outcome = loop {
        select! {
            // a part that has just failed has not ended in order
            recv(signals.stop) -> _ => break parts.iter().find_map(|part| part.fatal()).map_or(Ok(()), Err),
            recv(signals.reload) -> _ => reload_is_due = !reload(&mut parts, read, true),
            recv(look) -> _ => {
                if reload_is_due {
                    reload_is_due = !reload(&mut parts, read, false);
                }
                parts.iter_mut().for_each(|part| part.tend());
                if let Some(e) = parts.iter().find_map(|part| part.fatal()) {
                    break Err(e);
                }
            }
            recv(watchdog) -> _ => {
                // every part is asked, because each remembers the time of the last call
                let stuck = parts.iter().filter(|part| !part.alive()).count();
                if stuck == 0 {
                    sd_notify::tell(sd_notify::ServiceState::Alive);
                }
            }
        }
    };
    sd_notify::tell(sd_notify::ServiceState::Stopping);
    log::info!("stopping");
    stop(parts);
    log::logger().flush();
    outcome
}

/// Reads the settings again. A mistake in them changes nothing. `false`: they could not be read
/// because of a shortage that may pass, which is logged if `first`.
fn reload(parts: &mut [Box<dyn ServicePart>], read: ReadSettings<'_>, first: bool) -> bool {
    sd_notify::tell(sd_notify::ServiceState::Reloading);
    let settings = read();
    let readable = match &settings {
        Ok(_) => {
            log::info!("reloading the settings");
            true
        }
        Err(e) if e.kind == Kind::Busy => {
            let level = if first {
                log::Level::Warn
            } else {
                log::Level::Debug
            };
            log::log!(level, "cannot reload the settings yet: {e}; retrying");
            false
        }
        Err(e) => {
            log::error!("cannot reload the settings, keeping the old ones: {e}");
            true
        }
    };
    if readable {
        parts
            .iter_mut()
            .for_each(|part| part.reload(settings.as_ref().ok()));
    }
    sd_notify::tell(sd_notify::ServiceState::Ready);
    readable
}

/// Ends the parts, the last first, all within [`GRACE`].
pub fn stop(mut parts: Vec<Box<dyn ServicePart>>) {
    let end = clock::monotonic() + GRACE;
    while let Some(part) = parts.pop() {
        part.stop(end.saturating_duration_since(clock::monotonic()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::Sender;
    use rustix::process::{Signal, getpid, kill_process};

    struct Recorder(&'static str, Sender<String>);

    impl ServicePart for Recorder {
        fn alive(&self) -> bool {
            true
        }
        fn fatal(&self) -> Option<Error> {
            None
        }
        fn reload(&mut self, settings: Option<&Settings>) {
            let settings = settings.map_or("none", |s| s.host_id.as_str());
            self.1
                .send(format!("reload {} {settings}", self.0))
                .unwrap();
        }
        fn stop(self: Box<Self>, grace: Duration) {
            assert!(grace <= GRACE);
            self.1.send(format!("stop {}", self.0)).unwrap();
        }
    }

    #[test]
    fn signals_reach_every_part_and_the_last_started_stops_first() {
        let (sender, heard) = bounded(16);
        let signals = Signals::start().unwrap();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                let part = |name| Box::new(Recorder(name, sender.clone())) as Box<dyn ServicePart>;
                let reads = std::cell::Cell::new(0);
                let read = || match reads.replace(reads.get() + 1) {
                    0 => Ok(Settings {
                        host_id: "x".into(),
                        ..Settings::default()
                    }),
                    1 => Err(Error::new(Kind::Settings, "bad")),
                    2 => Err(Error::new(Kind::Busy, "too many open files")),
                    _ => Ok(Settings {
                        host_id: "y".into(),
                        ..Settings::default()
                    }),
                };
                run(&signals, vec![part("hub"), part("client")], &read)
            });
            let next = || heard.recv_timeout(GRACE).unwrap();
            kill_process(getpid(), Signal::HUP).unwrap();
            assert_eq!([next(), next()], ["reload hub x", "reload client x"]);
            kill_process(getpid(), Signal::HUP).unwrap();
            assert_eq!([next(), next()], ["reload hub none", "reload client none"]);
            // settings that could not be read because of a shortage are read once it has passed,
            // without another signal
            kill_process(getpid(), Signal::HUP).unwrap();
            assert_eq!([next(), next()], ["reload hub y", "reload client y"]);
            kill_process(getpid(), Signal::TERM).unwrap();
            assert_eq!([next(), next()], ["stop client", "stop hub"]);
            assert_eq!(running.join().unwrap(), Ok(()));
        });
    }
}
