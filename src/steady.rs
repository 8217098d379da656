//! Whether the age of something may end it: not before the wall clock has run for a day since it was last set.
//!
//! A machine without a battery for its clock asks the network for the time, and an answer may be a year ahead until the next one
//! corrects it. What is then removed for its age was hours old. So the last reading of the wall clock is kept beside the time
//! since boot, and a step between two readings makes ages unknown until it has lasted.
//!
//! The hub needs none of it: it counts ages by a clock of its own (`hub::store::ops::resume`).

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::disk;

/// A clock that was set is believed after so much time in which the machine ran and it was not set again.
const BELIEVED_AFTER: Duration = Duration::from_secs(86_400);
/// A step that is no longer than this ends nothing long before its time.
const MAX_STEP: Duration = Duration::from_secs(86_400);
/// Between two boots the wall clock alone says how long the machine was off.
const MAX_TIME_OFF: Duration = Duration::from_secs(30 * 86_400);
/// Of a file with a reading; a longer one is none.
const MAX_READING_BYTES: usize = 4096;

/// The clocks of a machine at one moment. The default: nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClockReading {
    /// `None`: it cannot be told.
    boot: Option<String>,
    uptime_ms: u64,
    wall_ms: u64,
    /// For so long the machine has run since the clock was set.
    steady_ms: u64,
}

impl ClockReading {
    /// Reads the clocks. `before`: what [`ClockReading::to_text`] gave at the last round of cleaning.
    pub fn after(before: Option<&str>) -> ClockReading {
        let before = before.map(|text| serde_json::from_str(text).unwrap_or_default());
        let (boot, uptime, wall) = (clock::boot_id(), clock::uptime(), clock::now());
        ClockReading::following(before.as_ref(), boot, uptime, wall)
    }

    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether an item that is kept for `lifetime` may be ended by its age.
    pub fn is_believed(&self, lifetime: Duration) -> bool {
        clock::is_plausible(clock::from_millis(self.wall_ms))
            && Duration::from_millis(self.steady_ms) >= lifetime.min(BELIEVED_AFTER)
    }

    /// The first reading has nothing to be compared with, and is believed.
    fn following(
        before: Option<&ClockReading>,
        boot: Option<String>,
        uptime: Duration,
        wall: SystemTime,
    ) -> ClockReading {
        let steady = before.map_or(BELIEVED_AFTER, |before| {
            let ran = uptime
                .checked_sub(Duration::from_millis(before.uptime_ms))
                .filter(|_| boot == before.boot);
            let longest = ran.map_or(MAX_TIME_OFF, |ran| ran + MAX_STEP);
            let kept = match wall.duration_since(clock::from_millis(before.wall_ms)) {
                Ok(passed) => passed <= longest,
                Err(back) => back.duration() <= MAX_STEP,
            };
            let had = Duration::from_millis(before.steady_ms);
            if kept {
                had + ran.unwrap_or_default()
            } else {
                Duration::ZERO
            }
        });
        ClockReading {
            boot,
            uptime_ms: uptime.as_millis() as u64,
            wall_ms: clock::millis(wall),
            steady_ms: steady.min(BELIEVED_AFTER).as_millis() as u64,
        }
    }
}

/// Reads the clocks and keeps the reading in a file. `false` also where it cannot be kept: the next one would not show a step.
pub fn is_believed(file: &Path, lifetime: Duration) -> bool {
    let before = match disk::read_at_most(file, MAX_READING_BYTES) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(_) => Some(String::new()),
    };
    let reading = ClockReading::after(before.as_deref());
    match disk::write_durably(file, reading.to_text().as_bytes(), 0o600) {
        Ok(()) => reading.is_believed(lifetime),
        Err(e) => {
            log::debug!("{e}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    /// Readings of one machine: boot, time since boot, days since a plausible time and seconds of the wall clock; and whether
    /// ages are believed then.
    fn check(readings: &[(&str, u64, i64, bool)]) {
        let start = clock::parse_rfc3339("2026-11-01T00:00:00Z").unwrap();
        let mut before: Option<ClockReading> = None;
        for (nth, (boot, uptime, wall, wants)) in readings.iter().enumerate() {
            let shift = Duration::from_secs(wall.unsigned_abs());
            let wall = if *wall < 0 {
                start - shift
            } else {
                start + shift
            };
            let now = ClockReading::following(
                before.as_ref(),
                Some(boot.to_string()),
                Duration::from_secs(*uptime),
                wall,
            );
            let text = now.to_text();
            assert_eq!(serde_json::from_str::<ClockReading>(&text).unwrap(), now);
            assert_eq!(
                now.is_believed(Duration::from_secs(30 * DAY)),
                *wants,
                "reading {nth} of {readings:?}"
            );
            before = Some(now);
        }
    }

    #[test]
    fn ages_are_unknown_after_a_step_until_it_has_lasted() {
        let year = (365 * DAY) as i64;
        let hours = |n: u64| (n * HOUR) as i64;
        // a year ahead, corrected after two hours, and believed a day later
        check(&[
            ("a", 0, 0, true),
            ("a", HOUR, hours(1) + year, false),
            ("a", 2 * HOUR, hours(2) + year, false),
            ("a", 3 * HOUR, hours(3), false),
            ("a", 14 * HOUR, hours(14), false),
            ("a", 27 * HOUR, hours(27), true),
        ]);
        // really a year later
        check(&[
            ("a", 0, 0, true),
            ("b", 60, year, false),
            ("b", DAY, year + hours(24), false),
            ("b", DAY + 60, year + hours(24) + 60, true),
        ]);
        // off for a night, for three weeks, asleep for two months (the time since boot has it), set back by the end of summer time
        check(&[
            ("a", 0, 0, true),
            ("b", 60, hours(12), true),
            ("c", 60, hours(22 * 24), true),
            ("c", 60 + 60 * DAY, hours(82 * 24), true),
            ("c", 60 + 61 * DAY, hours(83 * 24 - 1), true),
        ]);
        // up for eight hours a day: what it ran counts over the nights
        check(&[
            ("a", 0, 0, true),
            ("a", 60, year, false),
            ("a", 8 * HOUR, year + hours(8), false),
            ("b", 0, year + hours(24), false),
            ("b", 8 * HOUR, year + hours(32), false),
            ("c", 0, year + hours(48), false),
            ("c", 9 * HOUR, year + hours(57), true),
        ]);
        // starts in 1970
        check(&[("a", 0, -hours(56 * 365 * 24), false), ("a", 60, 0, false)]);
    }

    #[test]
    fn a_reading_that_is_damaged_or_cannot_be_kept_makes_ages_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("clock");
        let month = Duration::from_secs(30 * DAY);
        assert!(is_believed(&file, month) && is_believed(&file, month));
        std::fs::write(&file, "{").unwrap();
        assert!(!is_believed(&file, month) && !is_believed(&file, month));
        assert!(is_believed(&file, Duration::ZERO));
        assert!(!is_believed(&dir.path().join("none/clock"), month));
    }
}
