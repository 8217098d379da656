//! Time: the only place that asks what time it is, and the shapes in which times are written.
//!
//! Deciding code takes `now` as a value. Ages are differences of the wall clock where they must survive a restart, and
//! never decide what is lost: a router boots in 1970.

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

/// Milliseconds since 1970; 0 before it.
pub fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

pub fn from_millis(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

/// `2026-11-21T10:30:00.123Z` (RFC 3339, UTC).
pub fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(writable(at)).to_string()
}

/// [`rfc3339`] with nine decimals: the time of a file.
pub fn rfc3339_nanos(at: SystemTime) -> String {
    humantime::format_rfc3339_nanos(writable(at)).to_string()
}

/// The nearest time that has four digits for its year: the time of a file can be any, and humantime panics on others.
fn writable(at: SystemTime) -> SystemTime {
    at.clamp(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(253_402_300_799))
}

/// RFC 3339 back to a time; offsets other than `Z` are understood.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    // humantime knows no offset but Z
    let at = text.len().checked_sub(6).filter(|at| text.is_char_boundary(*at));
    let (local, offset) = at.map_or((text, ""), |at| text.split_at(at));
    let Some((hours, minutes)) = offset.get(1..).and_then(|o| o.split_once(':')).filter(|_| offset.starts_with(['+', '-'])) else {
        return humantime::parse_rfc3339_weak(text).ok();
    };
    let digits = |text: &str, most: u64| text.parse::<u64>().ok().filter(|n| text.len() == 2 && text.as_bytes()[0] != b'+' && *n <= most);
    let shift = Duration::from_secs(digits(hours, 23)? * 3600 + digits(minutes, 59)? * 60);
    let at = humantime::parse_rfc3339_weak(local).ok()?;
    if offset.starts_with('+') { at.checked_sub(shift) } else { at.checked_add(shift) }
}

/// `20261121T103000`, UTC: how file names of messages begin.
pub fn compact(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(writable(at)).to_string();
    text.chars().filter(|c| c.is_ascii_digit() || *c == 'T').collect()
}

/// The time in a name made by [`compact`].
pub fn parse_compact(text: &str) -> Option<SystemTime> {
    let (d, t) = text.split_once('T').filter(|(d, t)| d.len() == 8 && t.len() == 6 && text.is_ascii())?;
    parse_rfc3339(&format!("{}-{}-{}T{}:{}:{}Z", &d[..4], &d[4..6], &d[6..], &t[..2], &t[2..4], &t[4..]))
}

/// `20261121`, UTC.
pub fn day(at: SystemTime) -> String {
    compact(at)[..8].to_string()
}

/// Local time of day as ISO 8601 without a zone, for tables: `2026-11-21 11:30:00`.
pub fn local(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    // SAFETY: localtime_r writes only the given struct; all-zero bytes are a valid `tm`.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&(seconds as _), &mut tm);
        tm
    };
    let (y, m, d) = (tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday);
    format!("{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02}", tm.tm_hour, tm.tm_min, tm.tm_sec)
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
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(9)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(1 << 40)), "9999-12-31T23:59:59.000Z");
        assert_eq!(compact(UNIX_EPOCH + Duration::from_secs(1 << 40)), "99991231T235959");
    }

    #[test]
    fn times_are_read_with_any_offset() {
        let check = |text: &str, wants: Option<&str>| assert_eq!(parse_rfc3339(text).map(rfc3339_nanos).as_deref(), wants, "{text}");
        check("2026-11-21T10:30:00Z", Some("2026-11-21T10:30:00.000000000Z"));
        check("2026-11-21T10:30:00.123456789+00:00", Some("2026-11-21T10:30:00.123456789Z"));
        check("2026-11-21T10:30:00+01:30", Some("2026-11-21T09:00:00.000000000Z"));
        check("2026-11-21T10:30:00-01:30", Some("2026-11-21T12:00:00.000000000Z"));
        for wrong in ["", "2026-11-21", "2026-11-21T10:30:00+1:30", "2026-11-21T10:30:00+24:00", "2026-11-21T10:30:00++1:+2", "é10:30"] {
            check(wrong, None);
        }
    }

    #[test]
    fn names_carry_their_time() {
        let at = parse_rfc3339("2026-11-21T10:30:00Z").unwrap();
        assert_eq!((compact(at).as_str(), day(at).as_str()), ("20261121T103000", "20261121"));
        assert_eq!(parse_compact("20261121T103000"), Some(at));
        assert_eq!(parse_compact("20261121T1030é"), None);
        assert_eq!(parse_compact("20261341T103000"), None);
    }
}
