//! Heads and bodies of requests, streams of events, and tokens.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr};

use mesync::internals::hub::http::{Caller, Request};
use mesync::internals::hub::server::head as guard;
use mesync::internals::hub::server::head::{Head, MAX_HEAD, MAX_TARGET};
use mesync::internals::hub::{protected, routes, token as hub_token};
use mesync::internals::{sse as events, wire};

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
