//! Thread `inotify` of the message half: reports files in the outbox, and requests to retry a hook.
//!
//! Without a watch everything still works, at the rate of the tick.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use inotify::{EventMask, Inotify, WatchMask};

use crate::error::Result;
use crate::messages::exchange::TickEvent;
use crate::messages::is_hidden;
use crate::wait::{self, readable};

/// Pause before watching the outbox is tried again.
const WATCH_PAUSE: Duration = Duration::from_secs(60);

/// See the module documentation.
pub struct OutboxWatch {
    pub outbox: PathBuf,
    pub records: PathBuf,
    pub wake: Arc<OwnedFd>,
    pub events: Sender<TickEvent>,
    pub hooks: Sender<()>,
}

enum WatchEnd {
    Stopped,
    /// A directory was removed or moved away.
    Lost,
}

impl OutboxWatch {
    pub fn run(&self) -> Result<()> {
        let mut said = false;
        loop {
            let failed = match self.until_lost() {
                Ok(WatchEnd::Stopped) => return Ok(()),
                Ok(WatchEnd::Lost) => std::io::Error::from_raw_os_error(libc::ENOENT),
                Err(e) => e,
            };
            if !std::mem::replace(&mut said, true) {
                let hint = match failed.raw_os_error() {
                    Some(libc::EMFILE) => {
                        ": raise the sysctl fs.inotify.max_user_instances, or the limit of open files"
                    }
                    Some(libc::ENOSPC) => ": raise the sysctl fs.inotify.max_user_watches",
                    _ => "",
                };
                let why = crate::error::plain(&failed);
                log::warn!(
                    "cannot watch {}: {why}{hint}; scanning it every poll_interval instead",
                    self.outbox.display()
                );
            }
            if wait::ready([readable(self.wake.as_fd())], Some(WATCH_PAUSE))?[0] {
                return Ok(());
            }
        }
    }

    fn until_lost(&self) -> std::io::Result<WatchEnd> {
        let mut inotify = Inotify::init()?;
        let gone = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
        inotify.watches().add(
            &self.outbox,
            WatchMask::CREATE | WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | gone,
        )?;
        let records = inotify
            .watches()
            .add(&self.records, WatchMask::MOVED_TO | gone)?;
        let mut buffer = [0; 4096];
        // files from before the watch
        if self.events.send(TickEvent::Overflow).is_err() {
            return Ok(WatchEnd::Stopped);
        }
        let _ = self.hooks.try_send(());
        loop {
            let wanted = [readable(self.wake.as_fd()), readable(inotify.as_fd())];
            if wait::ready(wanted, None).map_err(|e| std::io::Error::other(e.what))?[0] {
                return Ok(WatchEnd::Stopped);
            }
            let batch = match inotify.read_events(&mut buffer) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
                other => other?,
            };
            for event in batch {
                if event
                    .mask
                    .intersects(EventMask::IGNORED | EventMask::MOVE_SELF | EventMask::DELETE_SELF)
                {
                    return Ok(WatchEnd::Lost);
                }
                let event = match event.name {
                    Some(name) if event.wd == records => {
                        // a retry: the daemon's own renames count runs, and end in another number
                        if name.as_encoded_bytes().ends_with(b".0") {
                            let _ = self.hooks.try_send(());
                        }
                        continue;
                    }
                    Some(name) if is_hidden(name.as_encoded_bytes()) => continue,
                    Some(name) if event.mask.contains(EventMask::MOVED_TO) => {
                        TickEvent::Arrived(name.to_os_string())
                    }
                    Some(name) => TickEvent::Written(name.to_os_string()),
                    None => TickEvent::Overflow,
                };
                if self.events.send(event).is_err() {
                    return Ok(WatchEnd::Stopped);
                }
            }
        }
    }
}
