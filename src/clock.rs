//! Time: the only place that reads the clock, and the formats of times.
//!
//! Code that decides takes `now` as a value. Ages that must survive a restart are differences of
//! the wall clock, and never decide whether data is dropped: a router boots in 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[allow(clippy::disallowed_methods)] // its home
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// For deadlines within one run of the program.
#[allow(clippy::disallowed_methods)] // its home
pub fn monotonic() -> std::time::Instant {
    std::time::Instant::now()
}

/// The id of this boot of the machine; `None`: unknown.
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_string())
}

/// Time since the boot, suspended or not: the same clock for every process of this boot.
pub fn uptime() -> Duration {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(at).unwrap_or_default()
}

/// An earlier time (before 2025-01-01) is from a machine whose clock was not set: it says nothing
/// about an age.
const PLAUSIBLE: u64 = 1_735_689_600_000;

/// Whether a clock that was set can have given this time.
pub fn is_plausible(at: SystemTime) -> bool {
    millis(at) >= PLAUSIBLE
}

/// How long ago a time was by the wall clock; `None`: it is in the future.
pub fn since(at: SystemTime) -> Option<Duration> {
    now().duration_since(at).ok()
}

/// " 5 min ago" for a sentence; "" if unknown.
pub fn ago(at: Option<SystemTime>) -> String {
    at.and_then(since)
        .map_or(String::new(), |passed| format!(" {} ago", age(passed)))
}

/// Milliseconds since 1970; 0 before it.
pub fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

pub fn from_millis(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

/// `2026-11-21T10:30:00.123Z` (RFC 3339, UTC).
pub fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(writable(at)).to_string()
}

/// [`rfc3339`] with nine decimals, for the time of a file, which may be before 1970.
pub fn rfc3339_nanos(at: SystemTime) -> String {
    match at.duration_since(UNIX_EPOCH) {
        Ok(_) => humantime::format_rfc3339_nanos(writable(at)).to_string(),
        // humantime begins in 1970, and the calendar repeats every 400 years
        Err(before) => {
            let shifted =
                (UNIX_EPOCH + ERAS * ERA).checked_sub(before.duration().min(YEARS_BEFORE_1970));
            let text = humantime::format_rfc3339_nanos(shifted.unwrap_or(UNIX_EPOCH)).to_string();
            let year = text[..4]
                .parse::<u32>()
                .map_or(0, |year| year.saturating_sub(400 * ERAS));
            format!("{year:04}{}", &text[4..])
        }
    }
}

/// 400 years of the Gregorian calendar, and how many such eras reach from the year 0 beyond 1970.
const ERA: Duration = Duration::from_secs(146_097 * 86_400);
const ERAS: u32 = 5;
/// From the year 0, the first that has four digits, to 1970.
const YEARS_BEFORE_1970: Duration = Duration::from_secs(719_528 * 86_400);

/// Clamps a time to the years from 1970 that have four digits: humantime panics on others.
fn writable(at: SystemTime) -> SystemTime {
    at.clamp(
        UNIX_EPOCH,
        UNIX_EPOCH + Duration::from_secs(253_402_300_799),
    )
}

/// RFC 3339 back to a time: with any offset (or none: UTC), `t`, `z` and a blank between date and time, any number of decimals,
/// and a leap second, which is the second after it.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    let digit = |b: &u8| b.is_ascii_digit().then(|| i64::from(b - b'0'));
    let number = |from: usize, to: usize| {
        bytes
            .get(from..to)?
            .iter()
            .try_fold(0, |n, b| Some(n * 10 + digit(b)?))
    };
    let is = |at: usize, one_of: &[u8]| bytes.get(at).is_some_and(|b| one_of.contains(b));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap_year = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap_year),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=12).contains(&month)
        || !(1..=days).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let decimals = bytes
        .get(20..)
        .filter(|_| is(19, b"."))
        .map_or(0, |b| b.iter().take_while(|b| b.is_ascii_digit()).count());
    let zone = if is(19, b".") { 20 + decimals } else { 19 };
    let nanos = bytes[19..zone]
        .iter()
        .skip(1)
        .chain([b'0'].iter().cycle())
        .take(9)
        .try_fold(0, |n, b| Some(n * 10 + digit(b)?))?;
    let offset = match (bytes.get(zone), bytes.len() - zone) {
        (None, _) => 0,
        (Some(b'Z' | b'z'), 1) => 0,
        (Some(sign @ (b'+' | b'-')), 6) if is(zone + 3, b":") => {
            let (hours, minutes) = (number(zone + 1, zone + 3)?, number(zone + 4, zone + 6)?);
            let shift = hours * 3600 + minutes * 60;
            if hours > 23 || minutes > 59 {
                return None;
            }
            if *sign == b'+' { shift } else { -shift }
        }
        _ => return None,
    };
    if is(19, b".") && decimals == 0 {
        return None;
    }
    // days since 1970-03-01 of the year that begins in March, in eras of 400 years
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, year_of_era) = (y.div_euclid(400), y.rem_euclid(400));
    let day_of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * m + 2) / 5 + day - 1;
    let seconds =
        (era * 146_097 + day_of_era - 719_468) * 86_400 + hour * 3600 + minute * 60 + second
            - offset;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    at?.checked_add(Duration::from_nanos(nanos as u64))
}

/// `20261121T103000`, UTC: how file names of messages begin.
pub fn compact(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(writable(at)).to_string();
    text.chars()
        .filter(|c| c.is_ascii_digit() || *c == 'T')
        .collect()
}

/// The time in a name made by [`compact`].
pub fn parse_compact(text: &str) -> Option<SystemTime> {
    let (d, t) = text
        .split_once('T')
        .filter(|(d, t)| d.len() == 8 && t.len() == 6 && text.is_ascii())?;
    parse_rfc3339(&format!(
        "{}-{}-{}T{}:{}:{}Z",
        &d[..4],
        &d[4..6],
        &d[6..],
        &t[..2],
        &t[2..4],
        &t[4..]
    ))
}

/// `20261121`, UTC.
pub fn day(at: SystemTime) -> String {
    compact(at)[..8].to_string()
}

/// Local time of day as ISO 8601 without a zone, for tables: `2026-11-21 11:30:00`.
pub fn local(at: SystemTime) -> String {
    let seconds = match at.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_secs() as i64,
        Err(before) => -(before.duration().as_secs_f64().ceil() as i64),
    };
    // SAFETY: localtime_r writes only the given struct; all-zero bytes are a valid `tm`.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&(seconds as _), &mut tm);
        tm
    };
    let (y, m, d) = (tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday);
    format!(
        "{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02}",
        tm.tm_hour, tm.tm_min, tm.tm_sec
    )
}

/// `3 s`, `5 min`, `2 h`, `9 d`: the largest whole unit.
pub fn age(of: Duration) -> String {
    match of.as_secs() {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_be_written_are_written_as_the_nearest() {
        assert_eq!(
            rfc3339(UNIX_EPOCH - Duration::from_secs(9)),
            "1970-01-01T00:00:00.000Z"
        );
        assert_eq!(
            rfc3339(UNIX_EPOCH + Duration::from_secs(1 << 40)),
            "9999-12-31T23:59:59.000Z"
        );
        assert_eq!(
            compact(UNIX_EPOCH + Duration::from_secs(1 << 40)),
            "99991231T235959"
        );
    }

    #[test]
    fn the_time_of_a_file_is_read_as_it_was_written_from_the_year_0_to_9999() {
        let check = |text: &str| {
            assert_eq!(
                parse_rfc3339(text).map(rfc3339_nanos).as_deref(),
                Some(text)
            )
        };
        check("0000-01-01T00:00:00.000000000Z");
        check("0000-02-29T23:59:59.999999999Z");
        check("1600-02-29T12:00:00.000000001Z");
        check("1677-09-21T00:12:43.145224192Z");
        check("1900-03-01T00:00:00.000000000Z");
        check("1955-06-01T01:02:03.000000000Z");
        check("1969-12-31T23:59:59.999999999Z");
        check("1970-01-01T00:00:00.000000000Z");
        check("2262-04-11T23:47:16.854775807Z");
        check("2300-01-01T00:00:00.000000000Z");
        assert_eq!(
            rfc3339_nanos(UNIX_EPOCH - Duration::from_secs(1 << 40)),
            "0000-01-01T00:00:00.000000000Z"
        );
        assert_eq!(
            rfc3339_nanos(UNIX_EPOCH + Duration::from_secs(1 << 40)),
            "9999-12-31T23:59:59.000000000Z"
        );
        let early = local(UNIX_EPOCH - Duration::from_secs(40 * 365 * 86_400));
        assert!(early.starts_with("1930-01-1"), "{early}");
    }

    #[test]
    fn times_are_read_with_any_offset() {
        let check = |text: &str, wants: Option<&str>| {
            assert_eq!(
                parse_rfc3339(text).map(rfc3339_nanos).as_deref(),
                wants,
                "{text}"
            )
        };
        check(
            "2026-11-21T10:30:00Z",
            Some("2026-11-21T10:30:00.000000000Z"),
        );
        check(
            "2026-11-21T10:30:00.123456789+00:00",
            Some("2026-11-21T10:30:00.123456789Z"),
        );
        check(
            "2026-11-21T10:30:00+01:30",
            Some("2026-11-21T09:00:00.000000000Z"),
        );
        check(
            "2026-11-21T10:30:00-01:30",
            Some("2026-11-21T12:00:00.000000000Z"),
        );
        check(
            "2026-11-21t10:30:00.5z",
            Some("2026-11-21T10:30:00.500000000Z"),
        );
        check(
            "2026-11-21 10:30:00",
            Some("2026-11-21T10:30:00.000000000Z"),
        );
        check(
            "2016-12-31T23:59:60Z",
            Some("2017-01-01T00:00:00.000000000Z"),
        );
        check(
            "2024-02-29T00:00:00.1234567891234Z",
            Some("2024-02-29T00:00:00.123456789Z"),
        );
        check(
            "2000-03-01T00:00:00+23:59",
            Some("2000-02-29T00:01:00.000000000Z"),
        );
        assert_eq!(
            parse_rfc3339("1969-12-31T23:59:58.5Z"),
            Some(UNIX_EPOCH - Duration::from_millis(1500))
        );
        for wrong in [
            "2026-02-29T00:00:00Z",
            "2026-11-21T10:30:00.Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T10:30:00ZZ",
            "2026-11-21T10:30:0",
        ] {
            check(wrong, None);
        }
        for wrong in [
            "",
            "2026-11-21",
            "2026-11-21T10:30:00+1:30",
            "2026-11-21T10:30:00+24:00",
            "2026-11-21T10:30:00++1:+2",
            "é10:30",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn names_carry_their_time() {
        let at = parse_rfc3339("2026-11-21T10:30:00Z").unwrap();
        assert_eq!(
            (compact(at).as_str(), day(at).as_str()),
            ("20261121T103000", "20261121")
        );
        assert_eq!(parse_compact("20261121T103000"), Some(at));
        assert_eq!(parse_compact("20261121T1030é"), None);
        assert_eq!(parse_compact("20261341T103000"), None);
    }
}
