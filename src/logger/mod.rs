//! The log: one line a record on standard error, in a shape that the journal, syslog and people can read.
//!
//! It keeps no file and rotates nothing: that is the business of the reader of standard error. It never fails and
//! never panics, because a full or closed standard error must not stop the program.

mod repeats;

use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, OnceLock, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::clock;
use crate::config::environment;
use crate::error::Error;
use repeats::Repeats;
pub use repeats::is_same_event;

/// Longer lines are cut: a log line is written in one piece, and foreign text may be of any length.
const MAX_LINE: usize = 4096;

/// Records begin with the time.
static TIMED: AtomicBool = AtomicBool::new(false);

/// The level in force: flags beat the setting, and that beats the default of daemon or command.
pub fn level(
    daemon: bool,
    quiet: bool,
    verbose: usize,
    setting: Option<LevelFilter>,
) -> LevelFilter {
    let usual = if daemon {
        LevelFilter::Info
    } else {
        LevelFilter::Warn
    };
    match (quiet, verbose) {
        (true, _) => LevelFilter::Error,
        (_, 0) => setting.unwrap_or(usual),
        (_, 1) if !daemon => LevelFilter::Info,
        _ => LevelFilter::Debug,
    }
}

/// Begins to log. A second call only changes the level. `timed`: each record begins with the local time, unless the
/// journal adds it.
pub fn start(level: LevelFilter, timed: bool) {
    static LOGGER: OnceLock<Logger> = OnceLock::new();
    TIMED.store(timed && !in_journal(), Relaxed);
    let _ = log::set_logger(LOGGER.get_or_init(Logger::default));
    log::set_max_level(level);
}

/// The last words of a command that failed.
pub fn report(error: &Error) {
    write(&line(
        Level::Error,
        in_journal(),
        &format!("mesync: {error}"),
    ));
}

/// Something for a person at the terminal, several lines perhaps, which is neither data nor log.
pub fn note(text: &str) {
    write(&format!("{}\n", text.trim_end()));
}

/// Writes records; those of a fault that lasts are counted.
#[derive(Default)]
struct Logger {
    repeats: Mutex<Repeats>,
}

impl Logger {
    /// Whether a record is to be written. What asks for everything gets everything, and errors are few.
    fn admits(&self, record: &Record<'_>, text: &str) -> bool {
        let counted = matches!(record.level(), Level::Warn | Level::Info)
            && log::max_level() < LevelFilter::Debug;
        let place = record.file_static().zip(record.line());
        !counted || self.repeats().admit(place, text, clock::monotonic())
    }

    fn say_what_was_left_out(&self, all: bool) {
        let lines = self.repeats().summaries(clock::monotonic(), all);
        lines
            .iter()
            .for_each(|text| write_record(Level::Warn, "warn", text));
    }

    fn repeats(&self) -> std::sync::MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // libraries tell about requests in detail at lower levels, keys included
        metadata.target().starts_with("mesync") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let name = match record.level() {
                Level::Error => "error",
                Level::Warn => "warn",
                Level::Info => "info",
                Level::Debug | Level::Trace => "debug",
            };
            self.say_what_was_left_out(false);
            let text = record.args().to_string();
            if self.admits(record, &text) {
                write_record(record.level(), name, &text);
            }
        }
    }

    /// The end: what was left out and not told yet.
    fn flush(&self) {
        self.say_what_was_left_out(true);
    }
}

/// A number with its noun: "1 directory", "2 directories".
pub fn counted(n: u64, noun: &str) -> String {
    match noun.strip_suffix('y') {
        _ if n == 1 => format!("1 {noun}"),
        Some(stem) => format!("{n} {stem}ies"),
        None => format!("{n} {noun}s"),
    }
}

fn write_record(level: Level, name: &str, text: &str) {
    let time = if TIMED.load(Relaxed) {
        clock::local(clock::now()) + " "
    } else {
        String::new()
    };
    write(&line(level, in_journal(), &format!("{time}{name} {text}")));
}

/// One write a line, so that lines of several threads and processes do not mix.
fn write(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn line(level: Level, journal: bool, text: &str) -> String {
    // sd-daemon(3)
    let priority = match level {
        _ if !journal => "",
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    };
    format!("{priority}{}\n", one_line(text))
}

/// Whether standard error is the journal (systemd.exec(5)): a redirected process may have inherited the variable alone.
fn in_journal() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let Some((device, inode)) = environment::text("JOURNAL_STREAM").and_then(|v| {
            let (device, inode) = v.split_once(':')?;
            Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
        }) else {
            return false;
        };
        rustix::fs::fstat(std::io::stderr()).is_ok_and(|s| (s.st_dev, s.st_ino) == (device, inode))
    })
}

/// Text as one line of bounded length that no terminal acts upon.
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if out.len() > MAX_LINE {
            out.push('…');
            break;
        }
        if disturbs(c) {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
    }
    out
}

/// Control characters, line ends, and what changes the direction of writing or cannot be seen.
pub fn disturbs(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_harmless_line() {
        let check =
            |journal, text: &str, wants: &str| assert_eq!(line(Level::Warn, journal, text), wants);
        check(
            false,
            "warn hook failed type=\"x\"",
            "warn hook failed type=\"x\"\n",
        );
        check(true, "warn héllo", "<4>warn héllo\n");
        check(
            false,
            "a\nb\x1b[31m\r\u{202e}c",
            "a\\nb\\u{1b}[31m\\r\\u{202e}c\n",
        );
        let long = line(Level::Warn, false, &"x".repeat(100_000));
        assert!(long.len() < MAX_LINE + 10 && long.ends_with("…\n"));
    }

    #[test]
    fn flags_beat_the_setting_beats_the_usual() {
        use LevelFilter::*;
        let check = |daemon, quiet, verbose, setting, wants| {
            assert_eq!(level(daemon, quiet, verbose, setting), wants)
        };
        check(false, false, 0, None, Warn);
        check(true, false, 0, None, Info);
        check(true, false, 0, Some(Error), Error);
        check(true, true, 0, Some(Debug), Error);
        check(false, false, 1, Some(Error), Info);
        check(false, false, 2, None, Debug);
        check(true, false, 1, None, Debug);
    }
}
