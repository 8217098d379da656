//! Thread `requests`: reports requests of users for a synced directory (see `files::status`).
//!
//! Without a watch it reports every minute, and the receivers check for themselves.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use inotify::{Inotify, WatchMask};

use crate::disk;
use crate::error::Result;
use crate::wait::{self, readable};

const REQUESTS_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Suffixes of files that are requests.
const ENDINGS: [&[u8]; 2] = [b".approve", b".adopt"];

/// See the module documentation.
pub struct RequestWatch {
    /// The directory of the requests.
    pub dir: PathBuf,
    pub wake: Arc<OwnedFd>,
    pub asked: Box<dyn Fn() + Send>,
}

impl RequestWatch {
    pub fn run(&self) -> Result<()> {
        loop {
            match self.until_lost() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) => log::debug!(
                    "cannot watch {}: {}",
                    self.dir.display(),
                    crate::error::plain(&e)
                ),
            }
            if wait::ready([readable(self.wake.as_fd())], Some(REQUESTS_LOOK_INTERVAL))?[0] {
                return Ok(());
            }
            (self.asked)();
        }
    }

    /// `true`: stopped.
    fn until_lost(&self) -> std::io::Result<bool> {
        let other = |e: crate::error::Error| std::io::Error::other(e.what);
        // no command writes a request before the first directory is open
        disk::create_dir(&self.dir).map_err(other)?;
        let mut inotify = Inotify::init()?;
        let mask = WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        inotify.watches().add(&self.dir, mask)?;
        // requests from before the watch
        (self.asked)();
        let mut buffer = [0; 4096];
        loop {
            if wait::ready(
                [readable(self.wake.as_fd()), readable(inotify.as_fd())],
                None,
            )
            .map_err(other)?[0]
            {
                return Ok(true);
            }
            let batch = match inotify.read_events(&mut buffer) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
                other => other?,
            };
            let mut asked = false;
            for event in batch {
                match event.name {
                    Some(name) => {
                        asked |= ENDINGS
                            .iter()
                            .any(|end| name.as_encoded_bytes().ends_with(end))
                    }
                    None => return Ok(false),
                }
            }
            if asked {
                (self.asked)();
            }
        }
    }
}
