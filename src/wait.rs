//! Waits until descriptors are ready, or a time has passed (poll(2)).
//!
//! It reads nothing from them. The hub's connections wait by themselves: each of their waits has an end of its own.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Pause before a wait that failed for want of memory is tried again.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);
/// One wait, at most, in seconds.
const MAX_WAIT_SECONDS: u64 = 86_400;

/// A descriptor, and what of it is waited for.
pub type PollTarget<'a> = (BorrowedFd<'a>, PollFlags);

/// Bytes to read.
pub fn readable(fd: BorrowedFd<'_>) -> Option<PollTarget<'_>> {
    Some((fd, PollFlags::IN))
}

/// Which of them are ready; none after the time, a signal, or a shortage of memory.
pub fn ready<const N: usize>(
    wanted: [Option<PollTarget<'_>>; N],
    time: Option<Duration>,
) -> Result<[bool; N]> {
    // a rounded-up millisecond, so that a timer of that moment is due
    let time = time.map(|t| t.saturating_add(Duration::from_millis(1)));
    let time = time.map(|t| Timespec {
        tv_sec: t.as_secs().min(MAX_WAIT_SECONDS) as _,
        tv_nsec: t.subsec_nanos() as _,
    });
    let mut fds: Vec<_> = wanted
        .iter()
        .flatten()
        .map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
        .collect();
    match poll(&mut fds, time.as_ref()) {
        Ok(_) => {
            let mut polled = fds.iter().map(|fd| !fd.revents().is_empty());
            Ok(wanted.map(|fd| fd.is_some() && polled.next().unwrap_or(false)))
        }
        Err(Errno::INTR) => Ok([false; N]),
        // the system is short of memory: that passes, and to end would lose events
        Err(Errno::NOMEM | Errno::AGAIN) => {
            std::thread::park_timeout(SHORTAGE_PAUSE);
            Ok([false; N])
        }
        Err(e) => Err(Error::io("wait for events", &e.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn each_descriptor_has_its_own_answer() {
        let ((silent, _kept), (full, mut other)) =
            (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        other.write_all(b"x").unwrap();
        let wanted = [readable(silent.as_fd()), None, readable(full.as_fd())];
        assert_eq!(ready(wanted, None).unwrap(), [false, false, true]);
        assert_eq!(
            ready([readable(silent.as_fd())], Some(Duration::ZERO)).unwrap(),
            [false]
        );
    }
}
