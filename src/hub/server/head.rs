//! Parses the head of a request strictly: one that can be read in two ways is refused. Pure: it reads no socket and knows
//! no route.
//!
//! Request smuggling needs two programs that read one message differently (RFC 9112, 11.2), so none of the lenient
//! readings that the RFC permits is used.

use super::counters::Reason;

/// Bytes of a head at most, including the empty line that ends it.
pub const MAX_HEAD: usize = 16 * 1024;
/// Bytes of a request target at most: a path of 1024 bytes, all percent-encoded, and room for the rest.
pub const MAX_TARGET: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;

/// Headers that may occur only once.
const SINGLE: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "content-type",
    "authorization",
    "x-api-key",
    "expect",
    "origin",
    "range",
    "if-match",
    "if-none-match",
    "if-range",
    "idempotency-key",
    "last-event-id",
    crate::wire::files::HOST_HEADER,
    crate::wire::files::HISTORY_HEADER,
    crate::wire::fleet::STATE_HEADER,
];

/// The head of a well-formed request. Its `Debug` leaves out the headers, which contain keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    /// GET, HEAD, POST, PUT or DELETE.
    pub method: String,
    /// Begins with `/`; visible ASCII, not percent-decoded.
    pub path: String,
    /// The part after `?`, or "".
    pub query: String,
    /// Lower-case names, in the order of the request.
    pub headers: Vec<(String, String)>,
    /// The announced length of the body; 0 when none was announced.
    pub length: u64,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The client can use the connection again.
    pub keep_alive: bool,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({} bytes)", self.method, self.path, self.length)
    }
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub words: &'static str,
    pub reason: Reason,
}

const fn refusal(status: u16, words: &'static str) -> Refusal {
    Refusal {
        status,
        words,
        reason: Reason::Head,
    }
}

const fn too_large(status: u16, words: &'static str) -> Refusal {
    Refusal {
        status,
        words,
        reason: Reason::HeadSize,
    }
}

/// Finds the end of the head, after its empty line. The first `from` bytes were searched before; `None`: it is incomplete.
pub fn end(bytes: &[u8], from: usize) -> Result<Option<usize>, Refusal> {
    for at in from..bytes.len().min(MAX_HEAD) {
        let cr_before = at > 0 && bytes[at - 1] == b'\r';
        match bytes[at] {
            0 => return Err(refusal(400, "the head has a NUL byte")),
            b'\n' if !cr_before => {
                return Err(refusal(
                    400,
                    "a line of the head ends with a bare line feed",
                ));
            }
            b'\n' if at == 1 => return Err(refusal(400, "the request begins with an empty line")),
            b'\n' if at >= 3 && bytes[at - 2] == b'\n' => return Ok(Some(at + 1)),
            b'\n' => {}
            _ if cr_before => return Err(refusal(400, "the head has a bare carriage return")),
            b' ' | b'\t' if at > 0 && bytes[at - 1] == b'\n' => {
                return Err(refusal(400, "a line of the head is folded"));
            }
            _ => {}
        }
    }
    if bytes.len() >= MAX_HEAD {
        Err(too_large(431, "the head is longer than 16384 bytes"))
    } else {
        Ok(None)
    }
}

/// Parses a head that [`end`] found complete.
pub fn parse(bytes: &[u8]) -> Result<Head, Refusal> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut lines);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(n)) if n == bytes.len() => {}
        Ok(_) => return Err(refusal(400, "the head is not HTTP")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(too_large(431, "the head has more than 64 lines"));
        }
        Err(httparse::Error::Version) => {
            return Err(refusal(505, "only HTTP/1.1 and HTTP/1.0 are supported"));
        }
        Err(_) => return Err(refusal(400, "the head is not HTTP")),
    }
    let method = match request.method.unwrap_or_default() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE") => known.to_string(),
        _ => return Err(refusal(501, "unknown method")),
    };
    let (path, query) = target(request.path.unwrap_or_default())?;
    let headers = headers(request.headers)?;
    let head = Head {
        method,
        path,
        query,
        headers,
        length: 0,
        expect_continue: false,
        keep_alive: false,
    };

    let host = head.header("host").unwrap_or_default();
    if host.is_empty()
        || !host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
    {
        return Err(refusal(
            400,
            "the head needs one Host that is a name or an address",
        ));
    }
    if head.header("upgrade").is_some() {
        return Err(refusal(
            400,
            "no other protocol is supported: leave out Upgrade",
        ));
    }
    let length = length(&head)?;
    let expect_continue = match head.header("expect") {
        None => false,
        Some(value) if value.eq_ignore_ascii_case("100-continue") => true,
        Some(_) => {
            return Err(refusal(417, "Expect supports only 100-continue"));
        }
    };
    let keep_alive = keep_alive(&head, request.version == Some(1));
    Ok(Head {
        length,
        expect_continue,
        keep_alive,
        ..head
    })
}

fn target(text: &str) -> Result<(String, String), Refusal> {
    if text.len() > MAX_TARGET {
        return Err(too_large(414, "the address is longer than 8192 bytes"));
    }
    // a program that resolves "//host/path" would take it for an address with a host
    if !text.starts_with('/') || text.starts_with("//") {
        return Err(refusal(
            400,
            "the address must be a path that begins with one /",
        ));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(refusal(
            400,
            "the address has characters that must be percent-encoded",
        ));
    }
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    Ok((path.to_string(), query.to_string()))
}

fn headers(lines: &[httparse::Header]) -> Result<Vec<(String, String)>, Refusal> {
    let mut headers: Vec<(String, String)> = Vec::with_capacity(lines.len());
    for line in lines {
        let name = line.name.to_ascii_lowercase();
        // `content_length` is an attack on programs behind a proxy that take it for Content-Length
        if name.contains('_') && SINGLE.contains(&name.replace('_', "-").as_str()) {
            return Err(refusal(400, "a header has _ where - belongs"));
        }
        if SINGLE.contains(&name.as_str()) && headers.iter().any(|(n, _)| *n == name) {
            return Err(refusal(
                400,
                "a header that may occur only once occurs twice",
            ));
        }
        // HTTP knows only these two as white space; str::trim would also remove U+00A0 and others
        headers.push((
            name,
            String::from_utf8_lossy(line.value)
                .trim_matches([' ', '\t'])
                .to_string(),
        ));
    }
    Ok(headers)
}

fn length(head: &Head) -> Result<u64, Refusal> {
    match (
        head.header("transfer-encoding"),
        head.header("content-length"),
    ) {
        (Some(_), Some(_)) => Err(refusal(
            400,
            "Content-Length and Transfer-Encoding exclude each other",
        )),
        (Some(_), None) => Err(refusal(
            411,
            "send the body with a Content-Length, not in chunks",
        )),
        (None, None) => Ok(0),
        // 18 digits fit into u64, and are longer than any disk
        (None, Some(text))
            if (1..=18).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) =>
        {
            text.parse()
                .map_err(|_| refusal(400, "Content-Length is not a number"))
        }
        (None, Some(_)) => Err(refusal(400, "Content-Length is not a number")),
    }
}

fn keep_alive(head: &Head, one_point_one: bool) -> bool {
    let has = |token: &str| {
        let values = head.headers.iter().filter(|(n, _)| n == "connection");
        values
            .flat_map(|(_, v)| v.split(','))
            .any(|t| t.trim_matches([' ', '\t']).eq_ignore_ascii_case(token))
    };
    !has("close") && (one_point_one || has("keep-alive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Option<Head>, Refusal> {
        end(text, 0)?.map(|n| parse(&text[..n])).transpose()
    }

    fn refused(text: &str, status: u16, words: &str) {
        match read(text.as_bytes()) {
            Err(r) => assert!(
                r.status == status && r.words.contains(words),
                "{text:?}: {r:?}"
            ),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    /// `line` is added to a valid request line and Host.
    fn line_refused(line: &str, status: u16, words: &str) {
        refused(
            &format!("PUT /x HTTP/1.1\r\nHost: hub\r\n{line}\r\n\r\n"),
            status,
            words,
        );
    }

    fn taken(text: &str) -> Head {
        read(text.as_bytes())
            .unwrap_or_else(|r| panic!("{text:?}: {r:?}"))
            .unwrap_or_else(|| panic!("{text:?}: incomplete"))
    }

    #[test]
    fn an_ambiguous_head_is_refused() {
        refused("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505, "HTTP/1.1");
        refused("GET / HTTP/1.2\r\nHost: h\r\n\r\n", 505, "HTTP/1.1");
        refused("GET / http/1.1\r\nHost: h\r\n\r\n", 505, "HTTP/1.1");
        refused("GET /\r\nHost: h\r\n\r\n", 400, "not HTTP");
        refused("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "not HTTP");
        refused("GET / x HTTP/1.1\r\nHost: h\r\n\r\n", 505, "HTTP/1.1");
        refused("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "empty line");
        refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/1.1");
        refused("\x16\x03\x01\x02\0", 400, "NUL");
        refused("get / HTTP/1.1\r\nHost: h\r\n\r\n", 501, "method");
        refused("CONNECT /h:1 HTTP/1.1\r\nHost: h\r\n\r\n", 501, "method");
        refused("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", 501, "method");
        refused(
            "GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
            400,
            "begins with one /",
        );
        refused(
            "GET //h/x HTTP/1.1\r\nHost: h\r\n\r\n",
            400,
            "begins with one /",
        );
        refused(
            "GET * HTTP/1.1\r\nHost: h\r\n\r\n",
            400,
            "begins with one /",
        );
        refused(
            "GET /#a HTTP/1.1\r\nHost: h\r\n\r\n",
            400,
            "percent-encoded",
        );
        refused("GET /\u{e4} HTTP/1.1\r\nHost: h\r\n\r\n", 400, "");
        refused(
            &format!(
                "GET /{} HTTP/1.1\r\nHost: h\r\n\r\n",
                "a".repeat(MAX_TARGET)
            ),
            414,
            "8192",
        );
        refused("GET / HTTP/1.1\r\n\r\n", 400, "Host");
        refused("GET / HTTP/1.0\r\n\r\n", 400, "Host");
        refused("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "Host");
        refused("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400, "Host");
        refused(
            "GET / HTTP/1.1\r\nHost: \u{85}localhost\r\n\r\n",
            400,
            "Host",
        );
        refused("GET / HTTP/1.1\nHost: h\n\n", 400, "bare line feed");
        refused(
            "GET / HTTP/1.1\r\nHost: h\r\nA: b\n\r\n",
            400,
            "bare line feed",
        );
        refused(
            "GET / HTTP/1.1\r\nHost: h\rA: b\r\n\r\n",
            400,
            "bare carriage return",
        );
        refused("GET / HTTP/1.1\r\nHost: h\0\r\n\r\n", 400, "NUL");
        line_refused("Host: other", 400, "twice");
        line_refused("A: b\r\n folded", 400, "folded");
        line_refused(" A: b", 400, "folded");
        line_refused("A : b", 400, "not HTTP");
        line_refused("A b", 400, "not HTTP");
        line_refused(": b", 400, "not HTTP");
        line_refused("A: \x01", 400, "not HTTP");
        line_refused("Content-Length: 1\r\nContent-Length: 1", 400, "twice");
        line_refused("Content-Length: 1, 1", 400, "not a number");
        line_refused("Content-Length: +1", 400, "not a number");
        line_refused("Content-Length: -1", 400, "not a number");
        line_refused("Content-Length: 0x10", 400, "not a number");
        line_refused("Content-Length:", 400, "not a number");
        line_refused("Content-Length: \u{a0}1", 400, "not a number");
        line_refused("Content-Length: 1\u{3000}", 400, "not a number");
        line_refused("Content-Length: 18446744073709551616", 400, "not a number");
        line_refused("Content_Length: 1", 400, "where - belongs");
        line_refused("Transfer-Encoding: chunked", 411, "Content-Length");
        line_refused("Transfer-Encoding: identity", 411, "Content-Length");
        line_refused(
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            400,
            "exclude",
        );
        line_refused("Connection: Upgrade\r\nUpgrade: websocket", 400, "Upgrade");
        line_refused("Expect: 200-ok", 417, "100-continue");
        line_refused(
            "Authorization: Bearer a\r\nAuthorization: Bearer b",
            400,
            "twice",
        );
        line_refused(&"A: b\r\n".repeat(64), 431, "64");
        line_refused(&format!("A: {}", "a".repeat(MAX_HEAD)), 431, "16384");
    }

    #[test]
    fn requests_of_s3ec_curl_and_ureq_are_accepted() {
        let head = taken(
            "GET /api/events/history?since=2026-11-21T10:30:00+00:00 HTTP/1.1\r\nHost: hub:8080\r\n\r\n",
        );
        assert_eq!(
            (head.path.as_str(), head.query.as_str()),
            ("/api/events/history", "since=2026-11-21T10:30:00+00:00")
        );
        assert!(head.keep_alive && !head.expect_continue && head.length == 0);

        let head = taken(
            "PUT /x HTTP/1.1\r\nhost: [::1]:80\r\nX-A:  v \r\nExpect: 100-Continue\r\nCONTENT-LENGTH: 007\r\n\r\n",
        );
        assert!(head.expect_continue && head.length == 7);
        assert_eq!(head.header("x-a"), Some("v"));
        assert!(!format!("{head:?}").contains("::1"));

        assert!(!taken("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n").keep_alive);
        assert!(!taken("GET / HTTP/1.0\r\nHost: h\r\n\r\n").keep_alive);
        assert!(taken("GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n").keep_alive);
    }

    #[test]
    fn the_rest_of_an_unfinished_head_is_awaited_wherever_it_is_cut() {
        let text = b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
        for cut in 0..text.len() {
            assert_eq!(end(&text[..cut], 0), Ok(None), "{cut}");
            assert_eq!(end(text, cut), Ok(Some(text.len())), "{cut}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        proptest::proptest!(|(noise in proptest::collection::vec(proptest::num::u8::ANY, 0..200), at in 0usize..30)| {
            let mut text = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
            text.splice(at.min(text.len()).., noise.iter().copied().chain(*b"\r\n\r\n"));
            let _ = read(&text);
        });
    }
}
