//! Requests and replies as the server passes them to the routes and back.
//!
//! It knows no sockets, no tiny_http and no route.

use std::borrow::Cow;
use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::rights::{Administration, InboxRight, Right, Rights};
use super::subscribers::StreamWakeup;
use crate::error::{Error, Kind};
use crate::wire;
use crate::wire::scope::Scope;

/// The caller of a request, identified by key, token and address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A caller with the master key or the hub's `local.key`, or in protected mode any program on this machine.
    Admin,
    /// A caller with a host's key: it acts for this host only, within these rights.
    Host(String, Arc<Rights>),
    /// A caller without a key, on a hub with `--allow-anonymous`: it acts for any host, and administers nothing.
    Anonymous,
    /// A caller with a token for the page: it sees all hosts, counts and changes of files, and nothing else.
    Viewer,
    /// Another hub of the same bucket: it tells what it has heard, and nothing else.
    Hub,
    /// A caller of a route without a key: health, login and the page.
    Nobody,
}

impl Caller {
    /// The only host that it may act for; `None`: any.
    pub fn host(&self) -> Option<&str> {
        match self {
            Caller::Host(host, _) => Some(host),
            Caller::Admin | Caller::Anonymous | Caller::Viewer | Caller::Hub | Caller::Nobody => {
                None
            }
        }
    }

    /// Its rights and its name if a key limits it; `None`: everything, or everything except administration.
    pub fn limits(&self) -> Option<(&Rights, &str)> {
        match self {
            Caller::Host(host, rights) => Some((rights, host)),
            Caller::Admin | Caller::Anonymous | Caller::Viewer | Caller::Hub | Caller::Nobody => {
                None
            }
        }
    }

    pub fn administers(&self) -> bool {
        match self {
            Caller::Admin => true,
            Caller::Host(_, rights) => rights.administration == Administration::Yes,
            Caller::Anonymous | Caller::Viewer | Caller::Hub | Caller::Nobody => false,
        }
    }

    /// Checks that it may use a route with this right; the error is the answer.
    pub fn check(&self, right: Right) -> Result<(), Reply> {
        match self {
            Caller::Host(host, rights) => rights
                .check(right, host)
                .map_err(|why| Reply::lacks(right.name(), why)),
            Caller::Admin => Ok(()),
            Caller::Hub if right != Right::Hub => Err(Reply::lacks(
                right.name(),
                "this token is only for calls between hubs".into(),
            )),
            Caller::Hub => Ok(()),
            Caller::Viewer if right != Right::Any => Err(Reply::lacks(
                right.name(),
                "this token is for the page of the hub only".into(),
            )),
            Caller::Viewer => Ok(()),
            Caller::Anonymous | Caller::Nobody if right == Right::Hub => Err(Reply::lacks(
                right.name(),
                "only another hub of the bucket can do this".into(),
            )),
            Caller::Anonymous | Caller::Nobody if right == Right::Admin => Err(Reply::error(
                403,
                "only the master key, the hub's own, or a key with --admin can do this",
            )),
            Caller::Anonymous | Caller::Nobody => Ok(()),
        }
    }

    /// The rights of a caller that may not read all files.
    pub fn limited_reader(&self) -> Option<&Arc<Rights>> {
        match self {
            Caller::Host(_, rights) if !rights.reads_all() => Some(rights),
            _ => None,
        }
    }

    pub fn receives(&self) -> bool {
        self.limits()
            .is_none_or(|(rights, _)| rights.inbox == InboxRight::Open)
    }

    /// The only host that it may see in lists; `None`: all.
    pub fn sees_host(&self) -> Option<&str> {
        self.host().filter(|_| !self.administers())
    }

    /// The host's name in lower case, if the caller may act for it.
    pub fn act_for(&self, host: &str) -> Result<String, Reply> {
        let host = wire::check_host(host).map_err(|why| Reply::error(400, why))?;
        if matches!(self, Caller::Viewer | Caller::Hub) {
            let words = "this token is for the page of the hub or for hubs, and acts for no host";
            return Err(Reply::error(403, words));
        }
        match self.host().filter(|own| *own != host) {
            Some(own) => Err(Reply::error(
                403,
                format!(
                    "this key belongs to \"{own}\" and cannot act for \"{host}\": set host_id to \"{own}\" on this machine, or run \"mesync key add {host}\" on the hub"
                ),
            )),
            None => Ok(host),
        }
    }
}

/// Header fields, names in lower case.
pub type Headers = [(String, String)];

/// The first field of that name.
pub fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(n, _)| n == name)
        .map(|(_, value)| value.as_str())
}

/// A request whose head was checked, whose caller is known, and whose body is complete unless a job reads it.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// Not percent-decoded: `/api/hosts/web-1`.
    pub path: String,
    /// The part after `?`, or "".
    pub query: String,
    /// With lower-case names; only headers that the server passes on.
    pub headers: Vec<(String, String)>,
    pub peer: IpAddr,
    pub caller: Caller,
    /// Empty if `length` exceeds what the server reads beforehand: then the reply is a [`Job::Upload`].
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
        self.parameters(name).next()
    }

    fn parameters(&self, name: &str) -> impl Iterator<Item = String> {
        self.query.split('&').filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
    }

    /// The directories that the parameters `path` name; all files without one.
    pub fn scope(&self) -> Result<Scope, Reply> {
        let dirs: Vec<String> = self.parameters("path").collect();
        Scope::below(dirs.iter().map(String::as_str)).map_err(|why| {
            let hint = "name a directory, as in path=docs/2026, and percent-encode it";
            Reply::error(400, format!("invalid parameter \"path\": {why}; {hint}"))
        })
    }

    /// A parsed parameter; `kind` names its type in errors.
    pub fn parsed<T>(
        &self,
        name: &str,
        kind: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Reply> {
        let Some(text) = self.parameter(name) else {
            return Ok(None);
        };
        let wrong = || {
            Reply::error(
                400,
                format!(
                    "the parameter \"{name}\" must be {kind}, not \"{}\"",
                    wire::brief(&text)
                ),
            )
        };
        parse(&text).map(Some).ok_or_else(wrong)
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>, Reply> {
        self.parsed(name, "a whole number", |text| text.parse().ok())
    }
}

fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(&text.replace('+', " "))
        .decode_utf8_lossy()
        .into_owned()
}

/// The answer to a request.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub content_type: Cow<'static, str>,
    /// At most [`Reply::INLINE`] bytes; longer answers are jobs.
    pub body: Vec<u8>,
    /// Long work, run on the thread that serves the client's connection; its outcome is the answer.
    pub job: Option<Job>,
}

pub type UploadJob = Box<dyn FnOnce(&mut dyn Read) -> Reply + Send>;

/// Long work handed back to the server.
pub enum Job {
    /// Reads a long body, then answers.
    Upload(UploadJob),
    /// An answer too long for [`Reply::INLINE`].
    Bytes(Vec<u8>),
    /// A download: an answer of this length that is read while it is written. An early end or a failure ends the connection.
    Send {
        length: u64,
        reader: Box<dyn Read + Send>,
    },
    /// An event stream, until its writer ends, its reader disconnects or accepts nothing for 30 s, or the hub stops.
    Stream(Box<dyn Pieces>),
}

/// The pieces of an event stream, by its writer. The server calls it on the thread of all streams, so no call waits.
pub trait Pieces: Send {
    /// Called first; `wakeup` is to be called whenever [`Pieces::is_woken`] becomes true.
    fn begin(&mut self, wakeup: StreamWakeup);
    /// There may be something new since the last call of `write` began.
    fn is_woken(&self) -> bool;
    /// Appends the next piece, of about 16 KiB at most.
    fn write(&mut self, into: &mut Vec<u8>) -> io::Result<AfterPiece>;
    /// Appends a line that is no event, after some time without a piece.
    fn keep_alive(&mut self, into: &mut Vec<u8>) -> io::Result<AfterPiece>;
}

/// What follows a piece of an event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterPiece {
    /// Another piece may be there already.
    More,
    /// Nothing, until the writer is woken.
    Idle,
    /// The end of the stream.
    End,
}

impl Reply {
    /// Bytes of an answer that needs no job, at most.
    pub const INLINE: usize = 64 * 1024;

    pub fn json(status: u16, value: &impl Serialize) -> Reply {
        Reply::text(
            status,
            "application/json",
            serde_json::to_string(value).unwrap_or_else(|_| "{}".into()),
        )
    }

    /// `{"error": …}`; the text tells the user what to do.
    pub fn error(status: u16, words: impl Into<String>) -> Reply {
        Reply::json(
            status,
            &wire::ErrorAnswer {
                error: words.into(),
            },
        )
    }

    /// 403: the key lacks a right.
    pub fn lacks(right: &str, words: String) -> Reply {
        Reply::json(
            403,
            &wire::LacksRight {
                error: words,
                lacks: right.into(),
            },
        )
    }

    /// Without a body, as for 204.
    pub fn empty(status: u16) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            content_type: "application/json".into(),
            body: Vec::new(),
            job: None,
        }
    }

    /// An answer by a job, or the head of one that a job writes.
    pub fn job(content_type: impl Into<Cow<'static, str>>, job: Job) -> Reply {
        Reply {
            content_type: content_type.into(),
            job: Some(job),
            ..Reply::empty(200)
        }
    }

    /// 503: the same request may succeed soon.
    pub fn busy() -> Reply {
        Reply::error(503, "the hub is busy; retry").header("Retry-After", "1")
    }

    /// 507.
    pub fn disk_full() -> Reply {
        Reply::error(507, "the hub's disk is almost full: free some space")
            .header("Retry-After", "30")
    }

    /// 503: the store cannot be read or written.
    pub fn failed(e: &Error) -> Reply {
        let words = match e.kind {
            Kind::Busy => format!("the hub cannot do that now: {e}"),
            _ => format!("the hub's store has failed: {e}"),
        };
        Reply::error(503, words).header("Retry-After", "5")
    }

    /// A body of any length: inline if it is short, else a job.
    pub fn text(status: u16, content_type: &'static str, body: String) -> Reply {
        Reply::bytes(status, content_type, body.into_bytes())
    }

    /// [`Reply::text`] of any bytes.
    pub fn bytes(status: u16, content_type: &'static str, body: Vec<u8>) -> Reply {
        let mut reply = Reply {
            status,
            headers: Vec::new(),
            content_type: content_type.into(),
            body,
            job: None,
        };
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
