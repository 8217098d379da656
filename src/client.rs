//! The hub as clients see it: one method a route.
//!
//! It decides nothing about messages or files, and never waits longer than its deadlines. It sends a key only to the
//! server that it was made for, and follows no redirect.

use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ureq::http;
use uuid::Uuid;

use crate::clock;
use crate::config::Settings;
use crate::credentials::Access;
use crate::error::{Error, Kind, plain};
use crate::logger::one_line;
use crate::tls::Trust;
use crate::wire::files::Backup;
use crate::wire::{self, Cursor, ErrorAnswer, Health, HostInfo, LoginAnswer, PostAnswer, PostResult, PullAnswer};

/// Where to call the hub and with which key; asked before each call, so a new key needs no restart.
pub type AccessSource = Box<dyn Fn() -> crate::error::Result<Access> + Send + Sync>;

/// A call that did not succeed.
#[derive(Debug)]
pub struct Failure {
    pub error: Error,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
    /// The hub named a time to wait.
    pub retry_after: Option<Duration>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, status: 0, retry_after: None }
    }
}

pub type Called<T> = std::result::Result<T, Failure>;

/// What a pull brought.
pub enum Pulled {
    Page(PullAnswer),
    /// The hub has another epoch than the cursor (it was restored, or is a new one): pull without a cursor.
    OtherEpoch,
}

/// One hub, over pooled connections; shared by threads.
pub struct HubClient {
    url: String,
    agent: ureq::Agent,
    /// Event streams: no deadline for the whole, one for each read.
    streams: ureq::Agent,
    access: AccessSource,
    token: Mutex<Option<Token>>,
}

struct Token {
    bearer: String,
    /// What it was issued for, and where: it goes nowhere else.
    access: Access,
    renew_at: Instant,
}

struct Call<'a> {
    method: http::Method,
    path: String,
    content: Option<&'a [u8]>,
    /// Bytes of the answer, at most.
    most: u64,
}

const ANSWER: u64 = 1024 * 1024;

impl HubClient {
    /// The hub of the settings. `http_timeout` is for connecting, for each read and write, and for the beginning of an answer.
    pub fn new(settings: &Settings, access: AccessSource) -> crate::error::Result<HubClient> {
        let (url, timeout) = (settings.server_url.as_str(), settings.http_timeout);
        let trust = settings.ca_file.as_deref().map(Trust::read).transpose()?;
        let config = || {
            let mut config = ureq::Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .user_agent(concat!("mesync/", env!("CARGO_PKG_VERSION")))
                .max_idle_connections(2)
                .input_buffer_size(16 * 1024)
                .output_buffer_size(16 * 1024)
                // below the hub's own limit for idle connections
                .max_idle_age(Duration::from_secs(45))
                .timeout_resolve(Some(timeout))
                .timeout_connect(Some(timeout))
                .timeout_send_request(Some(timeout))
                .timeout_per_write(Some(timeout));
            if is_loopback(url) {
                // a proxy from the environment is for the world outside
                config = config.proxy(None);
            }
            match &trust {
                Some(trust) => trust.apply(config),
                None => config,
            }
        };
        let agent = config().timeout_recv_response(Some(timeout)).timeout_per_read(Some(timeout)).build();
        let stream =
            config().timeout_recv_response(Some(timeout)).timeout_per_read(Some(Duration::from_secs(3 * wire::KEEP_ALIVE))).build();
        Ok(HubClient { url: url.to_string(), agent: agent.new_agent(), streams: stream.new_agent(), access, token: Mutex::new(None) })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Wakes every thread that waits in a call; nothing can be called afterwards.
    pub fn stop(&self) {
        self.agent.clone().shutdown();
        self.streams.clone().shutdown();
    }

    /// `GET /api/health`; needs no key. A hub that is up but cannot write answers 503 with a body all the same.
    pub fn health(&self) -> Called<Health> {
        let answer = self.exchange(&self.agent, &Call::get("/api/health"), &self.url, None)?;
        match answer.status().as_u16() {
            200 | 503 => self.body(answer, ANSWER, "/api/health"),
            _ => Err(self.refused(answer, "/api/health")),
        }
    }

    /// `POST /api/messages`: the results, in the order of the messages, each of which is one JSON object.
    pub fn post(&self, messages: &[String]) -> Called<Vec<PostResult>> {
        let mut body = String::with_capacity(messages.iter().map(|m| m.len() + 1).sum::<usize>() + 2);
        body.push('[');
        body.push_str(&messages.join(","));
        body.push(']');
        let call = Call { method: http::Method::POST, content: Some(body.as_bytes()), ..Call::get("/api/messages") };
        let answer: PostAnswer = self.json(&call)?;
        match answer.results.len() == messages.len() {
            true => Ok(answer.results),
            false => Err(self.not_a_hub(&format!("{} results for {} messages", answer.results.len(), messages.len())).into()),
        }
    }

    /// `GET /api/messages`: what is queued for `host` after `cursor`, which acknowledges all up to it.
    pub fn pull(&self, host: &str, instance: Uuid, cursor: Option<Cursor>, limit: usize) -> Called<Pulled> {
        let mut after = cursor.map_or(String::new(), |Cursor { epoch, seq, .. }| format!("&epoch={epoch}&after={seq}"));
        if let Some(Cursor { id, .. }) = cursor.filter(|c| !c.id.is_nil()) {
            after.push_str(&format!("&id={id}"));
        }
        let path = format!("/api/messages?host={host}&instance={instance}&limit={limit}{after}");
        // a page is bounded by the hub at about one message more than it wants to send
        let call = Call { most: wire::MAX_BATCH_BYTES as u64 * 2, ..Call::get(&path) };
        match self.json(&call) {
            Ok(page) => Ok(Pulled::Page(page)),
            Err(f) if f.status == 409 && cursor.is_some() && f.error.what.contains("epoch") => Ok(Pulled::OtherEpoch),
            Err(f) => Err(f),
        }
    }

    /// `GET /api/hosts`: all hosts for an administrator, else one's own.
    pub fn hosts(&self) -> Called<Vec<HostInfo>> {
        self.json(&Call { most: 64 * ANSWER, ..Call::get("/api/hosts") })
    }

    /// `POST /api/hosts/{host}/rebind`: lets `instance` have the queue of `host`, or whoever asks next.
    pub fn rebind(&self, host: &str, instance: Option<Uuid>) -> Called<HostInfo> {
        let body = serde_json::json!({ "instance": instance }).to_string();
        let path = format!("/api/hosts/{host}/rebind");
        self.json(&Call { method: http::Method::POST, content: Some(body.as_bytes()), ..Call::get(&path) })
    }

    /// `POST /api/hub/backup`: the hub copies itself into a directory of its machine. It answers when that is done.
    pub fn backup(&self, dir: &Path) -> Called<Backup> {
        let body = serde_json::json!({ "dir": dir }).to_string();
        self.json(&Call { method: http::Method::POST, content: Some(body.as_bytes()), ..Call::get("/api/hub/backup") })
    }

    /// `GET /api/events`: a stream of what is queued for `host`, and nothing about files, that stays open; a read fails after
    /// three missed keep-alives.
    pub fn events(&self, host: &str) -> Called<impl Read + use<>> {
        let path = format!("/api/events?host={host}&files=false");
        let answer = self.authorized(&self.streams, &Call::get(&path))?;
        Ok(answer.into_body().into_reader())
    }

    fn json<T: serde::de::DeserializeOwned>(&self, call: &Call) -> Called<T> {
        let answer = self.authorized(&self.agent, call)?;
        self.body(answer, call.most, &call.path)
    }

    fn body<T: serde::de::DeserializeOwned>(&self, answer: http::Response<ureq::Body>, most: u64, path: &str) -> Called<T> {
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        let bytes = body.with_config().limit(most).read_to_vec().map_err(|e| self.unreachable(e))?;
        serde_json::from_slice(&bytes).map_err(|_| Failure { status, ..self.not_a_hub(&format!("not its JSON at {}", bare(path))).into() })
    }

    /// One exchange with the token; a 401 is answered by one new login, since the hub may have been set up anew.
    fn authorized(&self, agent: &ureq::Agent, call: &Call) -> Called<http::Response<ureq::Body>> {
        for fresh in [false, true] {
            let (url, bearer) = self.bearer(fresh)?;
            let answer = self.exchange(agent, call, &url, bearer.as_deref())?;
            match answer.status().as_u16() {
                200..=299 => return Ok(answer),
                401 if !fresh => {}
                _ => return Err(self.refused(answer, &call.path)),
            }
        }
        unreachable!("the second round returns")
    }

    /// Where to call, and the token to use; `fresh`: the one we have was refused. No key: no token.
    fn bearer(&self, fresh: bool) -> Called<(String, Option<String>)> {
        // asked each time: a key may be new, and the hub of this machine may be somebody else's since
        let access = (self.access)()?;
        let mut token = self.token.lock().unwrap_or_else(|e| e.into_inner());
        match &*token {
            Some(t) if !fresh && t.access == access && clock::monotonic() < t.renew_at => {
                return Ok((access.url, Some(t.bearer.clone())));
            }
            _ => *token = None,
        }
        let Access { url, key: Some(key) } = access.clone() else { return Ok((access.url, None)) };
        let body = serde_json::json!({ "api_key": key }).to_string();
        let call = Call { method: http::Method::POST, content: Some(body.as_bytes()), ..Call::get("/api/auth/login") };
        let answer = self.exchange(&self.agent, &call, &url, None)?;
        if !answer.status().is_success() {
            return Err(self.refused(answer, &call.path));
        }
        let hub_time = answer.headers().get("date").and_then(|d| d.to_str().ok()).and_then(http_date);
        let login: LoginAnswer = self.body(answer, ANSWER, &call.path)?;
        let bearer = login.token.clone();
        // the lifetime by the hub's own clock, counted down on ours: a router's clock may be decades off
        let lifetime = hub_time.and_then(|now| clock::parse_rfc3339(&login.expires_at)?.duration_since(now).ok());
        let lifetime = lifetime.unwrap_or(Duration::from_secs(86_400)).min(Duration::from_secs(86_400));
        let renew_at = clock::monotonic() + lifetime.saturating_sub(Duration::from_secs(300)).max(Duration::from_secs(30));
        *token = Some(Token { bearer: login.token, access, renew_at });
        Ok((url, Some(bearer)))
    }

    /// Sends once; again if a pooled connection turned out to be closed, since every call of ours may be repeated.
    fn exchange(&self, agent: &ureq::Agent, call: &Call, url: &str, bearer: Option<&str>) -> Called<http::Response<ureq::Body>> {
        for last in [false, true] {
            let mut request = http::Request::builder().method(call.method.clone()).uri(format!("{url}{}", call.path));
            if let Some(bearer) = bearer {
                request = request.header("authorization", format!("Bearer {bearer}"));
            }
            let failed = |e: http::Error| Failure::from(Error::new(Kind::Settings, format!("cannot use the server URL {}: {e}", self.url)));
            let answer = match call.content {
                Some(bytes) => agent.run(request.header("content-type", "application/json").body(bytes).map_err(failed)?),
                None => agent.run(request.body(()).map_err(failed)?),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(ureq::Error::Io(e)) if !last && is_stale(&e) => {}
                Err(e) => return Err(self.unreachable(e)),
            }
        }
        unreachable!("the second round returns")
    }

    fn unreachable(&self, e: ureq::Error) -> Failure {
        let (why, hint) = match &e {
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                ("connection refused".to_string(), Some("is \"mesync serve\" running there?"))
            }
            ureq::Error::Io(e) => (plain(e), None),
            ureq::Error::HostNotFound => ("no such host".to_string(), Some("check server_url, or MESYNC_SERVER_URL")),
            ureq::Error::ConnectionFailed => ("connection failed".to_string(), Some("is \"mesync serve\" running there?")),
            ureq::Error::Timeout(_) => ("it does not answer in time".to_string(), None),
            ureq::Error::BodyExceedsLimit(_) => ("its answer is too long for a mesync hub".to_string(), None),
            ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => ("it does not speak HTTP".to_string(), None),
            other => (other.to_string(), None),
        };
        let error = Error::new(Kind::Unreachable, format!("cannot reach hub {}: {why}", self.url));
        Failure::from(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }

    fn not_a_hub(&self, what: &str) -> Error {
        Error::new(Kind::Unreachable, format!("the server at {} does not answer as a mesync hub: {what}", self.url))
            .hint("check server_url; is another program using that port?")
    }

    /// An answer that is no success, as an error in the hub's own words.
    fn refused(&self, answer: http::Response<ureq::Body>, path: &str) -> Failure {
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let words = answer.into_body().with_config().limit(ANSWER).read_to_vec().ok();
        let words = words.and_then(|b| serde_json::from_slice::<ErrorAnswer>(&b).ok()).map(|e| e.error);
        let said = |words: Option<String>| words.map_or(format!("status {status}"), |w| one_line(&w));
        let error = match (status, words) {
            (401, words) => {
                let hub_says_how = words.as_ref().is_some_and(|w| w.contains("mesync key add"));
                let error = Error::new(Kind::Refused, format!("hub {} refuses this machine: {}", self.url, said(words)));
                match hub_says_how {
                    true => error,
                    false => error.hint("run \"mesync key add NAME\" on the hub, then set MESYNC_API_KEY or api_key_file here"),
                }
            }
            (403, words @ Some(_)) => Error::new(Kind::Refused, format!("hub {} refuses this machine: {}", self.url, said(words))),
            // what a hub of ours answers so is only a host that it does not know
            (404 | 405, _) if !path.starts_with("/api/hosts/") => self.not_a_hub(&format!("status {status} for {}", bare(path))),
            (300..=399, _) => self.not_a_hub(&format!("status {status} for {}", bare(path))),
            (408 | 425 | 429 | 500..=599, words) => Error::new(Kind::Busy, format!("hub {} cannot do it now: {}", self.url, said(words))),
            (_, words) => Error::new(Kind::Refused, format!("hub {} refuses {}: {}", self.url, bare(path), said(words))),
        };
        Failure { error, status, retry_after }
    }
}

impl Call<'_> {
    fn get(path: &str) -> Call<'static> {
        Call { method: http::Method::GET, path: path.to_string(), content: None, most: ANSWER }
    }
}

fn bare(path: &str) -> &str {
    path.split('?').next().unwrap_or(path)
}

/// The peer closed a connection that we kept: nothing of the request was answered.
fn is_stale(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Whether a URL names this machine.
pub fn is_loopback(url: &str) -> bool {
    let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or("");
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
fn http_date(text: &str) -> Option<std::time::SystemTime> {
    let mut parts = text.split_once(", ")?.1.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|m| *m == month)? + 1;
    clock::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised_by_name_and_by_address() {
        for url in ["http://localhost:8080", "http://127.0.0.5", "https://[::1]:1/x", "http://LOCALHOST"] {
            assert!(is_loopback(url), "{url}");
        }
        for url in ["http://localhost.example:1", "http://10.0.0.1:8080", "http://[fe80::1]:1", "http://127.0.0.1.nip.example"] {
            assert!(!is_loopback(url), "{url}");
        }
    }

    #[test]
    fn dates_of_the_hub_are_read() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), clock::parse_rfc3339("1994-11-06T08:49:37Z"));
        assert_eq!(http_date("yesterday"), None);
    }
}
