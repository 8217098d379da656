//! The one error type: what failed, on what, why, what the user can do, and what the program does
//! next.
//!
//! Not for control flow inside a module: a decision with several good outcomes returns its own
//! enum.

use std::fmt;

/// The kind of a failure; it is kept from the system call to the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An action failed, for a reason that no other kind describes.
    Failed,
    /// The command line is wrong.
    Usage,
    /// Stored data is damaged, or was written by a newer version.
    Damaged,
    /// The hub does not respond, or the server is not a hub.
    Unreachable,
    /// A file or directory cannot be created, changed or read: no permission, or the file system is
    /// read-only.
    CannotCreate,
    /// Reading or writing failed.
    Io,
    /// Another process holds it, or there is no room now: a retry may succeed later.
    Busy,
    /// The hub understood the request and refused it.
    Refused,
    /// The settings, or a file that they name, are wrong.
    Settings,
}

impl Kind {
    /// All kinds with short descriptions, in the order of their exit status.
    pub const ALL: [(Kind, &str); 9] = [
        (Kind::Failed, "failed or not in sync"),
        (Kind::Usage, "usage"),
        (Kind::Damaged, "data damaged"),
        (Kind::Unreachable, "hub unreachable"),
        (Kind::CannotCreate, "cannot create"),
        (Kind::Io, "I/O error"),
        (Kind::Busy, "busy or no space; try again"),
        (Kind::Refused, "refused by the hub"),
        (Kind::Settings, "bad settings"),
    ];

    /// The exit status (after sysexits.h).
    pub fn exit_status(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Damaged => 65,
            Kind::Unreachable => 69,
            Kind::CannotCreate => 73,
            Kind::Io => 74,
            Kind::Busy => 75,
            Kind::Refused => 77,
            Kind::Settings => 78,
        }
    }

    /// The failure that the exit status reports, of several: one that a user must fix rather than
    /// one that may pass by itself, and [`Kind::Failed`] only if no other kind applies.
    pub fn worst(all: impl IntoIterator<Item = Kind>) -> Option<Kind> {
        let rank = |kind: &Kind| match kind {
            Kind::Failed => 0,
            Kind::Busy => 1,
            Kind::Unreachable => 2,
            Kind::Refused => 3,
            Kind::CannotCreate => 4,
            Kind::Io => 5,
            Kind::Usage => 6,
            Kind::Settings => 7,
            Kind::Damaged => 8,
        };
        all.into_iter().max_by_key(rank)
    }
}

/// A failure as the user reads it: `what` begins with a verb in lower case, names the object, and
/// has no full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    pub what: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error {
            kind,
            what: what.into(),
            hint: None,
        }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// An I/O failure: `doing` is the action and its object, such as "write /a/b".
    pub fn io(doing: impl fmt::Display, e: &std::io::Error) -> Error {
        let error = Error::new(Kind::Io, format!("cannot {doing}: {}", plain(e)));
        match e.kind() {
            std::io::ErrorKind::StorageFull => Error {
                kind: Kind::Busy,
                ..error
            }
            .hint("free space on that disk"),
            _ if is_shortage(e) => Error {
                kind: Kind::Busy,
                ..error
            }
            .hint("descriptors or memory ran out; see the limits of the process"),
            std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
                Error {
                    kind: Kind::CannotCreate,
                    ..error
                }
            }
            _ => error,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Whether the process or the system has no descriptor or memory left at this moment: the object is
/// not at fault.
pub fn is_shortage(e: &std::io::Error) -> bool {
    [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM]
        .contains(&e.raw_os_error().unwrap_or(0))
}

/// The system's text for an error, without Rust's "(os error N)".
pub fn plain(e: &std::io::Error) -> String {
    let text = e.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        // "No such file": lower case like the rest of the line, but "EOF" stays
        (Some(a), Some(b)) if a.is_uppercase() && b.is_lowercase() => {
            a.to_lowercase().chain([b]).chain(letters).collect()
        }
        _ => text.to_string(),
    }
}

/// At most 60 characters of a foreign text, safe to print.
pub fn brief(text: &str) -> String {
    let mut out: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_line_with_its_hint() {
        let e = Error::io("write /x/y", &std::io::Error::from_raw_os_error(28));
        assert_eq!(
            e.to_string(),
            "cannot write /x/y: no space left on device (free space on that disk)"
        );
        assert_eq!(e.kind.exit_status(), 75);
        let short = Error::io(
            "open /x/y",
            &std::io::Error::from_raw_os_error(libc::EMFILE),
        );
        assert_eq!(short.kind.exit_status(), 75);
    }

    #[test]
    fn the_exit_status_is_that_of_the_failure_a_user_must_fix() {
        use Kind::*;
        for (all, worst) in [
            (vec![], None),
            (vec![Failed, Busy], Some(Busy)),
            (vec![Io, Unreachable, Busy], Some(Io)),
            (vec![Refused, Unreachable, Failed], Some(Refused)),
            (vec![Refused, CannotCreate], Some(CannotCreate)),
        ] {
            assert_eq!(Kind::worst(all), worst);
        }
    }
}
