//! Decides about the files in the spool: the decisions of the message half.
//!
//! Pure: time and contents come in as values. It does not open, move or send anything.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::{file_name, parse_file_name};
use crate::clock;
use crate::wire::{Message, NotAMessage, PostResult, Status};

/// A file that did not arrive by rename counts as complete after this time without a write.
pub const MIN_UNTOUCHED_TIME: Duration = Duration::from_secs(1);
/// A file that is not a valid message yet may become one for this long.
pub const MAX_UNREADABLE_TIME: Duration = Duration::from_secs(60);
/// A file is named after its own mtime only if that is more recent than this.
const RECENT_TIME: Duration = Duration::from_secs(3600);
/// A message that exists when the client starts is tried for at least this long, whatever its time
/// says: the clock may have been set since, and no message fails without an attempt.
const FIRST_TRIES: Duration = Duration::from_secs(600);

/// What is known about a name in `outbox/` after checking it.
#[derive(Debug)]
pub struct CheckedFile<'a> {
    /// `None`: not UTF-8.
    pub name: Option<&'a str>,
    /// The time since the last write; `None`: the clock was set back since.
    pub age: Option<Duration>,
    /// It arrived by rename: its writer had finished.
    pub arrived: bool,
    pub content: FileContent,
}

#[derive(Debug)]
pub enum FileContent {
    Message(Message),
    NotAMessage(NotAMessage),
    /// A directory, FIFO, link, or unreadable file, with a description.
    Unusable(String),
}

/// What to do with a name in `outbox/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxStep {
    /// It has its lasting name: send it.
    Send,
    /// Give it its lasting name first.
    Rename(String),
    /// Check again after this time.
    Wait(Duration),
    /// Move it to `failed/`, with this reason.
    Refuse(String),
}

/// Decides about one name of `outbox/`. `written`: its last write; `fresh`: an unused id.
pub fn step(found: &CheckedFile, written: SystemTime, now: SystemTime, fresh: Uuid) -> OutboxStep {
    let named = found.name.and_then(parse_file_name);
    // a clock that was set back must not delay a message for years
    let age = found.age.unwrap_or(MAX_UNREADABLE_TIME);
    let left = |whole: Duration| whole.checked_sub(age).filter(|d| !d.is_zero());
    match &found.content {
        FileContent::Unusable(why) => left(MAX_UNREADABLE_TIME)
            .map_or_else(|| OutboxStep::Refuse(why.clone()), OutboxStep::Wait),
        FileContent::NotAMessage(NotAMessage::Syntax(why)) => left(MAX_UNREADABLE_TIME)
            .map_or_else(|| OutboxStep::Refuse(why.clone()), OutboxStep::Wait),
        _ if !found.arrived && named.is_none() && left(MIN_UNTOUCHED_TIME).is_some() => {
            OutboxStep::Wait(left(MIN_UNTOUCHED_TIME).unwrap_or(MIN_UNTOUCHED_TIME))
        }
        FileContent::NotAMessage(NotAMessage::Content(why)) => OutboxStep::Refuse(why.clone()),
        FileContent::Message(m) => {
            let id = m.id.or(named.map(|(_, id)| id)).unwrap_or(fresh);
            let said = m
                .created_at
                .as_deref()
                .and_then(clock::parse_rfc3339)
                .unwrap_or(written);
            // the time of an old event, or of a file that was moved here, does not tell how long it
            // was tried
            let recent = |at: &SystemTime| {
                now.duration_since(*at)
                    .map_or(true, |age| age < RECENT_TIME)
            };
            let at = named
                .map(|(at, _)| at)
                .or_else(|| Some(said).filter(recent))
                .unwrap_or(now);
            // the deadline counts from the name, so the name needs a plausible time
            let at = if clock::is_plausible(at) { at } else { now };
            let name = file_name(at, id);
            if found.name == Some(&name) {
                OutboxStep::Send
            } else {
                OutboxStep::Rename(name)
            }
        }
    }
}

/// Fills in the fields that the sender left out; the result is the same at every attempt, because
/// id and time are in the name.
pub fn complete(mut message: Message, name: &str, host: &str) -> Option<Message> {
    let (at, id) = parse_file_name(name)?;
    message.id.get_or_insert(id);
    message.created_at.get_or_insert_with(|| clock::rfc3339(at));
    message.source.get_or_insert_with(|| host.to_string());
    Some(message)
}

/// For how long a message may still be tried that was made at `made`, by the time in its name, and was there when the client
/// started. A time that cannot be true says nothing: then it has all of it.
pub fn time_left(made: SystemTime, now: SystemTime, deadline: Duration) -> Duration {
    let plausible = clock::is_plausible(made) && clock::is_plausible(now);
    let age = if plausible {
        now.duration_since(made).unwrap_or_default()
    } else {
        Duration::ZERO
    };
    deadline.saturating_sub(age).max(FIRST_TRIES.min(deadline))
}

/// The destination of a message after the hub's response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Sent,
    Refused(String),
    /// Stays in `outbox/`: no room for it at the moment.
    Later(String),
}

pub fn outcome(result: &PostResult) -> Destination {
    let said = || {
        result
            .error
            .clone()
            .unwrap_or_else(|| "the hub gave no reason".into())
    };
    match result.status {
        Status::Queued | Status::Duplicate => Destination::Sent,
        Status::Rejected if result.retry => Destination::Later(said()),
        Status::Rejected => Destination::Refused(format!("the hub refused it: {}", said())),
    }
}

/// How many bytes to put into the next request: a slow link gets shorter ones, so that each fits into its deadline.
pub fn next_batch_bytes(now: usize, timed_out: bool, most: usize) -> usize {
    if timed_out {
        (now / 2).max(16 * 1024)
    } else {
        now.saturating_mul(2).min(most)
    }
}

/// How a run of a hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HookEnd {
    Exit(i32),
    Signal(i32),
    Timeout,
    /// The kernel did not start it, with the error number.
    NotStarted(i32),
    /// It must not be run: not executable, or writable by others.
    Refused,
    /// It was removed before it could run.
    Gone,
}

/// Errors when starting a program that may pass: no memory, process or descriptor, or a file that
/// is open for writing.
const PASSING_ERRORS: [i32; 5] = [
    libc::EAGAIN,
    libc::ENOMEM,
    libc::ETXTBSY,
    libc::EMFILE,
    libc::ENFILE,
];

/// What happens to its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookNext {
    Done,
    Again(Duration),
    Failed,
}

/// Pauses before the second and later runs of a hook.
const HOOK_PAUSES: [Duration; 4] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(300),
    Duration::from_secs(3600),
];

/// The pause after the `attempt`-th run (from 1), if another one follows.
pub fn hook_pause(attempt: u32) -> Option<Duration> {
    HOOK_PAUSES.get((attempt as usize).checked_sub(1)?).copied()
}

/// Decides after the `attempt`-th run (from 1). 75 is EX_TEMPFAIL of sysexits.h.
pub fn after_hook(attempt: u32, end: HookEnd) -> HookNext {
    let may_pass = match end {
        HookEnd::Exit(0) => return HookNext::Done,
        HookEnd::Exit(75) | HookEnd::Signal(_) | HookEnd::Timeout => true,
        HookEnd::NotStarted(errno) => PASSING_ERRORS.contains(&errno),
        HookEnd::Exit(_) | HookEnd::Refused | HookEnd::Gone => false,
    };
    let pause = if may_pass { hook_pause(attempt) } else { None };
    pause.map_or(HookNext::Failed, HookNext::Again)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01933b5e-0000-7000-8000-000000000001";

    fn check(name: &str, age_s: u64, arrived: bool, text: &str, wants: &str) {
        let now = clock::parse_rfc3339("2026-11-21T10:30:00Z").unwrap();
        let content = Message::parse(text.as_bytes())
            .map_or_else(FileContent::NotAMessage, FileContent::Message);
        let age = Duration::from_secs(age_s);
        let found = CheckedFile {
            name: Some(name),
            age: Some(age),
            arrived,
            content,
        };
        let got = format!("{:?}", step(&found, now - age, now, Uuid::from_u128(9)));
        assert!(got.contains(wants), "{name} {age_s} {text}: {got}");
    }

    #[test]
    fn outbox_steps() {
        let name = format!("20261121T101112_{ID}.json");
        let fresh = "Rename(\"20261121T103000_00000000-0000-0000-0000-000000000009.json\")";
        check("t.json", 0, true, r#"{"type":"x"}"#, fresh);
        check("t.json", 0, false, r#"{"type":"x"}"#, "Wait(1s)");
        check(
            "t.json",
            2,
            false,
            r#"{"type":"x"}"#,
            "Rename(\"20261121T102958_",
        );
        check(
            "t.json",
            0,
            true,
            &format!(r#"{{"type":"x","id":"{ID}"}}"#),
            &format!("_{ID}.json"),
        );
        check(
            "t.json",
            0,
            true,
            r#"{"type":"x","created_at":"2026-11-21T11:04:05+01:00"}"#,
            "Rename(\"20261121T100405_",
        );
        // an old event was not being tried since then
        check(
            "t.json",
            0,
            true,
            r#"{"type":"x","created_at":"2026-01-02T03:04:05Z"}"#,
            fresh,
        );
        check("t.json", 999_999, true, r#"{"type":"x"}"#, fresh);
        // half written: wait, then a reason; never valid: a reason at once
        check("t.json", 0, true, r#"{"type":"x"#, "Wait(60s)");
        check(
            "t.json",
            60,
            false,
            r#"{"type":"x"#,
            "Refuse(\"it is not JSON",
        );
        check("t.json", 0, true, r#"{"payload":1}"#, "Refuse(\"it has no");
        check("t.json", 0, false, r#"{"payload":1}"#, "Wait(1s)");
        // made by `mesync send`, or renamed before a crash
        check(&name, 0, false, r#"{"type":"x"}"#, "Send");
        check(
            &name,
            0,
            false,
            &format!(r#"{{"type":"x","id":"{ID}"}}"#),
            "Send",
        );
        check(
            &name,
            0,
            false,
            r#"{"type":"x","id":"01933b5e-0000-7000-8000-000000000002"}"#,
            "000000000002.json",
        );
        // a clock that was not set yet
        check(
            &format!("19700101T000010_{ID}.json"),
            0,
            false,
            r#"{"type":"x"}"#,
            &format!("Rename(\"20261121T103000_{ID}"),
        );
    }

    #[test]
    fn omitted_fields_are_the_same_at_every_attempt() {
        let name = format!("20261121T101112_{ID}.json");
        let m = complete(Message::parse(br#"{"type":"x"}"#).unwrap(), &name, "web-1").unwrap();
        let wants = format!(
            r#"{{"id":"{ID}","type":"x","source":"web-1","target":null,"priority":"normal","created_at":"2026-11-21T10:11:12.000Z","payload":null}}"#
        );
        assert_eq!(m.to_json(), wants);
    }

    #[test]
    fn the_deadline_counts_from_the_name_and_not_from_a_clock_that_was_never_set() {
        let now = clock::parse_rfc3339("2026-11-21T10:30:00Z").unwrap();
        let week = Duration::from_secs(604_800);
        let left = |name: &str| time_left(clock::parse_compact(name).unwrap(), now, week).as_secs();
        // made before the clock was set, or really old: tried, but not for long
        assert_eq!(
            (left("20261114T101112"), left("20260501T101112")),
            (600, 600)
        );
        assert_eq!(
            time_left(now - week, now, Duration::from_secs(60)).as_secs(),
            60
        );
        assert_eq!(left("20261114T113112"), 3672);
        assert_eq!(
            (left("19700101T000010"), left("20991231T000000")),
            (604_800, 604_800)
        );
    }

    #[test]
    fn hooks_are_repeated_only_when_that_may_help() {
        let check =
            |attempt, end, wants| assert_eq!(after_hook(attempt, end), wants, "{attempt} {end:?}");
        check(1, HookEnd::Exit(0), HookNext::Done);
        check(1, HookEnd::Exit(3), HookNext::Failed);
        check(
            1,
            HookEnd::Exit(75),
            HookNext::Again(Duration::from_secs(5)),
        );
        check(
            2,
            HookEnd::Timeout,
            HookNext::Again(Duration::from_secs(30)),
        );
        check(
            4,
            HookEnd::Signal(9),
            HookNext::Again(Duration::from_secs(3600)),
        );
        check(5, HookEnd::Exit(75), HookNext::Failed);
        check(
            1,
            HookEnd::NotStarted(libc::ETXTBSY),
            HookNext::Again(Duration::from_secs(5)),
        );
        check(1, HookEnd::NotStarted(libc::ENOEXEC), HookNext::Failed);
        check(1, HookEnd::Refused, HookNext::Failed);
        check(1, HookEnd::Gone, HookNext::Failed);
    }

    #[test]
    fn requests_shrink_on_a_slow_link_and_grow_again() {
        assert_eq!(next_batch_bytes(1 << 20, true, 4 << 20), 1 << 19);
        assert_eq!(next_batch_bytes(20_000, true, 4 << 20), 16 * 1024);
        assert_eq!(next_batch_bytes(3 << 20, false, 4 << 20), 4 << 20);
    }
}
