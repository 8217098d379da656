//! The servers of a client: one for messages, and one for files, which may be the same.

use std::sync::Arc;

use crate::client::{HubClient, is_loopback};
use crate::config::{Settings, server_url};
use crate::error::Result;
use crate::login::{self, Login};
use crate::{clock, credentials, joining};

/// The hub of the settings.
pub fn messages(settings: &Arc<Settings>) -> Result<HubClient> {
    let access = settings.clone();
    let hub = HubClient::new(
        &joining::with_next(settings),
        Box::new(move || credentials::access(&access)),
    )?;
    learn_next(&hub, settings);
    Ok(hub)
}

/// Remembers the next certificate that the hub announces.
fn learn_next(hub: &HubClient, settings: &Arc<Settings>) {
    let settings = settings.clone();
    hub.on_next_certificate(Box::new(move |next| {
        if let Err(e) = joining::remember_next(&settings, next) {
            log::warn!("{e}");
        }
    }));
}

/// Both servers; the same client if they are the same server.
pub fn both(settings: &Arc<Settings>) -> Result<(Arc<HubClient>, Arc<HubClient>)> {
    let of_messages = Arc::new(messages(settings)?);
    let path = login::file();
    let login = path.as_deref().map(login::read).transpose()?.flatten();
    let same = login.is_none_or(|login| server_url::names(&settings.server_url, &login.server_url));
    let of_files = if same {
        of_messages.clone()
    } else {
        Arc::new(files(settings)?)
    };
    Ok((of_messages, of_files))
}

/// The server for files: from the login file, or else the one for messages.
pub fn files(settings: &Arc<Settings>) -> Result<HubClient> {
    let path = login::file();
    let login = path.as_deref().map(login::read).transpose()?.flatten();
    let first = credentials::file_access(settings, login.as_ref())?;
    let by_login = login
        .clone()
        .filter(|l| first.key.as_ref() == Some(&l.api_key));
    if by_login.is_none() && first.key.is_some() && settings.hub_fingerprint.is_empty() {
        warn_if_readable(&first.url);
    }
    let mut of_files = joining::with_next(settings);
    if let Some(login) = login
        .as_ref()
        .filter(|l| !server_url::names(&settings.server_url, &l.server_url))
    {
        // knowledge of one hub does not apply to another
        of_files.server_url.clone_from(&login.server_url);
        of_files.hub_fingerprint.clear();
    }
    let asked = settings.clone();
    let hub = HubClient::new(
        &of_files,
        Box::new(move || credentials::file_access(&asked, login.as_ref())),
    )?;
    if !of_files.hub_fingerprint.is_empty() {
        learn_next(&hub, settings);
    }
    if let (Some(login), Some(path)) = (by_login, path) {
        let left = clock::parse_rfc3339(&login.expires_at)
            .and_then(|at| at.duration_since(clock::now()).ok());
        hub.remember(first, login.token.clone(), left.unwrap_or_default());
        // otherwise s3ec would be refused with the old token
        hub.on_renewal(Box::new(move |answer| {
            let (token, expires_at) = (answer.token.clone(), answer.expires_at.clone());
            if let Err(e) = login::write(
                &path,
                &Login {
                    token,
                    expires_at,
                    ..login.clone()
                },
            ) {
                log::debug!("the new token is not saved: {e}");
            }
        }));
    }
    Ok(hub)
}

/// Warns once that a key is sent unencrypted.
pub fn warn_if_readable(server: &str) {
    let is_readable = |url: &&str| url.starts_with("http://") && !is_loopback(url);
    if let Some(url) = server_url::each(server).find(is_readable) {
        log::warn!(
            "the key goes to {url} in the clear: over a network that is not yours, use a proxy with TLS or a VPN"
        );
    }
}
