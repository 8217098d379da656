//! A request to `s3em`, read from its connection, and the parts of a form.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::BODY;

pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: HashMap<String, String>,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

pub(super) fn read_request(
    reader: &mut BufReader<TcpStream>,
    mut stream: &TcpStream,
    received: &AtomicU64,
) -> Option<Result<Request, u16>> {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        Some(line.trim_end().to_string())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
    let mut headers = HashMap::new();
    while let Some((name, value)) = line()?.split_once(':') {
        headers.insert(name.to_lowercase(), value.trim().to_string());
    }
    let length: usize = headers
        .get("content-length")
        .map_or(0, |n| n.parse().unwrap());
    if headers.contains_key("expect") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if length > BODY {
        return Some(Err(400));
    }
    received.fetch_add(length as u64, Relaxed);
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let decoded = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8_lossy()
            .into_owned()
    };
    let query = query
        .split('&')
        .filter_map(|p| p.split_once('='))
        .map(|(n, v)| (n.to_string(), decoded(v)))
        .collect();
    Some(Ok(Request {
        method,
        path: path.to_string(),
        query,
        headers,
        body,
    }))
}

/// The parts of a form by their names.
pub(super) fn parts(body: &[u8], boundary: &str) -> HashMap<String, Vec<u8>> {
    let find = |from: usize, what: &[u8]| {
        body[from..]
            .windows(what.len())
            .position(|w| w == what)
            .map(|at| from + at)
    };
    let (mark, mut parts, mut at) = (
        format!("\r\n--{boundary}"),
        HashMap::new(),
        format!("--{boundary}\r\n").len(),
    );
    while let (Some(head_end), Some(end)) = (find(at, b"\r\n\r\n"), find(at, mark.as_bytes())) {
        let head = String::from_utf8_lossy(&body[at..head_end]).into_owned();
        if let Some(name) = head
            .split("; name=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
        {
            parts.insert(name.to_string(), body[head_end + 4..end].to_vec());
        }
        at = end + mark.len() + 2;
        if at >= body.len() {
            break;
        }
    }
    parts
}
