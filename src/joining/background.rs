//! The thread `join` of a client without a key: asks the hub to admit it, and has the client reload its settings once it is
//! accepted. Until then the client does what it can without the hub.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::process::{Signal, getpid, kill_process};

use super::{JoinRequest, JoinStep, is_refused, may_ask, words};
use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::service::ServicePart;
use crate::wire::join::ASK_INTERVAL;

/// How often a hub that admits this machine without a key is asked whether it still does.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

pub struct BackgroundRequest {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundRequest {
    /// `None`: this machine has a key, or cannot ask.
    pub fn start(settings: &Arc<Settings>) -> Result<Option<BackgroundRequest>> {
        if !may_ask(settings) {
            return Ok(None);
        }
        let (stop, stopped) = bounded::<()>(0);
        let settings = settings.clone();
        let thread = std::thread::Builder::new()
            .name("join".into())
            .spawn(move || run(&settings, &stopped))
            .map_err(|e| Error::io("start the thread join", &e))?;
        Ok(Some(BackgroundRequest {
            stop: Some(stop),
            thread: Some(thread),
        }))
    }
}

impl ServicePart for BackgroundRequest {
    fn alive(&self) -> bool {
        true
    }

    fn fatal(&self) -> Option<Error> {
        None
    }

    fn reload(&mut self, _: Option<&Settings>) {}

    fn stop(mut self: Box<Self>, _: Duration) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(settings: &Arc<Settings>, stopped: &Receiver<()>) {
    let over = |time: Duration| stopped.recv_timeout(time) != Err(RecvTimeoutError::Timeout);
    while may_ask(settings) {
        let pause = match is_refused(settings) {
            Ok(true) => match ask(settings, &over) {
                Ok(true) => return reload(),
                Ok(false) => return,
                Err(e) => {
                    log::warn!("{e}");
                    settings.poll_interval
                }
            },
            Ok(false) => LOOK_INTERVAL,
            // the client itself logs the reason
            Err(_) => settings.poll_interval,
        };
        if over(pause) {
            return;
        }
    }
}

/// Asks until it is accepted; `false`: the client ends.
fn ask(settings: &Arc<Settings>, over: &impl Fn(Duration) -> bool) -> Result<bool> {
    let mut request = JoinRequest::open(settings, None)?;
    let mut shown = None;
    loop {
        let mut pause = Duration::from_secs(ASK_INTERVAL);
        match request.step() {
            Ok(JoinStep::Accepted) => {
                log::info!("{} was let in by {}", request.name(), settings.server_url);
                return Ok(true);
            }
            Ok(JoinStep::Waits { code }) => {
                if shown.as_ref() != Some(&code) {
                    log::warn!("{}", words(settings, request.name(), &code, false));
                    shown = Some(code);
                }
            }
            Err(failure) if failure.is_transient() || failure.error.kind == Kind::Refused => {
                log::warn!("{}", failure.error);
                pause = failure.retry_after.unwrap_or(settings.poll_interval);
            }
            Err(failure) => return Err(failure.error),
        }
        if over(pause) {
            return Ok(false);
        }
    }
}

/// The process reads its settings again, as if it were told to.
fn reload() {
    if let Err(e) = kill_process(getpid(), Signal::HUP) {
        log::warn!("restart the client to use its new settings: {e}");
    }
}
