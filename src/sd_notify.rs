//! Reports the state of the daemon to the service manager (sd_notify(3)).
//!
//! It never fails: without a service manager, or with one that does not listen, nothing happens.

use crate::config::environment;
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The states that can be reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    Ready,
    /// Settings are being read again; [`ServiceState::Ready`] follows.
    Reloading,
    Stopping,
    /// Repeated within [`watchdog`]'s interval.
    Alive,
}

pub fn tell(state: ServiceState) {
    if let Some(socket) = environment::variable("NOTIFY_SOCKET") {
        let _ = send(&socket, state);
    }
}

fn send(socket: &OsStr, state: ServiceState) -> std::io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let words = match state {
        ServiceState::Ready => "READY=1".to_string(),
        ServiceState::Reloading => {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
            format!("RELOADING=1\nMONOTONIC_USEC={microseconds}")
        }
        ServiceState::Stopping => "STOPPING=1".into(),
        ServiceState::Alive => "WATCHDOG=1".into(),
    };
    let from = UnixDatagram::unbound()?;
    // a manager that does not read must not block the daemon
    from.set_nonblocking(true)?;
    from.send_to_addr(words.as_bytes(), &address).map(drop)
}

/// How often to report [`ServiceState::Alive`]: half the time after which the service manager ends the
/// process; `None`: never.
pub fn watchdog() -> Option<Duration> {
    let number = |name| environment::text(name)?.parse::<u64>().ok();
    interval(
        number("WATCHDOG_USEC"),
        number("WATCHDOG_PID"),
        std::process::id(),
    )
}

/// The process id is checked because the variables are inherited: they may be for the parent
/// process.
fn interval(microseconds: Option<u64>, meant: Option<u64>, us: u32) -> Option<Duration> {
    let ours = meant.is_none_or(|pid| pid == u64::from(us));
    microseconds
        .filter(|n| *n > 0 && ours)
        .map(|n| Duration::from_micros(n) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_are_reached_and_others_are_no_error_to_the_caller() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let name = format!("mesync-test-{}", std::process::id());
        let here = UnixDatagram::bind(&path).unwrap();
        let there =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (listener, address) in [
            (here, path.into_os_string()),
            (there, format!("@{name}").into()),
        ] {
            for (state, wants) in [
                (ServiceState::Ready, "READY=1"),
                (ServiceState::Stopping, "STOPPING=1"),
                (ServiceState::Alive, "WATCHDOG=1"),
            ] {
                send(&address, state).unwrap();
                let mut words = [0; 32];
                let n = listener.recv(&mut words).unwrap();
                assert_eq!(&words[..n], wants.as_bytes());
            }
            send(&address, ServiceState::Reloading).unwrap();
            let mut words = [0; 100];
            let n = listener.recv(&mut words).unwrap();
            let text = std::str::from_utf8(&words[..n]).unwrap();
            let at = text
                .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
                .and_then(|n| n.parse::<u64>().ok());
            assert!(at.is_some_and(|at| at > 0), "{text}");
        }
        assert!(
            send(OsStr::new("/nowhere"), ServiceState::Ready).is_err()
                && send(OsStr::new("\0"), ServiceState::Ready).is_err()
        );
    }

    #[test]
    fn the_watchdog_is_fed_twice_as_often_as_asked() {
        assert_eq!(
            interval(Some(30_000_000), None, 7),
            Some(Duration::from_secs(15))
        );
        assert_eq!(
            interval(Some(30_000_000), Some(7), 7),
            Some(Duration::from_secs(15))
        );
        assert_eq!(interval(Some(30_000_000), Some(1), 7), None);
        assert_eq!(
            (interval(None, None, 7), interval(Some(0), None, 7)),
            (None, None)
        );
    }
}
