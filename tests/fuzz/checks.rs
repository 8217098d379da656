//! What must hold for whatever bytes come from outside: one check a parser, each of which panics if it does not.
//!
//! The fuzz targets grow inputs for these, and `tests/it/hub/seeds.rs` runs them over the inputs in `fuzz/seeds/`. They compare
//! with a second, naive reading of the same bytes, or with what the result itself is read as.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use mesync::internals::hub::files::head as file_head;
use mesync::internals::hub::files::lines::Lines;
use mesync::internals::hub::files::multipart;
use mesync::internals::hub::http::{Caller, Request};
use mesync::internals::hub::messages::batch as hub_batch;
use mesync::internals::hub::server::head::{self as guard, Head, MAX_HEAD, MAX_TARGET};
use mesync::internals::hub::{protected, routes, token as hub_token};
use mesync::internals::messages::hooks::HookRecord;
use mesync::internals::messages::{self, plan};
use mesync::internals::wire::files as wire_files;
use mesync::internals::wire::{self, Message, NotAMessage, PullAnswer};
use mesync::internals::{clock, config, error, sse as events};
use uuid::Uuid;

const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;
/// 2026-11-21, in seconds.
const NOW: u64 = 1_795_257_000;

/// The guard's parser: what it takes means the same to a naive reader, and to itself when it is written down again.
pub fn head(bytes: &[u8]) {
    let found = guard::end(bytes, 0);
    let cut = bytes
        .first()
        .map_or(0, |b| usize::from(*b) * bytes.len() / 256);
    match guard::end(&bytes[..cut], 0) {
        Ok(None) => assert_eq!(
            guard::end(bytes, cut),
            found,
            "it matters where the bytes were cut"
        ),
        early => assert_eq!(early, found, "more bytes change what was decided"),
    }
    // it is never called with less than a head, but must not panic if it is
    let _ = guard::parse(bytes);
    let Ok(Some(n)) = found else { return };
    assert!(n <= MAX_HEAD && !bytes[..n].contains(&0));
    let Ok(head) = guard::parse(&bytes[..n]) else {
        return;
    };
    let version = same_to_a_naive_reader(&head, &bytes[..n]);
    let again = written(&head, version);
    if again.len() <= MAX_HEAD {
        assert_eq!(guard::end(&again, 0), Ok(Some(again.len())));
        assert!(
            guard::parse(&again).is_ok_and(|same| same == head),
            "{again:?}"
        );
    }
}

/// Asserts that splitting at line ends, spaces and colons finds the same; returns the version.
fn same_to_a_naive_reader(head: &Head, bytes: &[u8]) -> String {
    let text: String = bytes
        .strip_suffix(b"\r\n\r\n")
        .expect("an empty line at the end")
        .iter()
        .map(|b| char::from(*b))
        .collect();
    let mut lines = text.split("\r\n");
    let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = first[..] else {
        panic!("the first line has {} parts", first.len())
    };
    assert!(method == head.method && ["GET", "HEAD", "POST", "PUT", "DELETE"].contains(&method));
    assert!(["HTTP/1.0", "HTTP/1.1"].contains(&version));
    assert!(
        target.len() <= MAX_TARGET && target.starts_with('/') && !target.starts_with("//"),
        "{target}"
    );
    assert!(
        target
            .bytes()
            .all(|b| (0x21..0x7f).contains(&b) && b != b'#'),
        "{target}"
    );
    assert_eq!(
        target.split_once('?').unwrap_or((target, "")),
        (head.path.as_str(), head.query.as_str())
    );
    let mut counted = 0;
    for (line, (name, value)) in lines.zip(&head.headers) {
        counted += 1;
        assert!(
            !line.contains(['\r', '\n', '\0']) && !line.starts_with([' ', '\t']),
            "{line:?}"
        );
        let (given, rest) = line.split_once(':').expect("a colon");
        assert!(
            !given.is_empty() && given.bytes().all(|b| b.is_ascii_graphic()),
            "{given:?}"
        );
        assert_eq!(given.to_ascii_lowercase(), *name);
        let given: Vec<u8> = rest
            .trim_matches([' ', '\t'])
            .chars()
            .map(|c| c as u8)
            .collect();
        assert_eq!(String::from_utf8_lossy(&given), *value, "of {name}");
    }
    assert_eq!(
        (counted, text.matches("\r\n").count()),
        (head.headers.len(), head.headers.len())
    );
    let values = |wanted: &str| {
        head.headers
            .iter()
            .filter(|(n, _)| n == wanted)
            .map(|(_, v)| v.as_str())
            .collect::<Vec<_>>()
    };
    assert!(values("transfer-encoding").is_empty() && values("upgrade").is_empty());
    assert!(values("host").len() == 1 && !values("host")[0].is_empty());
    match values("content-length")[..] {
        [] => assert_eq!(head.length, 0),
        [one] => assert!(
            one.bytes().all(|b| b.is_ascii_digit()) && one.parse() == Ok(head.length),
            "{one}"
        ),
        _ => panic!("two lengths"),
    }
    for single in [
        "authorization",
        "x-api-key",
        "origin",
        "expect",
        "content-type",
    ] {
        assert!(values(single).len() < 2, "{single}");
    }
    assert_eq!(head.expect_continue, !values("expect").is_empty());
    version.to_string()
}

fn written(head: &Head, version: String) -> Vec<u8> {
    let query = if head.query.is_empty() {
        String::new()
    } else {
        format!("?{}", head.query)
    };
    let mut text = format!("{} {}{query} {version}\r\n", head.method, head.path);
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    (text + "\r\n").into_bytes()
}

/// What becomes of a head that was taken: its route, its parameters, and what protected mode says to it.
pub fn gate(bytes: &[u8]) {
    let Ok(Some(n)) = guard::end(bytes, 0) else {
        return;
    };
    let Ok(head) = guard::parse(&bytes[..n]) else {
        return;
    };
    match routes::find(&head.method, &head.path) {
        // a length is bounded by the route, and only that of an upload by the setting
        Ok(route) => {
            assert!(
                route.body_limit(1 << 40) <= 32 << 20
                    || route == routes::Route::UploadFile && route.body_limit(0) <= 64 << 10
            )
        }
        Err(reply) => assert!(matches!(reply.status, 404 | 405) && is_an_error(&reply.body)),
    }
    assert!(
        !routes::is_public(&head.path)
            || ["/", "/api/health", "/api/auth/login"].contains(&head.path.as_str())
    );

    assert!(
        protected::check(&head.headers, IpAddr::from([192, 0, 2, 7]))
            .is_err_and(|reply| reply.status == 403)
    );
    match protected::check(&head.headers, Ipv4Addr::LOCALHOST.into()) {
        Err(reply) => assert!(reply.status == 403 && is_an_error(&reply.body)),
        Ok(()) => {
            let host = head.header("host").unwrap_or_default().to_ascii_lowercase();
            let port = ["localhost", "127.0.0.1", "[::1]"]
                .iter()
                .find_map(|name| host.strip_prefix(name))
                .expect("a name of this machine");
            assert!(
                port.is_empty()
                    || port
                        .strip_prefix(':')
                        .is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit())),
                "{host}"
            );
            let proxy = |n: &str| {
                n.starts_with("x-forwarded-") || ["forwarded", "x-real-ip", "via"].contains(&n)
            };
            assert!(!head.headers.iter().any(|(n, _)| proxy(n)));
            assert!(
                head.header("origin")
                    .is_none_or(|o| o.to_ascii_lowercase() == format!("http://{host}"))
            );
        }
    }
    let request = Request {
        method: head.method,
        path: head.path,
        query: head.query,
        headers: head.headers,
        peer: Ipv4Addr::LOCALHOST.into(),
        caller: Caller::Nobody,
        body: Vec::new(),
        length: 0,
    };
    for name in ["host", "instance", "epoch", "after", "limit", ""] {
        // decoding makes text shorter, or puts three bytes in place of one that is not UTF-8
        assert!(
            request
                .parameter(name)
                .is_none_or(|value| value.len() <= 3 * request.query.len())
        );
    }
}

fn is_an_error(body: &[u8]) -> bool {
    serde_json::from_slice::<wire::ErrorAnswer>(body).is_ok_and(|answer| !answer.error.is_empty())
}

/// The parser of event streams, fed as the client feeds it: events come from `data` lines only, however the bytes arrive.
/// The first byte says how they are split.
pub fn sse(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else {
        return;
    };
    let (mut parser, mut data, mut id) = (events::SseParser::default(), Vec::new(), None);
    let mut found = Vec::new();
    for line in lines(bytes, bytes.len().max(1)) {
        let event = parser.line(&line);
        let line = line.strip_suffix('\r').unwrap_or(&line);
        let value = |field: &str| {
            let rest = line.strip_prefix(field)?;
            if rest.is_empty() {
                Some("")
            } else {
                rest.strip_prefix(':')
                    .map(|v| v.strip_prefix(' ').unwrap_or(v))
            }
        };
        if let Some(value) = value("data") {
            data.push(value.to_string());
        }
        id = value("id")
            .filter(|v| !v.contains('\0'))
            .map(str::to_string)
            .or(id);
        assert!(
            event.is_none() || line.is_empty(),
            "an event in the middle of its lines"
        );
        if line.is_empty() {
            assert_eq!(event.is_some(), !data.is_empty());
            let whole = data.join("\n");
            data.clear();
            let Some(event) = event else { continue };
            assert!(
                event.data.len() <= events::MAX_EVENT * 3,
                "{} bytes",
                event.data.len()
            );
            assert!(
                event.data == whole || whole.len() >= events::MAX_EVENT,
                "{:?} is not {whole:?}",
                event.data
            );
            assert_eq!(event.id, id);
            found.push(event);
        }
    }
    let mut parser = events::SseParser::default();
    let split: Vec<_> = lines(bytes, usize::from(*step).max(1))
        .iter()
        .filter_map(|line| parser.line(line))
        .collect();
    assert_eq!(split, found, "it matters how the bytes arrive");
}

/// Lines as the client reads them from a connection that brings `step` bytes at a time.
fn lines(bytes: &[u8], step: usize) -> Vec<String> {
    struct Slow<'a>(&'a [u8], usize);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let n = self.1.min(buffer.len());
            self.0.read(&mut buffer[..n])
        }
    }
    let mut reader = BufReader::with_capacity(4096, Slow(bytes, step));
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = (&mut reader)
            .take(events::MAX_EVENT as u64)
            .read_until(b'\n', &mut line);
        if !read.is_ok_and(|n| n > 0) || line.pop() != Some(b'\n') {
            return lines;
        }
        lines.push(String::from_utf8_lossy(&line).into_owned());
    }
}

/// A message, from a file or from a hub that may be hostile: an accepted one obeys the rules, and stays the same when it
/// is sent on.
pub fn message(bytes: &[u8]) {
    if let Ok(page) = serde_json::from_slice::<PullAnswer>(bytes) {
        page.messages
            .iter()
            .for_each(|numbered| one_message(numbered.message.get().as_bytes()));
    }
    one_message(bytes);
}

fn one_message(text: &[u8]) {
    let message = match Message::parse(text) {
        Ok(message) => message,
        Err(NotAMessage::Syntax(why) | NotAMessage::Content(why)) => {
            // a quoted text is shortened and escaped
            assert!(
                !why.is_empty() && why.len() < 1000 && !why.contains(char::is_control),
                "{why:?}"
            );
            return;
        }
    };
    assert!(text.len() <= wire::MAX_MESSAGE);
    assert!(
        is_plain(&message.kind, 64) && !message.kind.starts_with(wire::OWN_TYPES),
        "{:?}",
        message.kind
    );
    for host in [&message.source, &message.target].into_iter().flatten() {
        assert!(
            is_plain(host, 63) && *host == host.to_ascii_lowercase(),
            "{host:?}"
        );
    }
    assert!(
        message
            .ttl
            .is_none_or(|ttl| (1..=wire::ID_MEMORY / 2).contains(&ttl))
    );
    assert!(message.extra.keys().all(|name| {
        ![
            "id",
            "type",
            "source",
            "target",
            "priority",
            "created_at",
            "ttl",
            "payload",
        ]
        .contains(&name.as_str())
    }));
    let json = message.to_json();
    let same = |json: &str| {
        json.len() > wire::MAX_MESSAGE
            || Message::parse(json.as_bytes()).is_ok_and(|m| m.to_json() == json)
    };
    assert!(same(&json), "{json}");

    // the way of a file through the outbox: it gets a name, and with it what it lacks
    let (fresh, written, now) = (Uuid::from_u128(7), EPOCH, EPOCH + Duration::from_secs(NOW));
    let content = plan::FileContent::Message(message.clone());
    let found = plan::Found {
        name: Some("x.json"),
        age: None,
        arrived: true,
        content,
    };
    let plan::OutboxStep::Rename(name) = plan::step(&found, written, now, fresh) else {
        panic!("a new file is not renamed")
    };
    let (_, id) = messages::parse_file_name(&name).expect("a name that was just made");
    assert_eq!(id, message.id.unwrap_or(fresh));
    let complete = plan::complete(message, &name, "web-1").expect("a name that was just made");
    assert!(complete.id == Some(id) && complete.source.is_some() && complete.created_at.is_some());
    assert!(same(&complete.to_json()), "{}", complete.to_json());
}

fn is_plain(name: &str, most: usize) -> bool {
    (1..=most).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        && !name.starts_with(['.', '_', '-'])
}

/// The body of a post: each message is stored as it will be handed out, or rejected with words.
pub fn batch(bytes: &[u8]) {
    for caller in [None, Some("web-1")] {
        let batch = match hub_batch::read(bytes, caller, &|_| Ok(())) {
            Ok(batch) => batch,
            Err((status, why)) => {
                assert!(matches!(status, 400 | 413) && !why.is_empty() && why.len() < 1000);
                continue;
            }
        };
        assert!(batch.results.len() <= wire::MAX_BATCH);
        assert_eq!(
            batch
                .results
                .iter()
                .filter(|result| result.is_none())
                .count(),
            batch.admitted.len()
        );
        for rejected in batch.results.iter().flatten() {
            assert!(
                rejected.status == wire::Status::Rejected
                    && rejected
                        .error
                        .as_ref()
                        .is_some_and(|why| (1..1000).contains(&why.len()))
            );
        }
        for incoming in &batch.admitted {
            assert!(!incoming.id.is_nil() && incoming.json.len() <= wire::MAX_MESSAGE);
            assert!(
                caller.is_none_or(|host| host == incoming.source),
                "{} sent as {}",
                caller.unwrap_or_default(),
                incoming.source
            );
            let message =
                Message::parse(incoming.json.as_bytes()).expect("what is stored is a message");
            assert_eq!(message.to_json(), incoming.json);
            assert_eq!(
                (message.id, message.source.as_ref(), &message.target),
                (Some(incoming.id), Some(&incoming.source), &incoming.target)
            );
            assert_eq!(message.ttl.map(|seconds| seconds * 1000), incoming.ttl);
            // the client, which asks for nothing else, can take it
            let page = format!(
                r#"{{"epoch":"{}","messages":[{{"seq":1,"message":{}}}],"more":false}}"#,
                Uuid::nil(),
                incoming.json
            );
            assert!(
                serde_json::from_str::<PullAnswer>(&page)
                    .is_ok_and(|page| page.messages[0].message.get() == incoming.json)
            );
        }
    }
}

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
}

/// `config.toml` and variables: all that is before the first NUL byte is the file, each line after it `key=value`. The same
/// file is also read as `keys.toml`.
pub fn settings(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |b| *b == 0);
    let (file, variables) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let dir = tempfile::tempdir().expect("a scratch directory");
    let write = |name: &str| {
        std::fs::write(dir.path().join(name), file).expect("a file in it");
        std::fs::set_permissions(
            dir.path().join(name),
            std::fs::Permissions::from_mode(0o600),
        )
        .expect("its mode");
    };
    write("config.toml");
    write("keys.toml");
    let variable = |name: &str| -> Option<OsString> {
        if name == "MESYNC_BASE_DIR" {
            return Some(dir.path().into());
        }
        let row = config::SETTINGS
            .iter()
            .find(|s| s.env == name)
            .expect("only what is in the table is asked for");
        let value = |line: &[u8]| {
            line.strip_prefix(row.key.as_bytes())?
                .strip_prefix(b"=")
                .map(|v| OsStr::from_bytes(v).to_os_string())
        };
        variables.split(|b| *b == b'\n').find_map(value)
    };
    match config::Settings::load(variable) {
        Ok(settings) => settings_are_in_range(&settings),
        Err(e) => {
            let text = e.to_string();
            assert_eq!(e.kind, error::Kind::Settings, "{text}");
            let named = text.contains("bad value in MESYNC_")
                || text.contains("stream did not contain valid UTF-8");
            assert!(
                named
                    || line_of(&text)
                        .is_some_and(|n| (1..=file.split(|b| *b == b'\n').count()).contains(&n)),
                "{text}"
            );
            let secret = variable("MESYNC_API_KEY").filter(|key| key.len() > 20);
            assert!(
                secret.is_none_or(|key| !text.contains(&*key.to_string_lossy())),
                "{text}"
            );
        }
    }
    match mesync::internals::hub::list_keys(dir.path()) {
        Ok(keys) => {
            assert!(
                keys.len() <= config::limits::KEYS
                    && keys
                        .iter()
                        .all(|k| is_plain(&k.name, 63) && k.name == k.name.to_ascii_lowercase())
            );
            assert_eq!(
                keys.iter().map(|k| &k.name).collect::<HashSet<_>>().len(),
                keys.len()
            );
            assert_eq!(
                keys.iter().map(|k| k.hash).collect::<HashSet<_>>().len(),
                keys.len()
            );
        }
        Err(e) => assert!(
            e.kind == error::Kind::Settings && e.to_string().contains("keys.toml"),
            "{e}"
        ),
    }
}

fn settings_are_in_range(s: &config::Settings) {
    let seconds = |d: Duration, least: u64, most: u64| {
        d.subsec_nanos() == 0 && (least..=most).contains(&d.as_secs())
    };
    assert!(
        seconds(s.poll_interval, 1, 3600)
            && seconds(s.http_timeout, 1, 600)
            && seconds(s.hook_timeout, 1, 86_400)
    );
    assert!(
        seconds(s.send_deadline, 60, wire::ID_MEMORY / 2)
            && seconds(s.hub.message_ttl, 60, wire::ID_MEMORY / 2)
    );
    assert!((1..=64).contains(&s.hook_jobs) && (1..=64).contains(&s.hub.workers));
    assert!(
        (8..=4096).contains(&s.hub.connections)
            && (1..=4096).contains(&s.hub.connections_per_address)
    );
    assert!((1_000_000..=1_000_000_000).contains(&s.hub.cache));
    assert!(
        wire::check_host(&s.host_id).as_deref() == Ok(&s.host_id),
        "{}",
        s.host_id
    );
    assert!(
        s.server_url.starts_with("http")
            && !s.server_url.ends_with('/')
            && !s.server_url.contains(char::is_whitespace)
    );
    assert!(s.hub.listen.parse::<std::net::SocketAddr>().is_ok() && s.hub.data_dir.is_absolute());
    assert!(
        s.api_key
            .iter()
            .chain(&s.hub.master_key)
            .all(|key| config::check_key(&key.0).as_ref() == Ok(&key.0))
    );
    match s.hub.reserve {
        config::Reserve::Percent(part) => assert!((0.0..=90.0).contains(&part)),
        config::Reserve::Bytes(n) => assert!(n <= 1_000_000_000_000),
    }
}

/// The number after "line ".
fn line_of(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once(", line ")?;
    rest.split(':').next()?.parse().ok()
}

/// Tokens: only what was given out is accepted, and only as long as it is good. The first three bytes say how it is changed.
pub fn token(bytes: &[u8]) {
    let [a, b, change, text @ ..] = bytes else {
        return;
    };
    let text = String::from_utf8_lossy(text).into_owned();
    let secret = b"0123456789abcdef0123456789abcdef";
    let refused = |token: &str| assert_eq!(hub_token::verify(secret, token, NOW), None, "{token}");
    refused(&text);
    let (sub, kid) = text
        .split_once(' ')
        .unwrap_or((&text, "web-1:0123456789ab"));
    let token = hub_token::issue(secret, sub, kid.into(), NOW);
    refused(&format!(
        "{}{text}",
        &token[..token.find('.').unwrap_or(0) + 1]
    ));
    refused(&format!(
        "{}{text}",
        &token[..token.rfind('.').unwrap_or(0) + 1]
    ));
    let Some(claims) = hub_token::verify(secret, &token, NOW) else {
        // names are much shorter
        return assert!(token.len() > 1024 && sub.len() + kid.len() > 100, "{token}");
    };
    assert_eq!(
        (
            claims.sub.as_str(),
            claims.kid.as_str(),
            claims.iat,
            claims.exp
        ),
        (sub, kid, NOW, NOW + hub_token::LIFETIME)
    );
    assert_eq!(hub_token::verify(secret, &token, claims.exp), None);
    assert_eq!(hub_token::verify(secret, &token, NOW - 301), None);
    assert_eq!(
        hub_token::verify(b"another secret of the same length", &token, NOW),
        None
    );

    let at = usize::from(u16::from_be_bytes([*a, *b])) % token.len();
    let mut changed = token.clone().into_bytes();
    changed[at] ^= (*change & 0x7f).max(1);
    refused(&String::from_utf8_lossy(&changed));
    changed[at] = token.as_bytes()[at];
    changed.insert(at, *change & 0x7f);
    // one in front of its like gives the same text as one behind it, and both are longer than what was given out
    refused(&String::from_utf8_lossy(&changed));
    refused(&token[..at]);
    refused(&token[at + 1..]);
    refused(&format!("{token}{}", &token[at..]));
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
