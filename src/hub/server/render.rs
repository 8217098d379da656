//! The bytes of an answer to a client, and the answer of a busy server. Pure.

use std::fmt::Write as _;

use super::pool::WorkerResponse;
use crate::hub::http::Reply;

/// 503: the same request may succeed in a moment.
pub fn busy(words: &str) -> Reply {
    Reply::error(503, format!("{words}: try again")).header("Retry-After", "2")
}

/// The bytes of an answer: head and body in one piece if the body is short, else the head, and the body apart.
pub fn render(answer: &WorkerResponse, keep_alive: bool, head_only: bool) -> (Vec<u8>, &[u8]) {
    // these statuses have no body, and 204 has no length either (RFC 9110, 8.6)
    let bodiless = matches!(answer.status, 100..200 | 204 | 304);
    let mut bytes = head_of(
        answer,
        (!bodiless).then_some(answer.body.len() as u64),
        keep_alive,
    );
    let body = if bodiless || head_only {
        &[]
    } else {
        answer.body.as_slice()
    };
    if body.len() <= Reply::INLINE {
        bytes.extend_from_slice(body);
        return (bytes, &[]);
    }
    (bytes, body)
}

/// A head with its empty line. `length` is `None` if there is no body, or if it ends with the connection.
pub fn head_of(answer: &WorkerResponse, length: Option<u64>, keep_alive: bool) -> Vec<u8> {
    let mut text = status_line(answer.status);
    for (name, value) in &answer.headers {
        if !matches!(answer.status, 204 | 304) || name != "Content-Type" {
            let _ = write!(text, "{name}: {value}\r\n");
        }
    }
    text.push_str("X-Content-Type-Options: nosniff\r\n");
    if let Some(length) = length {
        let _ = write!(text, "Content-Length: {length}\r\n");
    }
    text.push_str(if keep_alive {
        "Connection: keep-alive\r\n\r\n"
    } else {
        "Connection: close\r\n\r\n"
    });
    text.into_bytes()
}

fn status_line(status: u16) -> String {
    let words = match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        // programs ignore the reason phrase, which may be empty (RFC 9112, 4)
        _ => "",
    };
    let mut text = String::with_capacity(256);
    let _ = write!(text, "HTTP/1.1 {status} {words}\r\n");
    text
}
