//! Forms, names, and the parameters of requests for files.

use mesync::internals::hub::files::lines::Lines;
use mesync::internals::hub::files::{head as file_head, multipart};
use mesync::internals::messages::hooks::HookRecord;
use mesync::internals::wire::files as wire_files;
use mesync::internals::{clock, messages, wire};
use uuid::Uuid;

use super::is_plain;

/// A form, cut anywhere: the same parts however the bytes arrive, and of a form that was put together what was put in. The
/// first byte says where it is cut, and how long the parts are.
pub fn form(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else {
        return;
    };
    let step = usize::from(*step) + 1;
    let whole = read_form(bytes, bytes.len().max(1));
    assert_eq!(
        read_form(bytes, step),
        whole,
        "it matters how the bytes arrive"
    );
    if let Ok(parts) = &whole {
        assert!(
            parts.len() <= multipart::MAX_PARTS
                && parts.iter().map(|(_, data)| data.len()).sum::<usize>() <= bytes.len()
        );
    }
    if let Some(boundary) = multipart::boundary(&String::from_utf8_lossy(bytes)) {
        assert!(
            (1..=70).contains(&boundary.len())
                && boundary.bytes().all(|b| (b' '..0x7f).contains(&b)),
            "{boundary}"
        );
    }
    // the content of a part is returned unchanged, unless it ends the part
    if bytes.windows(6).any(|w| w == b"\r\n--XY") {
        return;
    }
    let name: String = String::from_utf8_lossy(&bytes[..bytes.len().min(50)]).into_owned();
    let escaped = name
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\r', "\\\r")
        .replace('\n', "\\\n");
    let mut body = format!(
        "--XY\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{escaped}\"\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(bytes);
    body.extend_from_slice(b"\r\n--XY--\r\n");
    let part = multipart::FormPart {
        name: "f".into(),
        filename: Some(name),
        content_type: None,
    };
    assert_eq!(read_form(&body, step), Ok(vec![(part, bytes.to_vec())]));
}

fn read_form(
    bytes: &[u8],
    step: usize,
) -> Result<Vec<(multipart::FormPart, Vec<u8>)>, &'static str> {
    #[derive(Default)]
    struct Parts(Vec<(multipart::FormPart, Vec<u8>)>, bool);
    impl multipart::Sink for Parts {
        type Error = multipart::Malformed;
        fn begin(&mut self, part: multipart::FormPart) -> Result<(), Self::Error> {
            assert!(!std::mem::replace(&mut self.1, true), "a part in a part");
            self.0.push((part, Vec::new()));
            Ok(())
        }
        fn data(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
            assert!(self.1 && !bytes.is_empty());
            self.0
                .last_mut()
                .expect("a part has begun")
                .1
                .extend_from_slice(bytes);
            Ok(())
        }
        fn end(&mut self) -> Result<(), Self::Error> {
            assert!(
                std::mem::replace(&mut self.1, false),
                "an end without a part"
            );
            Ok(())
        }
    }
    let (mut parser, mut parts) = (multipart::Parser::new("XY"), Parts::default());
    for piece in bytes.chunks(step) {
        parser.feed(piece, &mut parts).map_err(|e| e.0)?;
    }
    parser.finish().map_err(|e| e.0)?;
    Ok(parts.0)
}

/// Data about files: lines and bytes of a batch, ranges, times, content types, names in headers. A range is within its
/// file, and a value for a header is valid in one.
pub fn files(bytes: &[u8]) {
    let mut lines = Lines::new(bytes);
    let mut taken = 0;
    while let Ok(Some((item, content))) = lines.next_file() {
        taken += content.len() + 1;
        assert!(
            content.len() as u64 == item.size
                && item.size <= wire_files::BATCH_FILE
                && taken < bytes.len()
        );
    }
    let text = String::from_utf8_lossy(bytes);
    for size in [0, 1, 10, u64::MAX] {
        if let file_head::ByteRange::Part(part) = file_head::span(Some(&text), None, size, 7.into())
        {
            assert!(
                part.start < part.end && part.end <= size,
                "{part:?} of {size}"
            );
        }
    }
    let plain = |text: &str| text.bytes().all(|b| (b' '..0x7f).contains(&b));
    assert!(file_head::content_type(&text).is_none_or(|kind| plain(&kind) && kind.len() <= 255));
    let disposition = file_head::disposition(&text);
    assert!(
        plain(&disposition) && disposition.matches('"').count() == 2 && !disposition.contains('\\'),
        "{disposition}"
    );
    if let Some(ms) = file_head::time(&text) {
        // another reading of the same text, which knows no zones but UTC and nothing before 1970
        let utc = text.ends_with('Z') && !text.starts_with("00");
        let same = clock::parse_rfc3339(&text)
            .filter(|_| utc)
            .map(|at| clock::millis(at) as i64);
        assert!(
            same.is_none_or(|same| (same - ms).abs() <= 1000),
            "{text}: {ms}, {same:?}"
        );
    }
    if let Ok(name) = wire_files::Name::parse(&text) {
        assert_eq!(
            wire_files::Name::new(&name.path, &name.name).map(|same| same.full()),
            Ok(text.to_string())
        );
    }
    parts(bytes);
}

/// A list of parts that is taken describes as many bytes as it says, and is read as it was written.
fn parts(bytes: &[u8]) {
    let list = serde_json::from_slice(bytes).ok();
    let Some(list) = list.filter(|list: &wire_files::PartList| list.size().is_some()) else {
        return;
    };
    let (size, new) = (list.size().unwrap_or(0), list.new_ranges());
    assert!(size <= wire_files::MAX_PARTS_BYTES && list.bases.len() <= wire_files::MAX_BASES);
    let starts = new.iter().map(|range| range.start).chain([size]);
    assert!(
        new.iter()
            .zip(starts.skip(1))
            .all(|(range, next)| !range.is_empty() && range.end <= next),
        "{new:?} of {size}"
    );
    assert_eq!(serde_json::from_slice(&list.line()).ok(), Some(list));
}

/// Names of files and times as text: each has one spelling, so that a name that was read is found again.
pub fn names(bytes: &[u8]) {
    let _ = messages::is_hidden(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some((at, id)) = messages::parse_file_name(text) {
        assert_eq!(messages::file_name(at, id), text);
        assert!(!messages::is_hidden(bytes) && clock::day(at) == text[..8]);
    }
    if let Some(record) = HookRecord::parse(text) {
        assert_eq!(record.file_name(), text);
        assert!(
            messages::parse_file_name(&record.message).is_some_and(|(_, id)| id == record.id())
        );
    }
    if let Some(at) = clock::parse_rfc3339(text) {
        let written = clock::rfc3339(at);
        assert_eq!(
            clock::parse_rfc3339(&written).map(clock::rfc3339),
            Some(written)
        );
        assert!(messages::parse_file_name(&messages::file_name(at, Uuid::nil())).is_some());
    }
    assert!(
        clock::parse_compact(text)
            .is_none_or(|at| clock::parse_compact(&clock::compact(at)) == Some(at))
    );
    assert_eq!(
        wire::check_host(text).ok(),
        is_plain(text, 63).then(|| text.to_ascii_lowercase())
    );
    assert_eq!(
        wire::check_type(text).is_ok(),
        is_plain(text, 64) && !text.starts_with(wire::OWN_TYPES)
    );
    assert!(
        wire::brief(text).chars().count() <= 61 * 10
            && !wire::brief(text).contains(char::is_control)
    );
}
