//! Joins a hub: makes a key, asks to be let in until an administrator accepts, and saves the result as settings.
//!
//! The key stays here; only its SHA-256 travels. It decides nothing about when to ask: commands do, and the thread in `background`.

pub mod background;
mod request;

use std::path::PathBuf;
use std::sync::Arc;

use crate::client::{HubClient, HubResult};
use crate::config::{Settings, edit, server_url};
use crate::error::{Error, Kind, Result};
use crate::wire::files::Hash;
use crate::{credentials, disk};

pub use request::{JoinRequest, JoinStep};

/// In the base directory: the key that the hub has accepted.
const KEY_FILE: &str = "hub.key";
/// The certificate that follows another one, as the hub has told: both fingerprints.
const NEXT_FILE: &str = "state/next-certificate";

/// Whether this machine, should the hub refuse it, may ask to be let in: it has no key, and the hub is called by its
/// own port.
pub fn may_ask(settings: &Settings) -> bool {
    cfg!(feature = "tls")
        && settings.hub_fingerprint.is_empty()
        && server_url::each(&settings.server_url).all(|url| url.starts_with("http://"))
        && credentials::access(settings).is_ok_and(|access| access.key.is_none())
}

/// Whether the hub refuses this machine, which has no key.
pub fn is_refused(settings: &Arc<Settings>) -> HubResult<bool> {
    let access = settings.clone();
    let hub = HubClient::new(settings, Box::new(move || credentials::access(&access)))?;
    match hub.hosts() {
        Ok(_) => Ok(false),
        Err(failure) if matches!(failure.status, 401 | 403) => Ok(true),
        Err(failure) => Err(failure),
    }
}

/// The words for the person that accepts.
pub fn words(settings: &Settings, name: &str, code: &str, replace: bool) -> String {
    let replace = if replace { "--replace " } else { "" };
    format!(
        "{name} asks {} to be let in: on the hub run \"mesync accept {replace}{name}\" (code {code})",
        settings.server_url
    )
}

/// What was accepted, to be written down so that no variable is needed again.
struct Accepted<'a> {
    settings: &'a Settings,
    name: &'a str,
    key: &'a str,
    fingerprint: Hash,
    watch: Option<PathBuf>,
}

impl Accepted<'_> {
    fn write(&self) -> Result<()> {
        let base = &self.settings.base_dir;
        let key_file = base.join(KEY_FILE);
        disk::create_dir(base)?;
        disk::write_durably(&key_file, format!("{}\n", self.key).as_bytes(), 0o600)?;
        let shown = key_file.to_str().ok_or_else(|| {
            Error::new(
                Kind::Settings,
                format!(
                    "cannot name {} in config.toml: it is not UTF-8",
                    key_file.display()
                ),
            )
        })?;
        let values = [
            ("server_url", self.settings.server_url.clone()),
            ("host_id", self.name.to_string()),
            ("api_key_file", shown.to_string()),
            ("hub_fingerprint", self.fingerprint.to_string()),
        ];
        edit::set(&self.settings.config_file(), &values, self.watch.as_deref())
    }
}

/// The settings with the certificate that the hub will have, if it has told of one.
pub fn with_next(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    let text = disk::read_at_most(&settings.base_dir.join(NEXT_FILE), 4096).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    for line in text.lines() {
        let mut parts = line.split(' ').map(str::parse::<Hash>);
        if let (Some(Ok(known)), Some(Ok(next))) = (parts.next(), parts.next())
            && settings.hub_fingerprint.contains(&known)
            && !settings.hub_fingerprint.contains(&next)
        {
            settings.hub_fingerprint.push(next);
        }
    }
    settings
}

/// The hub, known by its certificate, has told of the next one.
pub fn remember_next(settings: &Settings, next: Hash) -> Result<()> {
    let known = with_next(settings).hub_fingerprint;
    let Some(last) = known.last().filter(|_| !known.contains(&next)) else {
        return Ok(());
    };
    // a chain: the settings may still name the first one
    let path = settings.base_dir.join(NEXT_FILE);
    let mut text = String::new();
    for pair in known.windows(2) {
        text += &format!("{} {}\n", pair[0], pair[1]);
    }
    text += &format!("{last} {next}\n");
    disk::create_dir(disk::parent(&path))?;
    disk::write_durably(&path, text.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_certificate_is_remembered_and_the_one_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, c, d) = (Hash([1; 32]), Hash([2; 32]), Hash([3; 32]), Hash([4; 32]));
        let settings = Settings {
            base_dir: dir.path().into(),
            hub_fingerprint: vec![a],
            ..Settings::default()
        };
        assert_eq!(with_next(&settings).hub_fingerprint, [a]);
        remember_next(&settings, b).unwrap();
        remember_next(&settings, b).unwrap();
        remember_next(&settings, c).unwrap();
        assert_eq!(with_next(&settings).hub_fingerprint, [a, b, c]);
        let elsewhere = Settings {
            hub_fingerprint: vec![d],
            ..settings
        };
        assert_eq!(with_next(&elsewhere).hub_fingerprint, [d], "of another hub");
    }
}
