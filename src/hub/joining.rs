//! Admits machines: one by name, all for a while, or one by invitation. The only effect is a key in `keys.toml`.
//!
//! An unknown machine can use `POST /api/join` only, through TLS. Nothing is written to the disk before it is admitted, and
//! guesses of names and invitations are counted.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::auth::Auth;
use super::certificate::Certificates;
use super::failures::Failures;
use super::http::{Reply, Request};
use super::keys::{self, KeyPlacing};
use super::pending::{JoinProgress, NotFound, PendingJoins};
use super::rights::Rights;
use super::{invitations, routes::Route};
use crate::clock;
use crate::config::limits;
use crate::error::Kind;
use crate::wire::join::{ASK_INTERVAL, Accept, AdmissionAnswer, AdmissionRequest, JoinRequests};
use crate::wire::{self, files::Hash};

pub struct Joining {
    data_dir: PathBuf,
    auth: Arc<Auth>,
    certificates: Arc<Certificates>,
    pending: Mutex<PendingJoins>,
    failures: Mutex<Failures>,
    on_admission: OnAdmission,
}

/// Called with the name of each machine that is let in.
pub type OnAdmission = Box<dyn Fn(&str) + Send + Sync>;

impl Joining {
    pub fn new(
        data_dir: PathBuf,
        auth: Arc<Auth>,
        certificates: Arc<Certificates>,
        on_admission: OnAdmission,
    ) -> Joining {
        Joining {
            data_dir,
            auth,
            certificates,
            pending: Mutex::default(),
            failures: Mutex::default(),
            on_admission,
        }
    }

    fn pending(&self) -> MutexGuard<'_, PendingJoins> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn handle(&self, route: Route, request: &Request) -> Reply {
        let answer = match route {
            Route::Join => self.ask(request),
            Route::AcceptJoin => self.accept(request),
            _ => Ok(self.list()),
        };
        answer.unwrap_or_else(|refusal| refusal)
    }

    /// `POST /api/join`
    fn ask(&self, request: &Request) -> Result<Reply, Reply> {
        let ask: AdmissionRequest = parse(request)?;
        let name = wire::check_host(&ask.name).map_err(|why| Reply::error(400, why))?;
        let (ask, peer) = (AdmissionRequest { name, ..ask }, request.peer);
        let key = self.auth.key_of(&ask.name);
        if key == Some(ask.key.0) {
            return Ok(answer(&AdmissionAnswer::Accepted));
        }
        if let Some(secret) = &ask.invitation {
            return self.invited(peer, &ask, secret);
        }
        if key.is_some() && !ask.replace {
            self.count(peer, &format!("a name that has a key: {}", ask.name))?;
            return Err(Reply::error(
                409,
                format!(
                    "{0} has a key already: if it is this machine's, set MESYNC_API_KEY to it; if another machine has that name, choose one with --name; if this machine was reinstalled, run \"mesync key remove {0}\" on the hub, or \"mesync join --replace\" here",
                    ask.name
                ),
            ));
        }
        let fingerprint = self.certificates.fingerprint();
        let now = clock::monotonic();
        let step = self.pending().ask(now, peer, &ask, &fingerprint, random()?);
        match step {
            JoinProgress::Begun { number } => Ok(answer(&AdmissionAnswer::Begun { number })),
            JoinProgress::TooMany(words) => {
                log::warn!("request to join refused: {words} address={peer}");
                Err(Reply::error(429, format!("{words}: try again later"))
                    .header("Retry-After", "60"))
            }
            JoinProgress::Waits { new, code } => {
                if new {
                    log::info!(
                        "a machine asks to be let in: run \"mesync accept {}\" here name={0} address={peer} code={code}",
                        ask.name
                    );
                }
                let window = self
                    .pending()
                    .window(now)
                    .map(|(_, rights)| rights.cloned());
                if let Some(rights) = window
                    && key.is_none()
                {
                    self.let_in(&ask, rights)?;
                    return Ok(answer(&AdmissionAnswer::Accepted));
                }
                Ok(answer(&AdmissionAnswer::Pending)
                    .header("Retry-After", ASK_INTERVAL.to_string()))
            }
        }
    }

    fn invited(&self, peer: IpAddr, ask: &AdmissionRequest, secret: &str) -> Result<Reply, Reply> {
        let failures = || self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = failures().wait(clock::monotonic(), peer) {
            return Err(wait(left));
        }
        match invitations::redeem(&self.data_dir, ask, secret) {
            Ok(true) => {
                log::info!("let in by invitation name={} address={peer}", ask.name);
                (self.on_admission)(&ask.name);
                Ok(answer(&AdmissionAnswer::Accepted))
            }
            Ok(false) => {
                self.count(peer, &format!("a wrong invitation for {}", ask.name))?;
                Err(Reply::error(
                    403,
                    "the hub does not know this invitation: it was used, has expired or was replaced (on the hub: \"mesync invite NAME\")",
                ))
            }
            Err(e) if e.kind == Kind::Failed => Err(Reply::error(409, e.to_string())),
            Err(e) => Err(Reply::failed(&e)),
        }
    }

    /// Counts a possible guess; after too many, requests of the address are refused for a while.
    fn count(&self, peer: IpAddr, what: &str) -> Result<(), Reply> {
        let now = clock::monotonic();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = failures.wait(now, peer) {
            return Err(wait(left));
        }
        match failures.count(now, peer) {
            1 => log::warn!("request to join refused: {what} address={peer}"),
            limits::WRONG_KEYS => log::warn!(
                "request to join refused: too many from one address within a minute address={peer}"
            ),
            _ => {}
        }
        Ok(())
    }

    fn let_in(&self, ask: &AdmissionRequest, rights: Option<Rights>) -> Result<(), Reply> {
        let placing = if ask.replace {
            KeyPlacing::Replace
        } else {
            KeyPlacing::New
        };
        keys::add_hash(&self.data_dir, &ask.name, ask.key.0, placing, rights).map_err(
            |e| match e.kind {
                Kind::Failed => Reply::error(409, e.to_string()),
                _ => Reply::failed(&e),
            },
        )?;
        self.pending().accepted(clock::monotonic(), ask);
        log::info!("let in name={}", ask.name);
        (self.on_admission)(&ask.name);
        Ok(())
    }

    /// `POST /api/join/accept`
    fn accept(&self, request: &Request) -> Result<Reply, Reply> {
        let accept: Accept = parse(request)?;
        let rights = accept.rights.map(Rights::read).transpose();
        let rights = rights.map_err(|why| Reply::error(400, why))?;
        if let Some(seconds) = accept.window {
            let time = Duration::from_secs(seconds).min(limits::JOIN_WINDOW);
            self.pending()
                .open(clock::monotonic(), time, rights.clone());
            if seconds > 0 {
                log::warn!("every machine that asks is let in for {}", clock::age(time));
                let waiting = self.pending().waiting();
                for ask in waiting {
                    if self.auth.key_of(&ask.name).is_none() {
                        self.let_in(&ask, rights.clone())?;
                    }
                }
            }
        }
        if let Some(name) = &accept.name {
            let name = wire::check_host(name).map_err(|why| Reply::error(400, why))?;
            let found = self.pending().find(&name, accept.code.as_deref());
            let ask = found.map_err(|not| not_found(&name, &not))?;
            if self.auth.key_of(&name).is_some() && !accept.replace {
                let words = format!(
                    "{name} already has a key: another machine has this name, or this one was reinstalled; then run \"mesync accept --replace {name}\""
                );
                return Err(Reply::error(409, words));
            }
            let ask = AdmissionRequest {
                replace: accept.replace,
                ..ask
            };
            self.let_in(&ask, rights)?;
        }
        Ok(self.list())
    }

    fn list(&self) -> Reply {
        let now = clock::monotonic();
        let pending = self.pending();
        let window = pending.window(now).map(|(left, _)| left.as_secs() + 1);
        let (pending, accepted) = pending.list(now);
        Reply::json(
            200,
            &JoinRequests {
                pending,
                accepted,
                window,
            },
        )
    }
}

fn not_found(name: &str, not: &NotFound) -> Reply {
    match not {
        NotFound::None => Reply::error(
            404,
            format!("{name} does not ask to be let in: \"mesync accept\" shows which machines do"),
        ),
        NotFound::Codes(codes) => Reply::error(
            409,
            format!(
                "which {name}? compare the code that it shows: \"mesync accept {name} --code CODE\" with one of {}",
                codes.join(", ")
            ),
        ),
    }
}

fn parse<T: serde::de::DeserializeOwned>(request: &Request) -> Result<T, Reply> {
    serde_json::from_slice(&request.body)
        .map_err(|_| Reply::error(400, "this is not the JSON of a request to join"))
}

fn answer(answer: &AdmissionAnswer) -> Reply {
    Reply::json(200, answer).header("Cache-Control", "no-store")
}

fn wait(left: Duration) -> Reply {
    let seconds = left.as_secs() + 1;
    Reply::error(
        429,
        format!("too many requests to join that were refused: try again in {seconds} s"),
    )
    .header("Retry-After", seconds.to_string())
}

fn random() -> Result<Hash, Reply> {
    keys::random()
        .parse()
        .map_err(|why: String| Reply::error(500, why))
}
