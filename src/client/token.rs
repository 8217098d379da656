//! The token of a hub: requested with the key, kept until shortly before its end, remembered between processes.

use std::time::{Duration, Instant};

use ureq::http;

use super::body::Body;
use super::failure::HubResult;
use super::header::http_date;
use super::{Call, HubClient, MAX_ANSWER_BYTES, Purpose};
use crate::clock;
use crate::credentials::Access;
use crate::wire::{self, LoginAnswer};

/// The maximum lifetime of a hub's tokens, and how long before their end they are replaced.
const TOKEN_LIFETIME: Duration = Duration::from_secs(86_400);
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// How long a key is used before its file is read again.
const MAX_ACCESS_AGE: Duration = Duration::from_secs(2);

pub(super) struct BearerToken {
    bearer: String,
    /// The server and key that the token was issued for; it is sent nowhere else.
    access: Access,
    renew_at: Instant,
}

impl HubClient {
    /// Uses a token of an earlier login, valid for `left` by this machine's clock. A wrong token costs one
    /// request.
    pub fn remember(&self, access: Access, bearer: String, left: Duration) {
        let left = left.min(TOKEN_LIFETIME).saturating_sub(RENEW_BEFORE);
        if !bearer.is_empty() && !left.is_zero() && bearer.bytes().all(|b| b.is_ascii_graphic()) {
            let token = BearerToken {
                bearer,
                access,
                renew_at: clock::monotonic() + left,
            };
            *self.token.lock().unwrap_or_else(|e| e.into_inner()) = Some(token);
        }
    }

    /// Gets a new token for the key, even if there is one.
    pub fn login(&self, key: &str) -> HubResult<LoginAnswer> {
        let url = (self.access)()?.url;
        Ok(self.ask_token(&url, key)?.0)
    }

    /// The address and the token to use; `fresh`: the present token was refused. Without a key
    /// there is no token.
    pub(super) fn bearer(&self, fresh: bool) -> HubResult<(String, Option<String>)> {
        let access = self.current_access(fresh)?;
        let mut token = self.token.lock().unwrap_or_else(|e| e.into_inner());
        match &*token {
            Some(t) if !fresh && t.access == access && clock::monotonic() < t.renew_at => {
                return Ok((access.url, Some(t.bearer.clone())));
            }
            _ => *token = None,
        }
        let Access {
            url,
            key: Some(key),
            ..
        } = access.clone()
        else {
            return Ok((access.url, None));
        };
        let (login, hub_time) = self.ask_token(&url, &key)?;
        if let Some(renewed) = self.renewed.get() {
            renewed(&login);
        }
        let bearer = login.token.clone();
        // the lifetime by the hub's clock, counted down on the local one: a router's clock may be wrong
        // by decades
        let lifetime = hub_time.and_then(|now| {
            clock::parse_rfc3339(&login.expires_at)?
                .duration_since(now)
                .ok()
        });
        let lifetime = lifetime.unwrap_or(TOKEN_LIFETIME).min(TOKEN_LIFETIME);
        let renew_at = clock::monotonic()
            + lifetime
                .saturating_sub(RENEW_BEFORE)
                .max(Duration::from_secs(30));
        *token = Some(BearerToken {
            bearer: login.token,
            access,
            renew_at,
        });
        Ok((url, Some(bearer)))
    }

    /// The address and the key. Those of a hub on this machine are read each time; others again after a while, and after a
    /// refusal, because the key may be new.
    fn current_access(&self, fresh: bool) -> HubResult<Access> {
        let mut known = (self.known_access.lock()).unwrap_or_else(|e| e.into_inner());
        if let Some((access, since)) = &*known
            && !fresh
            && since.elapsed() < MAX_ACCESS_AGE
        {
            return Ok(access.clone());
        }
        let access = (self.access)()?;
        *known = (!access.is_local).then(|| (access.clone(), clock::monotonic()));
        Ok(access)
    }

    /// `POST /api/auth/login`: a token for a key, and the hub's time.
    fn ask_token(
        &self,
        url: &str,
        key: &str,
    ) -> HubResult<(LoginAnswer, Option<std::time::SystemTime>)> {
        let body = serde_json::json!({ "api_key": key })
            .to_string()
            .into_bytes();
        let call = Call {
            method: http::Method::POST,
            body: Body::Json(body),
            ..Call::get("/api/auth/login")
        };
        let answer = self.exchange(Purpose::Request, &call, url, None)?;
        if !answer.status().is_success() {
            return Err(self.refused(answer, &call.path));
        }
        let next = answer.headers().get(wire::join::NEXT_HEADER);
        let next = next.and_then(|value| value.to_str().ok()?.parse().ok());
        if let (Some(pins), Some(next)) = (&self.pins, next) {
            pins.add(next);
            if let Some(known) = self.next_certificate.get() {
                known(next);
            }
        }
        let hub_time = answer
            .headers()
            .get("date")
            .and_then(|d| d.to_str().ok())
            .and_then(http_date);
        Ok((self.body(answer, MAX_ANSWER_BYTES, &call.path)?, hub_time))
    }
}
