//! The lock file of a client, `state/lock`: allows one client at a time, and tells how the running
//! one works and how the last one ended.
//!
//! The first line has the process, a word and the host name that the client uses, the second line
//! an error. The word is `starting` until the hub has answered. A client that ends in order empties
//! the file, so an unlocked file that is not empty is from a client that was killed or failed. A
//! file without the word is from an older client, which never emptied it: nothing is known of its
//! end.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::disk;
use crate::error::{Error, Result};
use crate::logger::one_line;
use crate::wire;

/// Bytes of the file that are read, at most.
const MAX_LOCK: u64 = 4096;
const STARTING: &str = "starting";
const RUNNING: &str = "running";
const FAILED: &str = "failed";

/// The state of a client, according to the lock file.
#[derive(Debug, PartialEq, Eq)]
pub enum Client {
    Running {
        process: String,
        /// The host name that it uses, even if the settings have changed; `None`: an older client
        /// did not write it.
        host: Option<String>,
        /// The hub has not answered since the start, and no problem is known yet.
        is_starting: bool,
        problem: Option<String>,
    },
    /// No client has run, or the last one ended in order.
    Stopped,
    /// The last client ended with an error.
    Failed(String),
    /// The last client ended without a report: it was killed, or the machine lost power.
    Died { process: String },
}

/// The path of the file.
pub fn path(base: &Path) -> PathBuf {
    base.join("state/lock")
}

/// Takes the lock; `None`: another client runs.
pub fn take(base: &Path, host: &str) -> Result<Option<File>> {
    disk::lock(&path(base), &text(STARTING, host, ""))
}

/// Writes the state of a running client: `None`: it is starting; else its problem, or nothing. In
/// place: the block is allocated already, even when the disk is full.
pub fn tell(base: &Path, host: &str, problem: Option<&str>) -> std::io::Result<()> {
    let word = problem.map_or(STARTING, |_| RUNNING);
    let text = text(word, host, problem.unwrap_or_default());
    disk::overwrite(&path(base), text.as_bytes())
}

/// Writes how the client that holds the lock has ended.
pub fn end(base: &Path, mut lock: File, failure: Option<&Error>) {
    let written = match failure {
        Some(e) => disk::overwrite(&path(base), text(FAILED, "", &e.to_string()).as_bytes()),
        None => lock.set_len(0).and_then(|()| lock.rewind()),
    };
    if let Err(e) = written {
        log::debug!("cannot write {}: {e}", path(base).display());
    }
}

fn text(word: &str, host: &str, problem: &str) -> String {
    let first = format!("{} {word} {host}", std::process::id());
    format!("{}\n{}", first.trim_end(), one_line(problem))
}

/// The host name that the running client uses, if it wrote it.
pub fn host(base: &Path) -> Option<String> {
    match read(base).0 {
        Client::Running { host, .. } => host,
        _ => None,
    }
}

/// The content of the file, and when it was written.
pub fn read(base: &Path) -> (Client, Option<SystemTime>) {
    let read = || {
        let file = disk::open_regular(&path(base))?;
        // a client that starts while this lock is held retries
        let is_held = matches!(
            file.try_lock_shared(),
            Err(std::fs::TryLockError::WouldBlock)
        );
        let mut text = Vec::new();
        (&file).take(MAX_LOCK).read_to_end(&mut text)?;
        std::io::Result::Ok((
            parse(&String::from_utf8_lossy(&text), is_held),
            file.metadata()?.modified().ok(),
        ))
    };
    read().unwrap_or((Client::Stopped, None))
}

fn parse(text: &str, is_held: bool) -> Client {
    let (first, problem) = text.split_once('\n').unwrap_or((text, ""));
    let mut words = first.split_whitespace();
    let (process, word) = (
        words.next().unwrap_or("").to_string(),
        words.next().unwrap_or(""),
    );
    let (host, problem) = (
        words.next().and_then(|host| wire::check_host(host).ok()),
        problem.trim().to_string(),
    );
    match word {
        _ if is_held => Client::Running {
            process,
            host,
            is_starting: word == STARTING,
            problem: Some(problem).filter(|problem| !problem.is_empty()),
        },
        STARTING | RUNNING => Client::Died { process },
        FAILED => Client::Failed(problem),
        _ => Client::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn the_file_tells_how_a_client_is_and_how_it_ended() {
        let check =
            |text: &str, is_held, wants| assert_eq!(parse(text, is_held), wants, "{text:?}");
        let running = |problem: Option<&str>| Client::Running {
            process: "7".into(),
            host: None,
            is_starting: false,
            problem: problem.map(str::to_string),
        };
        let named = |is_starting, problem: Option<&str>| Client::Running {
            process: "7".into(),
            host: Some("web-1".into()),
            is_starting,
            problem: problem.map(str::to_string),
        };
        let died = || Client::Died {
            process: "7".into(),
        };
        check("7 starting web-1\n", true, named(true, None));
        check("7 starting web-1\n", false, died());
        check("7 running web-1\n", true, named(false, None));
        check(
            "7 running web-1\nno room",
            true,
            named(false, Some("no room")),
        );
        check("7 running web-1\nno room", false, died());
        check("7 running\n", true, running(None));
        check("7 running\nno room", true, running(Some("no room")));
        check("7", true, running(None));
        check("7\nno room", true, running(Some("no room")));
        check("7 running\nno room", false, died());
        check(
            "7 failed\nno thread",
            false,
            Client::Failed("no thread".into()),
        );
        // from an older client, which left the file like this at each stop
        check("7", false, Client::Stopped);
        check("7\nno room", false, Client::Stopped);
        check("", false, Client::Stopped);
    }

    #[test]
    fn a_client_that_ends_in_order_leaves_an_empty_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        let process = std::process::id().to_string();
        let lock = take(dir.path(), "web-1").unwrap().unwrap();
        let is = |is_starting, problem| {
            let running = Client::Running {
                process: process.clone(),
                host: Some("web-1".into()),
                is_starting,
                problem,
            };
            assert_eq!(read(dir.path()).0, running);
        };
        is(true, None);
        tell(dir.path(), "web-1", Some("two\nlines")).unwrap();
        is(false, Some(one_line("two\nlines")));
        tell(dir.path(), "web-1", Some("")).unwrap();
        is(false, None);
        // the settings name another hub
        tell(dir.path(), "web-1", None).unwrap();
        is(true, None);
        assert_eq!(host(dir.path()).as_deref(), Some("web-1"));
        end(dir.path(), lock, None);
        assert_eq!(
            (read(dir.path()).0, std::fs::read(path(dir.path())).unwrap()),
            (Client::Stopped, vec![])
        );
        let lock = take(dir.path(), "web-1").unwrap().unwrap();
        assert_eq!(host(dir.path()).as_deref(), Some("web-1"));
        end(
            dir.path(),
            lock,
            Some(&Error::new(Kind::Failed, "no thread")),
        );
        assert_eq!(read(dir.path()).0, Client::Failed("no thread".into()));
        drop(take(dir.path(), "web-1").unwrap());
        assert_eq!(read(dir.path()).0, Client::Died { process });
    }
}
