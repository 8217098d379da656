//! Identifies callers by key, by token, or as programs on this machine, and the host that each acts for.
//!
//! Each route decides what its caller may do. `keys` stores keys, `token` makes tokens.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::failures::Failures;
use super::http::{Caller, Headers, Reply, Request, header};
use super::keys::{self, Key, KeyHash, Keys};
use super::protected::{self, is_local};
use super::rights::InboxRight;
use super::token;
use crate::config::{self, HubSettings, limits};
use crate::error::{Error, Kind, Result};
use crate::{clock, disk, wire};

/// The callers that the hub admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// There is no key yet: only programs on its own machine.
    Protected,
    /// Callers with one of this many keys.
    Keys(usize),
    /// Every caller; this many keys are also accepted.
    Anonymous(usize),
}

/// Identifies the caller of each request before any other work.
pub struct Auth {
    keys: Keys,
    master: Option<KeyHash>,
    /// The hash of `local.key`, the key for this machine's client.
    local: KeyHash,
    /// Signs tokens.
    secret: String,
    allow_anonymous: bool,
    failures: Mutex<Failures>,
    data_dir: PathBuf,
    /// By the name of the key's host.
    uses: Mutex<HashMap<String, KeyUseRecord>>,
}

/// The time and address of a key's last use.
struct KeyUseRecord {
    at: SystemTime,
    from: IpAddr,
}

/// The holder of a key or token.
struct KeyHolder {
    /// A host's name, or one of the constants below; no host's name begins with an asterisk.
    name: String,
    caller: Caller,
    hash: KeyHash,
}

const MASTER_NAME: &str = "*master";
const LOCAL_NAME: &str = "*local";
/// Of a token for the page; another `local.key` ends it.
const PAGE_NAME: &str = "*page";
/// Of a token of a hub for another hub of its bucket: it is made from the secret of tokens, which they share.
const HUB_NAME: &str = "*hub";
const NO_KEY: KeyHash = [0; 32];

/// Why a key was not accepted.
enum KeyRefusal {
    Unknown,
    /// It was not compared, because too many wrong keys came from its address.
    Wait(Duration),
}

impl Auth {
    /// Reads the keys of a hub, and makes its secrets if they are missing. `credentials`: `$CREDENTIALS_DIRECTORY`.
    pub fn open(
        settings: &HubSettings,
        credentials: Option<&Path>,
        allow_anonymous: bool,
    ) -> Result<Auth> {
        let dir = &settings.data_dir;
        let local = keys::own_secret(&local_key_file(dir))?;
        let secret = keys::own_secret(&dir.join("token.secret"))?;
        Ok(Auth {
            keys: Keys::open(dir)?,
            master: master_key(settings, credentials)?.map(|key| keys::hash(&key)),
            local: keys::hash(&local),
            secret,
            allow_anonymous,
            failures: Mutex::default(),
            data_dir: dir.clone(),
            uses: Mutex::default(),
        })
    }

    pub fn mode(&self) -> AuthMode {
        let n = self.keys.current().len() + usize::from(self.master.is_some());
        match (self.allow_anonymous, n) {
            (true, n) => AuthMode::Anonymous(n),
            (false, 0) if !self.keys.in_doubt() => AuthMode::Protected,
            (false, n) => AuthMode::Keys(n),
        }
    }

    /// The hash of a host's key.
    pub fn key_of(&self, name: &str) -> Option<KeyHash> {
        let keys = self.keys.current();
        keys.iter().find(|k| k.name == name).map(|k| k.hash)
    }

    /// Reads the keys again, even if their file seems unchanged.
    pub fn reload(&self) {
        self.keys.reload();
    }

    /// Returns a test whether the keys are still the same: if not, an earlier decision may no longer be valid.
    pub fn unchanged(self: &Arc<Auth>) -> impl Fn() -> bool + Send + use<> {
        let (auth, keys) = (Arc::clone(self), self.keys.current());
        move || Arc::ptr_eq(&keys, &auth.keys.current())
    }

    /// The caller of this request, or a refusal.
    pub fn caller(&self, headers: &Headers, peer: IpAddr) -> std::result::Result<Caller, Reply> {
        let keys = self.keys.current();
        if self.is_protected(&keys) {
            return protected::check(headers, peer).map(|()| Caller::Admin);
        }
        let found = match credential(headers) {
            None if self.allow_anonymous => {
                return protected::check_page(headers).map(|()| Caller::Anonymous);
            }
            None => {
                return Err(unauthorized(
                    "no key was sent: \"mesync start\" and \"mesync join\" ask to be let in, or set MESYNC_API_KEY to one of \"mesync key add\" on the hub",
                ));
            }
            Some(text) if token::is_token(text) => {
                self.by_token(&keys, text, peer).ok_or(KeyRefusal::Unknown)
            }
            Some(text) => self.by_key(&keys, text, peer),
        };
        match found {
            Ok(holder) => Ok(holder.caller),
            // a caller that is admitted without a key is also admitted with an unknown one
            Err(_) if self.is_open(&keys) => {
                protected::check_page(headers).map(|()| Caller::Anonymous)
            }
            Err(KeyRefusal::Wait(left)) => Err(too_many(peer, left)),
            Err(KeyRefusal::Unknown) => Err(unknown_key()),
        }
    }

    /// The caller of a login, before the key in its body is known: in protected mode already the administrator.
    pub fn visitor(&self, headers: &Headers, peer: IpAddr) -> std::result::Result<Caller, Reply> {
        if self.is_protected(&self.keys.current()) {
            protected::check(headers, peer).map(|()| Caller::Admin)
        } else {
            Ok(Caller::Nobody)
        }
    }

    /// `POST /api/auth/login`, from a caller that [`Auth::visitor`] admitted.
    pub fn login(&self, request: &Request) -> Reply {
        #[derive(Deserialize)]
        struct LoginRequest {
            api_key: String,
        }
        let Ok(LoginRequest { api_key }) = serde_json::from_slice(&request.body) else {
            return Reply::error(
                400,
                "a login is JSON with the key in it: {\"api_key\": \"...\"}",
            );
        };
        let keys = self.keys.current();
        match self.by_key(&keys, api_key.trim(), request.peer) {
            Ok(holder) => {
                let sub = if holder.name.starts_with('*') {
                    "admin"
                } else {
                    &holder.name
                };
                self.token(sub, self.kid(&holder.name, &holder.hash))
            }
            // these tokens become invalid with the first key, because no key has such a name
            Err(_) if self.is_protected(&keys) && request.caller == Caller::Admin => {
                self.token("admin", "*protected".into())
            }
            Err(_) if self.is_open(&keys) => self.token("anonymous", "*anonymous".into()),
            Err(KeyRefusal::Wait(left)) => too_many(request.peer, left),
            Err(KeyRefusal::Unknown) => unknown_key(),
        }
    }

    /// A token for another hub of the bucket.
    pub fn hub_token(&self) -> String {
        let now = clock::millis(clock::now()) / 1000;
        token::issue(
            self.secret.as_bytes(),
            "hub",
            self.kid(HUB_NAME, &NO_KEY),
            now,
        )
    }

    /// `POST /api/hub/page`: a token that only reads what the page shows.
    pub fn page_token(&self) -> Reply {
        self.token("page", self.kid(PAGE_NAME, &self.local))
    }

    fn token(&self, sub: &str, kid: String) -> Reply {
        let now = clock::millis(clock::now()) / 1000;
        let token = token::issue(self.secret.as_bytes(), sub, kid, now);
        let expires_at = clock::rfc3339(clock::from_millis((now + token::LIFETIME) * 1000));
        Reply::json(200, &wire::LoginAnswer { token, expires_at })
            .header("Cache-Control", "no-store")
    }

    fn is_protected(&self, keys: &[Key]) -> bool {
        keys.is_empty() && self.master.is_none() && !self.allow_anonymous && !self.keys.in_doubt()
    }

    fn is_open(&self, keys: &[Key]) -> bool {
        keys.is_empty() && self.master.is_none() && self.allow_anonymous
    }

    /// Random keys are always compared, even after many wrong keys from the same address: they cannot be guessed, and their
    /// owners must not wait because of others behind that address. A master key is chosen by a person, and can be guessed.
    fn by_key(
        &self,
        keys: &[Key],
        key: &str,
        peer: IpAddr,
    ) -> std::result::Result<KeyHolder, KeyRefusal> {
        let hash = keys::hash(key);
        if let Some(key) = keys::find(keys, &hash, clock::now()) {
            if key.replaces.is_some() && key.hash == hash {
                self.end_rotation(key);
            }
            self.note_use(&key.name, peer);
            return Ok(KeyHolder {
                name: key.name.clone(),
                caller: Caller::Host(key.name.clone(), Arc::clone(&key.rights)),
                hash,
            });
        }
        if bool::from(self.local.ct_eq(&hash)) && is_local(peer) {
            return Ok(KeyHolder {
                name: LOCAL_NAME.into(),
                caller: Caller::Admin,
                hash,
            });
        }
        if keys.is_empty() && self.master.is_none() {
            // without any key there is nothing to guess
            return Err(KeyRefusal::Unknown);
        }
        let now = clock::monotonic();
        // held during lookup, comparison and count, so that parallel requests get no extra attempts
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = failures.wait(now, peer) {
            return Err(KeyRefusal::Wait(left));
        }
        if self.master.is_some_and(|master| master.ct_eq(&hash).into()) {
            return Ok(KeyHolder {
                name: MASTER_NAME.into(),
                caller: Caller::Admin,
                hash,
            });
        }
        match failures.count(now, peer) {
            1 => log::warn!("wrong key peer={peer}"),
            limits::WRONG_KEYS => {
                log::warn!("too many wrong keys; refusing every key for a minute peer={peer}")
            }
            _ => {}
        }
        Err(KeyRefusal::Unknown)
    }

    /// Removes the old key of a host at the first use of the new one.
    fn end_rotation(&self, key: &Key) {
        match keys::end_rotation(&self.data_dir, &key.name, &key.hash) {
            Ok(()) => log::info!(
                "the new key was used; removed the old one name={}",
                key.name
            ),
            Err(e) => log::warn!("cannot remove the old key of {}: {e}", key.name),
        }
    }

    fn note_use(&self, name: &str, peer: IpAddr) {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let used = KeyUseRecord {
            at: clock::now(),
            from: peer.to_canonical(),
        };
        if let Some(last) = uses.get_mut(name) {
            *last = used;
        } else if uses.len() < limits::KEYS * 2 {
            // removed keys may be among them
            uses.insert(name.to_string(), used);
        }
    }

    /// The time and address of each key's last use since the hub was started, by name of its host.
    pub fn uses(&self) -> Vec<wire::KeyUse> {
        let uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        self.keys
            .current()
            .iter()
            .filter_map(|key| {
                uses.get(&key.name).map(|used| wire::KeyUse {
                    name: key.name.clone(),
                    used_at: clock::rfc3339(used.at),
                    from: used.from.to_string(),
                })
            })
            .collect()
    }

    /// Hosts whose keys may not receive messages.
    pub fn silent_hosts(&self) -> Vec<String> {
        let keys = self.keys.current();
        let closed = keys
            .iter()
            .filter(|key| key.rights.inbox == InboxRight::Closed);
        closed.map(|key| key.name.clone()).collect()
    }

    /// The holder of a token, with the current rights of its key.
    fn by_token(&self, keys: &[Key], text: &str, peer: IpAddr) -> Option<KeyHolder> {
        let claims = token::verify(
            self.secret.as_bytes(),
            text,
            clock::millis(clock::now()) / 1000,
        )?;
        let (name, _) = claims.kid.split_once(':')?;
        let (caller, hash) = match name {
            MASTER_NAME => (Caller::Admin, self.master?),
            LOCAL_NAME if is_local(peer) => (Caller::Admin, self.local),
            LOCAL_NAME => return None,
            PAGE_NAME => (Caller::Viewer, self.local),
            HUB_NAME => (Caller::Hub, NO_KEY),
            host => {
                let key = keys.iter().find(|k| k.name == host)?;
                self.note_use(host, peer);
                // a token of a replaced key is valid as long as that key
                let old = key.replaces.filter(|(old, until)| {
                    clock::now() < *until && claims.kid == self.kid(host, old)
                });
                (
                    Caller::Host(host.to_string(), Arc::clone(&key.rights)),
                    old.map_or(key.hash, |(old, _)| old),
                )
            }
        };
        (claims.kid == self.kid(name, &hash)).then(|| KeyHolder {
            name: name.to_string(),
            caller,
            hash,
        })
    }

    /// Identifies the key of a token: another key of the same name has another id.
    fn kid(&self, name: &str, hash: &KeyHash) -> String {
        format!(
            "{name}:{}",
            token::fingerprint(self.secret.as_bytes(), hash)
        )
    }
}

/// The file with the key for clients on the hub's machine.
pub fn local_key_file(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join(wire::LOCAL_KEY)
}

fn master_key(settings: &HubSettings, credentials: Option<&Path>) -> Result<Option<String>> {
    if settings.master_key.is_some() {
        return Ok(settings.master_key.clone().map(|key| key.0));
    }
    let key = match &settings.master_key_file {
        Some(path) => Some(disk::read_secret(path)?),
        None => disk::read_credential(credentials, "master-key")?,
    };
    let bad = |e| Error::new(Kind::Settings, format!("cannot use the master key: {e}"));
    key.map(|key| config::check_key(&key).map_err(bad))
        .transpose()
}

/// The key or token of a request. `Authorization: Bearer` may contain either, because some programs send no other header.
fn credential(headers: &Headers) -> Option<&str> {
    let bearer = || {
        let (scheme, text) = header(headers, "authorization")?.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(text)
    };
    header(headers, "x-api-key")
        .or_else(bearer)
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

fn unauthorized(words: &str) -> Reply {
    Reply::error(401, words).header("WWW-Authenticate", "Bearer")
}

fn unknown_key() -> Reply {
    unauthorized(
        "the hub does not know this key or token: it was removed, replaced, mistyped or has expired (on the hub: \"mesync key list\")",
    )
}

fn too_many(peer: IpAddr, left: Duration) -> Reply {
    let seconds = left.as_secs() + 1;
    let words = format!(
        "too many wrong keys from {}: correct the key and try again in {seconds} s",
        peer.to_canonical()
    );
    Reply::error(429, words).header("Retry-After", seconds.to_string())
}

#[cfg(test)]
mod tests;
