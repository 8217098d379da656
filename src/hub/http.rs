//! Requests and replies of the hub, in its own words: what the guard hands to the routes and gets back.
//!
//! Knows nothing of sockets, of tiny_http or of any route.

use std::io::{self, Read};
use std::net::IpAddr;

use serde::Serialize;

/// Who asks, as the guard found out from key, token and address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The master key, the hub's own `local.key`, or anybody on this machine in protected mode.
    Admin,
    /// A host's key: acts for this host only.
    Host(String),
    /// Nobody in particular, where the hub was opened with `--allow-anonymous`: acts for any host, administers nothing.
    Anonymous,
    /// No key was asked for: health, login and the page.
    Nobody,
}

/// Header fields, names in lower case.
pub type Headers = [(String, String)];

/// The first field of that name.
pub fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

/// A request whose head was checked, whose caller is known, and whose body is complete unless it goes to a job.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// Percent-decoded nowhere: `/api/hosts/web-1`.
    pub path: String,
    /// What follows `?`, or "".
    pub query: String,
    /// Lower-case names; only those that the guard passes on.
    pub headers: Vec<(String, String)>,
    pub peer: IpAddr,
    pub caller: Caller,
    /// Empty when `length` exceeds what the guard reads beforehand: then the reply is a [`Job::Upload`].
    pub body: Vec<u8>,
    /// The announced length of the body.
    pub length: u64,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// A percent-decoded parameter of the query; the first if there are several. `+` is a space.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
    }
}

fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// The answer to a request.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub content_type: &'static str,
    /// At most [`Reply::INLINE`] bytes; longer answers are jobs.
    pub body: Vec<u8>,
    /// Long work, run on the thread that serves the client's connection; its outcome is the answer.
    pub job: Option<Job>,
}

pub type UploadJob = Box<dyn FnOnce(&mut dyn Read) -> Reply + Send>;
pub type StreamJob = Box<dyn FnOnce(&mut dyn Pieces) -> io::Result<()> + Send>;

/// Long work handed back to the guard.
pub enum Job {
    /// Reads a body that was too long to be read beforehand, then answers.
    Upload(UploadJob),
    /// An answer too long for [`Reply::INLINE`].
    Bytes(Vec<u8>),
    /// An answer of this length, read as it is written: a download. A reader that ends early ends the connection.
    Send { length: u64, reader: Box<dyn Read + Send> },
    /// Writes pieces until it returns: an event stream. Each piece goes out at once; an error means the reader is gone.
    Stream(StreamJob),
}

/// Where an event stream writes.
pub trait Pieces {
    /// Writes the piece at once; fails when the reader is gone, or takes nothing for 30 s.
    fn send(&mut self, piece: &[u8]) -> io::Result<()>;
    /// The hub is shutting down: return soon.
    fn stopping(&self) -> bool;
}

impl Reply {
    /// Bytes of an ordinary answer, at most.
    pub const INLINE: usize = 64 * 1024;

    pub fn json(status: u16, value: &impl Serialize) -> Reply {
        Reply::text(status, "application/json", serde_json::to_string(value).unwrap_or_else(|_| "{}".into()))
    }

    /// `{"error": …}`; the words tell the user what to do.
    pub fn error(status: u16, words: impl Into<String>) -> Reply {
        Reply::json(status, &crate::wire::ErrorAnswer { error: words.into() })
    }

    /// No body, as 204 wants it.
    pub fn empty(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), content_type: "application/json", body: Vec::new(), job: None }
    }

    /// A body of any length: inline if it is short, else a job.
    pub fn text(status: u16, content_type: &'static str, body: String) -> Reply {
        let mut reply = Reply { status, headers: Vec::new(), content_type, body: body.into_bytes(), job: None };
        if reply.body.len() > Reply::INLINE {
            reply.job = Some(Job::Bytes(std::mem::take(&mut reply.body)));
        }
        reply
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }
}
