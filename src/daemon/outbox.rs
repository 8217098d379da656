//! Thread `inotify` of the message half: says what comes into the outbox, and that a person retries a hook.
//!
//! Without a watch everything still works, at the rate of the tick.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use inotify::{EventMask, Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, poll};

use crate::error::{Error, Result};
use crate::messages::exchange::Event;
use crate::messages::is_hidden;

/// Pause before a wait that failed for want of memory is tried again.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);
/// Pause before watching the outbox is tried again.
const WATCH_PAUSE: Duration = Duration::from_secs(60);

/// See the module.
pub struct Watch {
    pub outbox: PathBuf,
    pub records: PathBuf,
    pub wake: Arc<OwnedFd>,
    pub events: Sender<Event>,
    pub hooks: Sender<()>,
}

enum Watched {
    Stopped,
    /// A directory was removed or moved away.
    Lost,
}

impl Watch {
    pub fn run(&self) -> Result<()> {
        let mut said = false;
        loop {
            let failed = match self.until_lost() {
                Ok(Watched::Stopped) => return Ok(()),
                Ok(Watched::Lost) => std::io::Error::from_raw_os_error(libc::ENOENT),
                Err(e) => e,
            };
            if !std::mem::replace(&mut said, true) {
                let hint = match failed.raw_os_error() {
                    Some(libc::EMFILE) => ": raise the sysctl fs.inotify.max_user_instances, or the limit of open files",
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
        inotify.watches().add(&self.outbox, WatchMask::CREATE | WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | gone)?;
        let records = inotify.watches().add(&self.records, WatchMask::MOVED_TO | gone)?;
        let mut buffer = [0; 4096];
        // what came before the watch
        if self.events.send(Event::Overflow).is_err() {
            return Ok(Watched::Stopped);
        }
        let _ = self.hooks.try_send(());
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
                    Some(name) if event.wd == records => {
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
pub fn readable(first: std::os::fd::BorrowedFd<'_>, second: Option<std::os::fd::BorrowedFd<'_>>, time: Option<Duration>) -> Result<bool> {
    let time = time.map(|t| rustix::event::Timespec { tv_sec: t.as_secs() as i64, tv_nsec: 0 });
    let mut fds: Vec<PollFd> = [Some(first), second].into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    match poll(&mut fds, time.as_ref()) {
        Ok(_) => Ok(!fds[0].revents().is_empty()),
        Err(rustix::io::Errno::INTR) => Ok(false),
        // the system is short of memory: that passes, and to end would lose the events
        Err(rustix::io::Errno::NOMEM | rustix::io::Errno::AGAIN) => {
            std::thread::park_timeout(SHORTAGE_PAUSE);
            Ok(false)
        }
        Err(e) => Err(Error::io("wait for events", &e.into())),
    }
}
