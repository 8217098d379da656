//! Counts log lines about the same event, so that a lasting fault does not fill the log.
//!
//! Pure: it takes the time and decides; the logger writes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::clock;

/// Lines of one event that are written within [`REPEATS_WINDOW`]; the others are counted.
const LINES_PER_EVENT: u32 = 10;
/// The same for all lines of one place in the program: names of files make an event of each.
const LINES_PER_PLACE: u32 = 100;
const REPEATS_WINDOW: Duration = Duration::from_secs(3600);
/// Events and places that are counted at one time; the oldest event gives way, and places after all events.
const MAX_EVENTS: usize = 512;

/// What a line tells, without the parts that differ from time to time: a word with a digit or a slash is as good as another.
pub fn event(text: &str) -> String {
    let word = |word: &str| match word {
        _ if word.contains('/') => "/".to_string(),
        _ if word.bytes().any(|b| b.is_ascii_digit()) => "0".to_string(),
        _ => word.to_string(),
    };
    text.split_whitespace()
        .map(word)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether two texts tell of the same event.
pub fn is_same_event(one: &str, other: &str) -> bool {
    one == other || event(one) == event(other)
}

/// The line of a program's source.
pub type SourceLine = (&'static str, u32);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum RepeatKey {
    Event(String),
    Place(SourceLine),
}

#[derive(Debug)]
struct RepeatCount {
    began: Instant,
    written: u32,
    left_out: u32,
    /// The latest line that was left out.
    last: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Repeats {
    counts: HashMap<RepeatKey, RepeatCount>,
}

impl Repeats {
    /// Whether a line is to be written now.
    pub fn admit(&mut self, place: Option<SourceLine>, text: &str, now: Instant) -> bool {
        let keys = [
            Some((RepeatKey::Event(event(text)), LINES_PER_EVENT)),
            place.map(|at| (RepeatKey::Place(at), LINES_PER_PLACE)),
        ];
        // a line that is left out takes no room: else the names of a place that is full would push its own count out
        for (key, most) in keys.iter().flatten() {
            if let Some(count) = self
                .counts
                .get_mut(key)
                .filter(|count| count.written >= *most)
            {
                count.left_out += 1;
                count.last = text.to_string();
                return false;
            }
        }
        for (key, _) in keys.into_iter().flatten() {
            self.make_room(&key);
            let count = self.counts.entry(key).or_insert(RepeatCount {
                began: now,
                written: 0,
                left_out: 0,
                last: String::new(),
            });
            count.written += 1;
        }
        true
    }

    /// Lines that say what was left out within windows that have ended; `all`: those that have not ended, too.
    pub fn summaries(&mut self, now: Instant, all: bool) -> Vec<String> {
        let mut lines = Vec::new();
        self.counts.retain(|_, count| {
            let over = now.duration_since(count.began) >= REPEATS_WINDOW;
            if (over || all) && count.left_out > 0 {
                let age = clock::age(now.duration_since(count.began));
                lines.push(format!(
                    "{} more such lines were left out within {age}, the latest: {}",
                    count.left_out, count.last
                ));
                count.left_out = 0;
            }
            !over
        });
        lines
    }

    fn make_room(&mut self, key: &RepeatKey) {
        if self.counts.len() < MAX_EVENTS || self.counts.contains_key(key) {
            return;
        }
        let rank = |key: &RepeatKey, count: &RepeatCount| {
            (matches!(key, RepeatKey::Place(_)), count.began)
        };
        if let Some(oldest) = self
            .counts
            .iter()
            .min_by_key(|(key, count)| rank(key, count))
            .map(|(key, _)| key.clone())
        {
            self.counts.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_paths_and_numbers_do_not_make_another_event() {
        let check = |one: &str, other: &str, wants: bool| {
            assert_eq!(is_same_event(one, other), wants, "{one} | {other}")
        };
        check(
            "no room: 7 bytes free, file /a/b",
            "no room: 123456 bytes free, file /c",
            true,
        );
        check(
            "status 200 at /api/messages",
            "status 302 at /api/files/5b3c8a08-1b83-4ef4-9150-fa37e9052a7f",
            true,
        );
        check(
            "message 20261121T103000_x.json was refused",
            "message 19700101T000000_y.json was refused",
            true,
        );
        check(
            "cannot read a: permission denied",
            "cannot read a: is a directory",
            false,
        );
        check("hook backup failed", "hook deploy failed", false);
    }

    #[test]
    fn a_fault_that_lasts_is_told_a_few_times_an_hour_with_a_count() {
        let (mut repeats, start) = (Repeats::default(), clock::monotonic());
        let at = |second: u64| start + Duration::from_secs(second);
        let written = (0..3000)
            .filter(|s| {
                repeats.admit(
                    Some(("a.rs", 1)),
                    &format!("hub is not there: try {s}"),
                    at(*s),
                )
            })
            .count();
        assert_eq!(
            (written, repeats.summaries(at(3000), false).len()),
            (LINES_PER_EVENT as usize, 0)
        );
        let said = repeats.summaries(at(3600), false);
        assert_eq!(
            said,
            [
                "2990 more such lines were left out within 60 min, the latest: hub is not there: try 2999"
            ]
        );
        assert!(
            repeats.admit(None, "hub is not there: try 3601", at(3601)),
            "another hour"
        );
        assert_eq!(repeats.summaries(at(3601), true), [""; 0]);
    }

    #[test]
    fn names_that_all_differ_are_counted_by_their_place() {
        let (mut repeats, now) = (Repeats::default(), clock::monotonic());
        let name = |n: u32| {
            "abcdefghij"
                .chars()
                .cycle()
                .skip(n as usize % 10)
                .take(1 + n as usize / 10)
                .collect::<String>()
        };
        let written = (0..2000)
            .filter(|n| repeats.admit(Some(("a.rs", 7)), &format!("cannot take {}", name(*n)), now))
            .count();
        assert_eq!(written, LINES_PER_PLACE as usize);
        assert!(
            repeats.admit(Some(("a.rs", 8)), "another thing", now)
                && repeats.counts.len() <= MAX_EVENTS
        );
        assert_eq!(repeats.summaries(now, true).len(), 1);
    }
}
