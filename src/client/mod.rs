//! The hub as clients see it: one method for each route.
//!
//! It decides nothing about messages or files, and never waits longer than its deadlines. It sends a key only to the
//! server that the key was made for, and follows no redirect.

mod approvals;
mod body;
mod endpoints;
mod events;
mod failure;
mod files;
mod header;
mod join;
mod messages;
mod parts;
mod proxy;
mod token;
mod transfers;
mod upcoming;
mod url;
mod zone;

use std::borrow::Cow;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ureq::{SendBody, http};

use crate::config::{self, Settings};
use crate::credentials::Access;
use crate::error::{Error, Kind};
use crate::pins::{self, Pins};
use crate::wire::files::Hash;
use crate::wire::{self, Health, LoginAnswer};
pub use body::ByteSource;
use body::{Body, PieceReader};
use endpoints::{Endpoint, Endpoints, Purpose};
pub use failure::{ErrorDetail, Failure, HubResult};
use failure::{ErrorResponse, is_stale};
pub use files::{ChangeHeaders, ListingQuery, UploadOutcome, UploadResponse};
use header::media_type;
pub use messages::PullResult;
use token::BearerToken;
pub use transfers::Download;
use url::bare;
pub use url::is_loopback;

/// The address of the hub and the key, which are asked for again and again, so a new key needs no restart.
pub type AccessSource = Box<dyn Fn() -> crate::error::Result<Access> + Send + Sync>;

/// Called with each new token.
pub type OnTokenRenewed = Box<dyn Fn(&LoginAnswer) + Send + Sync>;

/// Called with the next certificate of the hub.
pub type OnNextCertificate = Box<dyn Fn(Hash) + Send + Sync>;

/// One hub, over pooled connections; shared by threads.
pub struct HubClient {
    server_url: String,
    endpoints: Endpoints,
    /// The name of this machine, if the key does not contain it.
    host: String,
    access: AccessSource,
    /// What `access` has said, and when.
    known_access: Mutex<Option<(Access, Instant)>>,
    token: Mutex<Option<BearerToken>>,
    ours: OnceLock<bool>,
    /// See [`HubClient::batches_changes`].
    batches: Mutex<Option<bool>>,
    renewed: OnceLock<OnTokenRenewed>,
    /// `None`: certificate authorities are trusted for `https://`, and `http://` is plain.
    pins: Option<Arc<Pins>>,
    next_certificate: OnceLock<OnNextCertificate>,
    state: OnceLock<StateSource>,
}

/// The state of this machine as a header; `None`: it is not known.
pub type StateSource = Box<dyn Fn() -> Option<String> + Send + Sync>;

struct Call<'a> {
    method: http::Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Body<'a>,
    /// Maximum bytes of the response.
    most: u64,
    /// How long the response may take to begin, if longer than usual.
    patience: Option<Duration>,
    /// How long the hub may be silent while it responds, if longer than usual.
    silence: Option<Duration>,
}

/// Longer bodies are announced, and sent once the hub accepts them: otherwise a reset of the connection would
/// discard an early refusal.
const ANNOUNCED_BODY_BYTES: u64 = 256 * 1024;

const MAX_ANSWER_BYTES: u64 = 1024 * 1024;

impl HubClient {
    /// The hub of the settings. `http_timeout` applies to connecting, to each read and write, and to the beginning of a
    /// response.
    pub fn new(settings: &Settings, access: AccessSource) -> crate::error::Result<HubClient> {
        let known = &settings.hub_fingerprint;
        let pins = (!known.is_empty()).then(|| Pins::new(known));
        HubClient::with_pins(settings, access, pins)
    }

    /// A hub that is known by these pins.
    pub fn with_pins(
        settings: &Settings,
        access: AccessSource,
        pins: Option<Arc<Pins>>,
    ) -> crate::error::Result<HubClient> {
        Ok(HubClient {
            server_url: settings.server_url.clone(),
            endpoints: Endpoints::new(settings, pins.as_ref())?,
            host: settings.host_id.clone(),
            access,
            known_access: Mutex::default(),
            token: Mutex::new(None),
            ours: OnceLock::new(),
            batches: Mutex::default(),
            renewed: OnceLock::new(),
            pins,
            next_certificate: OnceLock::new(),
            state: OnceLock::new(),
        })
    }

    /// The hub that is called now.
    pub fn url(&self) -> &str {
        &self.endpoints.current().url
    }

    /// The setting: one URL, or several with commas.
    pub fn server_url(&self) -> &str {
        &self.server_url
    }

    /// Wakes every thread that waits in a call; no calls are possible afterwards.
    pub fn stop(&self) {
        self.endpoints.stop();
    }

    /// `GET /api/health`; needs no key. A hub that runs but cannot write responds with 503 and a body
    /// as well.
    pub fn health(&self) -> HubResult<Health> {
        let answer = self.exchange(
            Purpose::Request,
            &Call::get("/api/health"),
            &self.server_url,
            None,
        )?;
        if answer.status() == 200 {
            return self.body(answer, MAX_ANSWER_BYTES, "/api/health");
        }
        let response = ErrorResponse::read(answer);
        // without a health: the hub is busy, or a proxy does not reach it
        match serde_json::from_slice(&response.body) {
            Ok(health) if response.status == 503 => Ok(health),
            _ => Err(self.failure_of(response, "/api/health")),
        }
    }

    /// Whether the server is a mesync hub that keeps files; `s3em` is not, and has neither chunks nor revisions. Asked
    /// once.
    ///
    /// A server without mesync's health route counts as `s3em` only if it lists files: the login page of a captive
    /// network responds to everything, and must not decide which protocol a directory is synced with.
    pub fn is_ours(&self) -> HubResult<bool> {
        if let Some(known) = self.ours.get() {
            return Ok(*known);
        }
        let ours = match self.health() {
            Ok(health) => health.features.iter().any(|f| f == "files"),
            // busy, or no server there
            Err(failure) if failure.is_transient() && !failure.is_foreign() => return Err(failure),
            Err(_) => false,
        };
        if !ours && self.endpoints.are_several() {
            let words = format!("{} keeps no files as a hub does", self.url());
            let error = Error::new(Kind::Settings, words)
                .hint("server_url may name several hubs of one bucket, but one other server only");
            return Err(error.into());
        }
        if !ours {
            self.list(&ListingQuery::default(), 1, 0)?;
        }
        Ok(*self.ours.get_or_init(|| ours))
    }

    /// Whether the batches of this hub take changes without bytes. Asked once, until [`HubClient::forget_features`].
    pub fn batches_changes(&self) -> HubResult<bool> {
        let mut known = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *known {
            return Ok(known);
        }
        let features = self.health()?.features;
        Ok(*known.insert(features.iter().any(|f| f == wire::BATCH_CHANGES)))
    }

    /// The hub did not understand a request: it may be an older one by now.
    pub fn forget_features(&self) {
        *self.batches.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// `false`: the server is known to be one such as `s3em`, whose responses have other formats.
    fn may_be_ours(&self) -> bool {
        self.ours.get() != Some(&false)
    }

    /// Registers a callback for each new token, so that it can be saved.
    pub fn on_renewal(&self, renewed: OnTokenRenewed) {
        let _ = self.renewed.set(renewed);
    }

    /// Registers a callback for the next certificate of the hub.
    pub fn on_next_certificate(&self, known: OnNextCertificate) {
        let _ = self.next_certificate.set(known);
    }

    /// Each pull sends this state, and each poll for changes of files.
    pub fn tell_with_polls(&self, state: StateSource) {
        let _ = self.state.set(state);
    }

    fn state(&self) -> Option<(&'static str, String)> {
        let state = self.state.get()?()?;
        Some((wire::fleet::STATE_HEADER, state))
    }

    /// The certificate by which the hub is known, once it was called.
    pub fn fingerprint(&self) -> Option<Hash> {
        self.pins.as_ref()?.first()
    }

    fn json<T: serde::de::DeserializeOwned>(&self, call: &Call) -> HubResult<T> {
        let answer = self.authorized(Purpose::Request, call)?;
        self.body(answer, call.most, &call.path)
    }

    fn body<T: serde::de::DeserializeOwned>(
        &self,
        answer: http::Response<ureq::Body>,
        most: u64,
        path: &str,
    ) -> HubResult<T> {
        let answer = self.typed(answer, "application/json", path)?;
        let bytes = self.bytes(answer, most)?;
        serde_json::from_slice(&bytes).map_err(|_| {
            self.not_a_hub(&format!("not its JSON at {}", bare(path)))
                .into()
        })
    }

    fn bytes(&self, answer: http::Response<ureq::Body>, most: u64) -> HubResult<Vec<u8>> {
        let mut body = answer.into_body();
        let read = body.with_config().limit(most).read_to_vec();
        read.map_err(|e| self.unreachable(e))
    }

    /// A response of the type that the route returns. A status alone proves nothing: a captive network's login page has
    /// 200.
    fn typed(
        &self,
        answer: http::Response<ureq::Body>,
        wanted: &str,
        path: &str,
    ) -> HubResult<http::Response<ureq::Body>> {
        match media_type(&answer) {
            found if found == wanted => Ok(answer),
            found => Err(self.foreign(answer.status().as_u16(), &found, path)),
        }
    }

    /// One request with the token. After a 401 it logs in once more, because the hub may have been set up anew.
    fn authorized(&self, purpose: Purpose, call: &Call) -> HubResult<http::Response<ureq::Body>> {
        for fresh in [false, true] {
            let (url, bearer) = self.bearer(fresh)?;
            let answer = self.exchange(purpose, call, &url, bearer.as_deref())?;
            match answer.status().as_u16() {
                200..=299 => return Ok(answer),
                401 if !fresh => {}
                _ => return Err(self.refused(answer, &call.path)),
            }
        }
        unreachable!("the second round returns")
    }

    /// Sends to the hub that works, and to the others if it is not reached, has no time, or a proxy does not reach it (502 to
    /// 504). Every call of the client may be repeated. `url`: where to call a single hub.
    fn exchange(
        &self,
        purpose: Purpose,
        call: &Call,
        url: &str,
        bearer: Option<&str>,
    ) -> HubResult<http::Response<ureq::Body>> {
        if !self.endpoints.are_several() {
            return self.exchange_with(self.endpoints.current(), purpose, call, url, bearer);
        }
        let (mut busy, mut failures) = (None, Vec::new());
        for (index, endpoint) in self.endpoints.in_order() {
            match self.exchange_with(endpoint, purpose, call, &endpoint.url, bearer) {
                Ok(answer) if matches!(answer.status().as_u16(), 502..=504) => {
                    log::debug!("hub {} has no time", endpoint.url);
                    busy.get_or_insert(answer);
                }
                Ok(answer) => {
                    self.endpoints.answered(index);
                    return Ok(answer);
                }
                Err(failure) if failure.error.kind == Kind::Unreachable => {
                    log::debug!("{}", failure.error);
                    failures.push(failure);
                }
                Err(failure) => return Err(failure),
            }
        }
        busy.ok_or_else(|| failure::all(failures))
    }

    /// Sends once, and again if a pooled connection turned out to be closed.
    fn exchange_with(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
        call: &Call,
        url: &str,
        bearer: Option<&str>,
    ) -> HubResult<http::Response<ureq::Body>> {
        for last in [false, true] {
            match self.send(endpoint.agent(purpose), call, url, bearer)? {
                Ok(answer) => {
                    endpoint.has_responded.store(true, Relaxed);
                    return Ok(answer);
                }
                Err(ureq::Error::Io(e)) if !last && is_stale(&e) => {}
                Err(e) => return Err(self.unreachable_at(endpoint, e)),
            }
        }
        unreachable!("the second round returns")
    }

    /// A hub that is known by its certificate is never called without TLS.
    fn called<'u>(&self, url: &'u str) -> Cow<'u, str> {
        let url = config::zone::without(url);
        match &self.pins {
            Some(_) => pins::secured(&url).into(),
            None => url,
        }
    }

    fn send(
        &self,
        agent: &ureq::Agent,
        call: &Call,
        url: &str,
        bearer: Option<&str>,
    ) -> HubResult<Result<http::Response<ureq::Body>, ureq::Error>> {
        let mut request = http::Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.called(url), call.path));
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        if !self.host.is_empty() {
            request = request.header(wire::files::HOST_HEADER, &self.host);
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let failed = |e: http::Error| {
            Failure::from(Error::new(
                Kind::Settings,
                format!("cannot use the server URL {url}: {e}"),
            ))
        };
        let patient = |request: http::Request<SendBody<'_>>| match call.patience {
            Some(time) => agent.run(
                agent
                    .configure_request(request)
                    .timeout_recv_response(Some(time))
                    .build(),
            ),
            None => agent.run(request),
        };
        Ok(match &call.body {
            Body::None => {
                let request = request.body(()).map_err(failed)?;
                match call.silence {
                    Some(time) => agent.run(
                        agent
                            .configure_request(request)
                            .timeout_per_read(Some(time))
                            .build(),
                    ),
                    None => agent.run(request),
                }
            }
            Body::Json(bytes) => {
                let request = request
                    .header("content-type", "application/json")
                    .header("content-length", bytes.len());
                patient(
                    request
                        .body(SendBody::from_reader(&mut bytes.as_slice()))
                        .map_err(failed)?,
                )
            }
            Body::Pieces {
                content_type,
                pieces,
                passed,
            } => {
                let length = body::length(pieces);
                let mut request = request
                    .header("content-type", content_type)
                    .header("content-length", length);
                if length > ANNOUNCED_BODY_BYTES {
                    request = request.header("expect", "100-continue");
                }
                patient(
                    request
                        .body(SendBody::from_reader(&mut PieceReader::new(pieces, passed)))
                        .map_err(failed)?,
                )
            }
        })
    }
}

impl Call<'_> {
    fn get(path: &str) -> Call<'static> {
        Call {
            method: http::Method::GET,
            path: path.to_string(),
            headers: Vec::new(),
            body: Body::None,
            most: MAX_ANSWER_BYTES,
            patience: None,
            silence: None,
        }
    }
}
