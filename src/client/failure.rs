//! Failed calls: the response as text for a user and as a value for the program.
//!
//! It decides only the kind of an error; the caller decides whether to retry.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ureq::http;

use super::body::ByteSourceError;
use super::endpoints::Endpoint;
use super::header::media_type;
use super::url::bare;
use super::{HubClient, MAX_ANSWER_BYTES};
use crate::error::{Error, Kind, plain};
use crate::logger::one_line;
use crate::pins;
use crate::wire::files::{Hash, MissingChunks, Record};
use crate::wire::{self, ErrorAnswer};

/// A call that did not succeed.
#[derive(Debug)]
pub struct Failure {
    pub error: Error,
    /// The status of the response; 0 if there was none.
    pub status: u16,
    /// The pause that the hub asked for.
    pub retry_after: Option<Duration>,
    pub told: ErrorDetail,
}

/// Details of an error response.
#[derive(Debug, Default)]
pub enum ErrorDetail {
    #[default]
    Nothing,
    /// 412: the current record, which differs from the condition.
    Current(Option<Box<Record>>),
    /// 409: chunks that the hub does not have.
    Missing(Vec<Hash>),
    /// 403: the key is known, and lacks this right.
    LacksRight(String),
    /// The server is not a hub.
    Foreign,
    /// The server has another certificate than the hub that this machine knows.
    OtherCertificate,
}

/// The remedies for a URL with the other scheme than the port has.
const TRY_HTTPS: &str = "if that port speaks TLS only, use https:// in server_url";
const TRY_HTTP: &str = "if that port speaks plain HTTP, use http:// in server_url";

/// How the words of a hub begin for a route that it does not have.
const NO_SUCH_ROUTE: &str = "there is nothing at ";

/// The words of `s3em` for a request that is longer than it reads.
const S3EM_READ_FAILURE: &str = "Failed to read file";

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure {
            error,
            status: 0,
            retry_after: None,
            told: ErrorDetail::Nothing,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

impl Failure {
    /// Whether a server other than a hub has responded.
    pub fn is_foreign(&self) -> bool {
        matches!(self.told, ErrorDetail::Foreign)
    }

    /// Whether the hub knows the key, but the key lacks the right.
    pub fn lacks_right(&self) -> bool {
        matches!(self.told, ErrorDetail::LacksRight(_))
    }

    /// Whether it happened on this machine: its disk failed, or what the hub sent is wrong.
    pub fn is_local(&self) -> bool {
        self.status == 0 && self.error.kind != Kind::Unreachable
    }

    /// Whether a retry may succeed soon: the connection broke, or the hub is busy. A full disk does
    /// not recover by itself.
    pub fn is_transient(&self) -> bool {
        match self.status {
            0 => self.error.kind == Kind::Unreachable,
            408 | 425 | 429 | 500..=506 | 508..=599 => true,
            _ => false,
        }
    }
}

/// A response with another status than was wanted, read to its end.
pub(super) struct ErrorResponse {
    pub(super) status: u16,
    media_type: String,
    retry_after: Option<Duration>,
    /// At most [`MAX_ANSWER_BYTES`]; empty: it could not be read.
    pub(super) body: Vec<u8>,
}

impl ErrorResponse {
    pub(super) fn read(answer: http::Response<ureq::Body>) -> ErrorResponse {
        let retry_after = answer.headers().get("retry-after");
        ErrorResponse {
            status: answer.status().as_u16(),
            media_type: media_type(&answer),
            retry_after: retry_after
                .and_then(|v| v.to_str().ok()?.parse().ok())
                .map(Duration::from_secs),
            body: answer
                .into_body()
                .with_config()
                .limit(MAX_ANSWER_BYTES)
                .read_to_vec()
                .unwrap_or_default(),
        }
    }
}

pub type HubResult<T> = std::result::Result<T, Failure>;

impl HubClient {
    /// [`HubClient::unreachable_at`] the hub that is called now.
    pub(super) fn unreachable(&self, e: ureq::Error) -> Failure {
        self.unreachable_at(self.endpoints.current(), e)
    }

    /// The failure of a connection, of the data received over it, or of the local side.
    pub(super) fn unreachable_at(&self, endpoint: &Endpoint, e: ureq::Error) -> Failure {
        let (url, other_scheme) = (&endpoint.url, || self.other_scheme(&endpoint.url));
        let (why, hint) = match &e {
            ureq::Error::Io(e) if broken(e).is_some() => return own_fault(e).into(),
            ureq::Error::Io(e) if url.starts_with("https:") && pins::has_no_tls(e) => {
                (pins::NO_TLS.into(), Some(TRY_HTTP))
            }
            ureq::Error::Io(e) if pins::has_no_tls(e) && self.fingerprint().is_some() => (
                "it answers without TLS".into(),
                Some(
                    "a hub does so while it has too many connections; or another program has its port",
                ),
            ),
            ureq::Error::Io(e) if pins::refusal(e).is_some() => {
                let (why, hint) = pins::refusal(e).unwrap_or_default();
                (why.to_string(), Some(hint))
            }
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => (
                "connection refused".to_string(),
                Some("is \"mesync serve\" running there?"),
            ),
            // a port that speaks TLS only may close the connection, and so may a hub that stops
            ureq::Error::Io(e) if is_stale(e) && !endpoint.has_responded.load(Relaxed) => {
                (plain(e), other_scheme())
            }
            ureq::Error::Io(e) => (plain(e), None),
            ureq::Error::HostNotFound => (
                "no such host".to_string(),
                Some("check server_url, or MESYNC_SERVER_URL"),
            ),
            ureq::Error::ConnectionFailed => (
                "connection failed".to_string(),
                Some("is \"mesync serve\" running there?"),
            ),
            ureq::Error::Timeout(_) => ("no response in time".to_string(), None),
            ureq::Error::BodyExceedsLimit(_) => {
                ("its answer is too long for a mesync hub".to_string(), None)
            }
            ureq::Error::ConnectProxyFailed(reason) => (
                format!(
                    "the proxy refuses to connect: {}",
                    one_line(&wire::brief(reason))
                ),
                None,
            ),
            ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => {
                ("it does not speak HTTP".to_string(), other_scheme())
            }
            other => (other.to_string(), None),
        };
        let (way, hint) = match &endpoint.proxy {
            // the proxy, or a host behind it, does not respond
            Some(proxy) => (
                format!(
                    " through the proxy {} (set by {})",
                    proxy.address, proxy.variable
                ),
                Some(
                    "is the proxy up, and may it connect there? NO_PROXY names hosts to call directly",
                ),
            ),
            None => (String::new(), hint),
        };
        let error = Error::new(
            Kind::Unreachable,
            format!("cannot reach hub {url}{way}: {why}"),
        );
        let told = match &e {
            ureq::Error::Io(e) if pins::is_other_certificate(e) => ErrorDetail::OtherCertificate,
            _ => ErrorDetail::Nothing,
        };
        let error = match hint {
            Some(hint) => error.hint(hint),
            None => error,
        };
        Failure {
            told,
            ..error.into()
        }
    }

    /// The remedy if the port may need TLS, which this client does not use.
    fn other_scheme(&self, url: &str) -> Option<&'static str> {
        (self.pins.is_none() && url.starts_with("http:")).then_some(TRY_HTTPS)
    }

    /// The failure of reading a long response.
    pub(super) fn interrupted(&self, e: &std::io::Error) -> Failure {
        Error::new(
            Kind::Unreachable,
            format!("cannot read from hub {}: {}", self.url(), plain(e)),
        )
        .into()
    }

    pub(super) fn not_a_hub(&self, what: &str) -> Error {
        Error::new(Kind::Unreachable, format!("the server at {} does not answer as a mesync hub: {what}", self.url()))
            .hint("check server_url; does another program use that port, or does the network require a login?")
    }

    /// A response that is not from a hub, whatever its status: the caller treats it as none.
    pub(super) fn foreign(&self, status: u16, media_type: &str, path: &str) -> Failure {
        let found = if media_type.is_empty() {
            "no type".to_string()
        } else {
            one_line(&wire::brief(media_type))
        };
        let error = self.not_a_hub(&format!("status {status} with {found} at {}", bare(path)));
        Failure {
            told: ErrorDetail::Foreign,
            // the answer of other servers to plain HTTP at a port for TLS
            ..match self.other_scheme(self.url()).filter(|_| status == 400) {
                Some(hint) => error.hint(hint).into(),
                None => error.into(),
            }
        }
    }

    /// An error response, in the words of the hub.
    pub(super) fn refused(&self, answer: http::Response<ureq::Body>, path: &str) -> Failure {
        self.failure_of(ErrorResponse::read(answer), path)
    }

    pub(super) fn failure_of(&self, response: ErrorResponse, path: &str) -> Failure {
        let ErrorResponse {
            status,
            media_type,
            retry_after,
            body,
        } = response;
        let words = serde_json::from_slice::<ErrorAnswer>(&body)
            .ok()
            .map(|e| e.error);
        // a proxy uses its own words to refuse a long request, or to report an unreachable hub
        let own_words = matches!(status, 408 | 413 | 425 | 429 | 500..=510 | 512..=599);
        let hubs = words.is_some() || status == 412 && media_type == "application/json";
        if !hubs && !own_words && (self.may_be_ours() || media_type == "text/html") {
            return self.foreign(status, &media_type, path);
        }
        let too_long =
            !self.may_be_ours() && (status == 413 || words.as_deref() == Some(S3EM_READ_FAILURE));
        // whatever the server calls it: a repetition does not help
        let status = if too_long { 413 } else { status };
        let told = match status {
            409 => serde_json::from_slice::<MissingChunks>(&body)
                .map_or(ErrorDetail::Nothing, |m| ErrorDetail::Missing(m.missing)),
            412 => serde_json::from_slice(&body).map_or(ErrorDetail::Nothing, ErrorDetail::Current),
            403 => serde_json::from_slice::<wire::LacksRight>(&body)
                .map_or(ErrorDetail::Nothing, |answer| {
                    ErrorDetail::LacksRight(answer.lacks)
                }),
            _ => ErrorDetail::Nothing,
        };
        let said =
            |words: Option<String>| words.map_or(format!("status {status}"), |w| one_line(&w));
        let error = match (status, words) {
            (_, words) if too_long => Error::new(
                Kind::Refused,
                format!(
                    "server {} accepts no file of this length: {}",
                    self.url(),
                    said(words)
                ),
            )
            .hint("s3em reads at most 2 MB a request; a mesync hub has no such limit"),
            (401, words) => {
                let hub_says_how = words.as_ref().is_some_and(|w| w.contains("mesync key add"));
                let error = Error::new(
                    Kind::Refused,
                    format!("hub {} refuses this machine: {}", self.url(), said(words)),
                );
                if hub_says_how {
                    error
                } else {
                    error.hint("run \"mesync key add NAME\" on the hub, then set MESYNC_API_KEY or api_key_file here")
                }
            }
            (403, Some(words)) if matches!(told, ErrorDetail::LacksRight(_)) => Error::new(
                Kind::Refused,
                format!("hub {}: {}", self.url(), one_line(&words)),
            ),
            (403, words @ Some(_)) => Error::new(
                Kind::Refused,
                format!("hub {} refuses this machine: {}", self.url(), said(words)),
            ),
            (404, Some(words)) if words.starts_with(NO_SUCH_ROUTE) => Error::new(
                Kind::Unreachable,
                format!(
                    "hub {} does not know {}: it is of an older version",
                    self.url(),
                    bare(path)
                ),
            )
            .hint("update mesync on the hub, and restart it"),
            // a mesync hub uses this status only for a host, a file or a machine that it does not know
            (404 | 405, words)
                if !(path.starts_with("/api/hosts/")
                    || path.starts_with("/api/join/") && words.is_some()
                    || path.starts_with("/api/files/") && words.is_some()) =>
            {
                self.not_a_hub(&format!("status {status} for {}", bare(path)))
            }
            (300..=399, _) => self.not_a_hub(&format!("status {status} for {}", bare(path))),
            (412, _) => Error::new(
                Kind::Refused,
                format!("hub {} has another revision now", self.url()),
            )
            .hint("look at the file, then repeat the command"),
            (409, words) if matches!(told, ErrorDetail::Missing(_)) => Error::new(
                Kind::Busy,
                format!("hub {} cannot do it now: {}", self.url(), said(words)),
            ),
            (408 | 425 | 429 | 500..=599, words) => Error::new(
                Kind::Busy,
                format!("hub {} cannot do it now: {}", self.url(), said(words)),
            ),
            (_, words) => Error::new(
                Kind::Refused,
                format!("hub {} refuses {}: {}", self.url(), bare(path), said(words)),
            ),
        };
        Failure {
            error,
            status,
            retry_after,
            told,
        }
    }
}

/// No hub of a list was reached: the words about each, and what else is known of the last.
pub(super) fn all(mut failures: Vec<Failure>) -> Failure {
    let words: Vec<_> = failures.iter().map(|f| f.error.what.as_str()).collect();
    let what = words.join("; ");
    let last = failures.pop();
    let hint = last.as_ref().and_then(|last| last.error.hint.clone());
    let error = Error {
        hint,
        ..Error::new(Kind::Unreachable, what)
    };
    Failure {
        told: last.map_or(ErrorDetail::Nothing, |last| last.told),
        ..error.into()
    }
}

fn broken(e: &std::io::Error) -> Option<&ByteSourceError> {
    e.get_ref()?.downcast_ref()
}

/// The local data to send could not be read.
fn own_fault(e: &std::io::Error) -> Error {
    match broken(e) {
        Some(ByteSourceError::Read(e)) => Error::new(
            Kind::Io,
            format!("cannot read what was to be sent: {}", plain(e)),
        ),
        _ => Error::new(Kind::Busy, "the file changed while it was read")
            .hint("repeat it when no program writes to it"),
    }
}

/// Whether the peer closed a kept connection before it responded to any of the request.
pub(super) fn is_stale(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        e.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}
