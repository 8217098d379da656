//! The headers of requests about files (author, condition, idempotency key, range) and those of answers about a file.
//!
//! Pure. It does not know which file has a name.

use std::ops::Range;

use uuid::Uuid;

use crate::hub::http::{Caller, Reply, Request};
use crate::hub::store::ops::files::Author;
use crate::wire;
use crate::wire::files::{HISTORY_HEADER, HOST_HEADER};
use crate::wire::revision::{Condition, Revision};

/// The author of a change: the host of a host's key; other callers may name the host that they act for.
pub fn author(request: &Request) -> Result<Author, Reply> {
    let said = || {
        request
            .header(HOST_HEADER)
            .and_then(|name| wire::check_host(name).ok())
    };
    let host = match &request.caller {
        Caller::Host(host, _) => host.clone(),
        Caller::Admin => said().unwrap_or_else(|| "admin".into()),
        Caller::Anonymous | Caller::Viewer | Caller::Hub | Caller::Nobody => {
            said().unwrap_or_else(|| "anonymous".into())
        }
    };
    let wrong = || {
        Reply::error(
            400,
            format!("{HISTORY_HEADER} must be a revision in quotes"),
        )
    };
    let knows = request
        .header(HISTORY_HEADER)
        .map(|tag| Revision::parse(tag).ok_or_else(wrong))
        .transpose()?;
    Ok(Author {
        host,
        key: request.header("idempotency-key").map(key).transpose()?,
        knows: knows.unwrap_or_default(),
    })
}

/// An idempotency key.
pub fn key(text: &str) -> Result<Uuid, Reply> {
    let wrong = || {
        Reply::error(
            400,
            format!(
                "an idempotency key is a UUID, not \"{}\"",
                wire::brief(text)
            ),
        )
    };
    Uuid::try_parse(text.trim()).map_err(|_| wrong())
}

/// `If-Match: "<rev>-<tag>"` or `"<rev>"`, `If-None-Match: *`, or neither.
pub fn condition(request: &Request) -> Result<Condition, Reply> {
    match (request.header("if-match"), request.header("if-none-match")) {
        (None, None) => Ok(Condition::None),
        (None, Some(tag)) if tag.trim() == "*" => Ok(Condition::Absent),
        (None, Some(_)) => Err(Reply::error(
            400,
            "If-None-Match must be *: a change depends on one revision, or on none",
        )),
        (Some(tag), None) => {
            let at = Revision::parse(tag).filter(|at| at.rev > 0);
            let wrong = || {
                Reply::error(
                    400,
                    format!(
                        "If-Match must be a revision in quotes, not {}",
                        wire::brief(tag)
                    ),
                )
            };
            at.map(Condition::Match).ok_or_else(wrong)
        }
        (Some(_), Some(_)) => Err(Reply::error(
            400,
            "If-Match and If-None-Match together are never met",
        )),
    }
}

/// The revision in `?rev=<rev>`, optionally with `&tag=<tag>`.
pub fn revision(request: &Request) -> Result<Option<Revision>, Reply> {
    let tag = request
        .parsed("tag", "16 hexadecimal digits", |text| text.parse().ok())?
        .unwrap_or_default();
    Ok(request.number("rev")?.map(|rev| Revision { rev, tag }))
}

/// The requested bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ByteRange {
    Whole,
    /// 206.
    Part(Range<u64>),
    /// 416: the file has no such bytes.
    Outside,
}

/// Parses `Range` (RFC 9110, 14.1.2). Anything but one range of bytes is ignored, as the RFC says; so is a range whose
/// `If-Range` names another revision than `at`.
pub fn span(range: Option<&str>, if_range: Option<&str>, size: u64, at: Revision) -> ByteRange {
    if if_range.is_some_and(|tag| Revision::parse(tag).is_none_or(|wanted| !wanted.is(at))) {
        return ByteRange::Whole;
    }
    let number = |text: &str| -> Option<u64> {
        // a number that does not fit is beyond the end of every file
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let parsed = || {
        let (unit, set) = range?.split_once('=')?;
        let (first, last) = set
            .trim()
            .split_once('-')
            .filter(|_| unit.trim().eq_ignore_ascii_case("bytes"))?;
        match (first.trim(), last.trim()) {
            ("", suffix) => {
                number(suffix).map(|n| (size.saturating_sub(n), if n == 0 { 0 } else { size }))
            }
            (first, "") => number(first).map(|first| (first, size)),
            (first, last) => number(first)
                .zip(number(last))
                .filter(|(a, b)| a <= b)
                .map(|(a, b)| (a, size.min(b.saturating_add(1)))),
        }
    };
    match parsed() {
        None => ByteRange::Whole,
        Some((from, to)) if from < to => ByteRange::Part(from..to),
        Some(_) => ByteRange::Outside,
    }
}

/// `Content-Disposition` (RFC 6266): the name in UTF-8, and a fallback in ASCII for older clients.
///
/// Always an attachment: an HTML file must not run with this server's origin.
pub fn disposition(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| {
            if c == ' ' || c.is_ascii_graphic() && !"\"\\%".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let mut text = format!("attachment; filename=\"{plain}\"");
    if plain != name {
        // RFC 8187, attr-char
        const ENCODED: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~')
            .remove(b'!')
            .remove(b'$');
        text.push_str("; filename*=UTF-8''");
        text.extend(percent_encoding::utf8_percent_encode(name, ENCODED));
    }
    text
}

/// Returns the content type if it is valid in a header: `type/subtype`, with parameters in plain ASCII.
pub fn content_type(text: &str) -> Option<String> {
    let text = text.trim();
    let (kind, _) = text.split_once(';').unwrap_or((text, ""));
    let token = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    let whole = kind
        .trim()
        .split_once('/')
        .is_some_and(|(a, b)| token(a) && token(b));
    let plain = text.len() <= 255 && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    (whole && plain).then(|| text.to_string())
}

/// Milliseconds since 1970 of an RFC 3339 time with up to nine decimals; a space counts as `+`, which queries decode to a
/// space. `None`: invalid.
pub fn time(text: &str) -> Option<i64> {
    let number = |range: Range<usize>| {
        text.get(range)
            .filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?
            .parse::<i64>()
            .ok()
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let marks: Vec<u8> = [4, 7, 10, 13, 16]
        .iter()
        .map(|at| text.as_bytes()[*at].to_ascii_uppercase())
        .collect();
    let in_range = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !in_range || (marks != b"--T::" && marks != b"-- ::") {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count()),
        None => ("0", rest),
    };
    if !(1..=9).contains(&fraction.len()) {
        return None;
    }
    let millis = format!("{fraction:0<3}")[..3].parse::<i64>().ok()?;
    let at = text.len() - zone.len();
    let offset = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b' ' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (
                number(at + 1..at + 3)?,
                number(at + 4..at + 6).filter(|m| *m < 60)?,
            );
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + (minute - offset) * 60 + second;
    Some(seconds * 1000 + millis)
}

/// Days since 1970 of a day of the Gregorian calendar (Hinnant: "chrono-Compatible Low-Level Date Algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// A directory without one slash at either end.
pub fn trimmed(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_suffix('/').unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::revision::Tag;

    const AT: Revision = Revision {
        rev: 7,
        tag: Tag(1),
    };

    #[test]
    fn ranges_as_the_rfc_has_them() {
        let check = |range: &str, size: u64, wants: ByteRange| {
            assert_eq!(
                span(Some(range), None, size, AT),
                wants,
                "{range} of {size}"
            )
        };
        check("bytes=0-0", 10, ByteRange::Part(0..1));
        check("bytes=2-5", 10, ByteRange::Part(2..6));
        check("bytes=2-", 10, ByteRange::Part(2..10));
        check("bytes=-3", 10, ByteRange::Part(7..10));
        check("bytes=-30", 10, ByteRange::Part(0..10));
        check("Bytes = 2-50", 10, ByteRange::Part(2..10));
        check(
            "bytes=9-99999999999999999999999",
            10,
            ByteRange::Part(9..10),
        );
        for outside in [
            "bytes=10-",
            "bytes=10-12",
            "bytes=-0",
            "bytes=99999999999999999999999-",
        ] {
            check(outside, 10, ByteRange::Outside);
        }
        check("bytes=0-", 0, ByteRange::Outside);
        check("bytes=-1", 0, ByteRange::Outside);
        for ignored in [
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=a-b",
            "bytes=+1-2",
            "0-1",
            "",
        ] {
            check(ignored, 10, ByteRange::Whole);
        }
        for same in ["\"7\"", "\"7-0000000000000001\""] {
            assert_eq!(
                span(Some("bytes=1-"), Some(same), 3, AT),
                ByteRange::Part(1..3),
                "{same}"
            );
        }
        for other in [
            "\"8\"",
            "\"7-0000000000000002\"",
            "W/\"7\"",
            "7",
            "Wed, 21 Oct 2015 07:28:00 GMT",
        ] {
            assert_eq!(
                span(Some("bytes=1-"), Some(other), 3, AT),
                ByteRange::Whole,
                "{other}"
            );
        }
    }

    #[test]
    fn any_name_can_be_sent_in_a_header() {
        assert_eq!(disposition("a b.txt"), "attachment; filename=\"a b.txt\"");
        assert_eq!(
            disposition("a\"b\\c%20\n.é"),
            "attachment; filename=\"a_b_c_20_._\"; filename*=UTF-8''a%22b%5Cc%2520%0A.%C3%A9"
        );
    }

    #[test]
    fn content_types_are_plain() {
        for good in [
            "text/plain",
            "text/html; charset=utf-8",
            "application/vnd.x+json",
        ] {
            assert_eq!(content_type(&format!(" {good} ")).as_deref(), Some(good));
        }
        for bad in [
            "",
            "text",
            "text/",
            "/plain",
            "text/pl ain",
            "text/plain\r\nX: y",
            "text/plain; a=\u{e9}",
            &format!("text/{}", "x".repeat(255)),
        ] {
            assert_eq!(content_type(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_with_any_zone() {
        let check = |text: &str, wants: Option<i64>| assert_eq!(time(text), wants, "{text}");
        check("1970-01-01T00:00:00Z", Some(0));
        check("1969-12-31T23:59:59.5Z", Some(-500));
        check("2026-11-21T10:30:00Z", Some(1_795_257_000_000));
        check(
            "2026-11-21T11:30:00.123456789+01:00",
            Some(1_795_257_000_123),
        );
        check("2026-11-21T05:00:00.25-05:30", Some(1_795_257_000_250));
        check("2026-11-21T10:30:00.000 00:00", Some(1_795_257_000_000));
        check("2024-02-29T00:00:00+00:00", Some(1_709_164_800_000));
        check("0000-01-01T00:00:00Z", Some(-62_167_219_200_000));
        for wrong in [
            "",
            "x",
            "2026-11-21",
            "2026-11-21T10:30:00",
            "2026-13-21T10:30:00Z",
            "2026-11-21T10:30:00.Z",
            "2026-11-21T10:30:00.1234567890Z",
            "2026-11-21T10:30:00+1:00",
            "2026-11-21T10:30:00+01:0x",
            "2026/11/21T10:30:00Z",
            "+2026-11-21T10:30:00Z",
            "2026-11-21T10:30:00ZZ",
            "2026-11-21T10:30:00\u{e9}",
            "\u{e9}\u{e9}\u{e9}\u{e9}-11-21T10:30:00Z",
            "2026-11-21T24:00:00Z",
        ] {
            check(wrong, None);
        }
    }
}
