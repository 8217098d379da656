//! One request to join, asked again until it is accepted; it outlives the process that asks.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Accepted;
use crate::client::{ErrorDetail, HubClient};
use crate::config::Settings;
use crate::credentials::Access;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::pins::Pins;
use crate::wire::files::Hash;
use crate::wire::join::{AdmissionAnswer, AdmissionRequest, code};

/// In the base directory, mode 0600: the request with its key, until it is accepted.
const FILE: &str = "state/join.json";
/// Bytes of it, at most.
const MAX_FILE_BYTES: usize = 4096;
/// How often a question may lead to another one at once.
const MAX_TURNS: usize = 4;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AskedHub {
    url: String,
    name: String,
    key: String,
    number: Hash,
    #[serde(default)]
    hubs_number: Option<Hash>,
    #[serde(default)]
    fingerprint: Option<Hash>,
}

/// A request of this machine.
pub struct JoinRequest {
    settings: Arc<Settings>,
    /// What to ask for besides.
    pub replace: bool,
    pub invitation: Option<String>,
    /// To be synced once it is accepted.
    pub watch: Option<PathBuf>,
    /// By which the hub must be known; `None`: by what it shows.
    must_be: Option<Hash>,
    asked: AskedHub,
    hub: HubClient,
}

/// How a question ended.
#[derive(Debug, PartialEq, Eq)]
pub enum JoinStep {
    /// An administrator must accept it, and compare the code.
    Waits {
        code: String,
    },
    Accepted,
}

impl JoinRequest {
    /// That of an earlier process to the same hub under the same name, or a new one.
    pub fn open(settings: &Arc<Settings>, must_be: Option<Hash>) -> Result<JoinRequest> {
        if cfg!(not(feature = "tls")) {
            let words = "cannot join a hub: this program was built without TLS";
            return Err(Error::new(Kind::Settings, words));
        }
        let old = disk::read_at_most(&settings.base_dir.join(FILE), MAX_FILE_BYTES).ok();
        let old: Option<AskedHub> = old.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let asked = old
            .filter(|old| old.url == settings.server_url && old.name == settings.host_id)
            .filter(|old| must_be.is_none() || old.fingerprint.is_none_or(|f| must_be == Some(f)))
            .unwrap_or_else(|| AskedHub {
                url: settings.server_url.clone(),
                name: settings.host_id.clone(),
                key: random().to_string(),
                number: random(),
                hubs_number: None,
                fingerprint: must_be,
            });
        let hub = hub(settings, asked.fingerprint)?;
        let request = JoinRequest {
            settings: settings.clone(),
            replace: false,
            invitation: None,
            watch: None,
            must_be,
            asked,
            hub,
        };
        request.save()?;
        Ok(request)
    }

    pub fn name(&self) -> &str {
        &self.asked.name
    }

    fn save(&self) -> Result<()> {
        let path = self.settings.base_dir.join(FILE);
        disk::create_dir(disk::parent(&path))?;
        let text = serde_json::to_vec(&self.asked).unwrap_or_default();
        disk::write_durably(&path, &text, 0o600)
    }

    /// Asks, or asks again. Accepted: the settings are written.
    pub fn step(&mut self) -> crate::client::HubResult<JoinStep> {
        for _ in 0..MAX_TURNS {
            let ask = self.ask();
            let answer = match self.hub.ask_to_join(&ask) {
                // nothing was accepted yet: what another hub says is another request, with another code
                Err(failure)
                    if matches!(failure.told, ErrorDetail::OtherCertificate)
                        && self.must_be.is_none() =>
                {
                    log::warn!("{}: asking again, with another code", failure.error);
                    self.begin(None)?;
                    self.hub = hub(&self.settings, None)?;
                    continue;
                }
                other => other?,
            };
            let fingerprint = self.hub.fingerprint().ok_or_else(|| {
                Error::new(
                    Kind::Refused,
                    format!("hub {} has shown no certificate", self.hub.url()),
                )
            })?;
            match (answer, self.asked.hubs_number) {
                (AdmissionAnswer::Accepted, _) => {
                    self.accepted(fingerprint)?;
                    return Ok(JoinStep::Accepted);
                }
                (AdmissionAnswer::Pending, Some(hubs_number)) => {
                    let code = code(&fingerprint, &ask, &self.asked.number, &hubs_number);
                    return Ok(JoinStep::Waits { code });
                }
                // it has forgotten this request: a number that was revealed is not used again
                (AdmissionAnswer::Begun { .. }, Some(_)) => self.begin(Some(fingerprint))?,
                (AdmissionAnswer::Begun { number }, None) => {
                    self.asked.hubs_number = Some(number);
                    self.asked.fingerprint = Some(fingerprint);
                    self.save()?;
                }
                (AdmissionAnswer::Pending, None) => break,
            }
        }
        Err(Error::new(
            Kind::Unreachable,
            format!(
                "cannot join hub {}: its answers do not fit each other",
                self.hub.url()
            ),
        )
        .hint("update mesync on the older of the two machines")
        .into())
    }

    fn begin(&mut self, fingerprint: Option<Hash>) -> Result<()> {
        self.asked.number = random();
        self.asked.hubs_number = None;
        self.asked.fingerprint = fingerprint;
        self.save()
    }

    fn ask(&self) -> AdmissionRequest {
        AdmissionRequest {
            name: self.asked.name.clone(),
            key: Hash::of(self.asked.key.as_bytes()),
            commitment: Hash::of(&self.asked.number.0),
            number: self.asked.hubs_number.map(|_| self.asked.number),
            replace: self.replace,
            invitation: self.invitation.clone(),
        }
    }

    fn accepted(&self, fingerprint: Hash) -> Result<()> {
        let accepted = Accepted {
            settings: &self.settings,
            name: &self.asked.name,
            key: &self.asked.key,
            fingerprint,
            watch: self.watch.clone(),
        };
        accepted.write()?;
        match std::fs::remove_file(self.settings.base_dir.join(FILE)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                log::warn!("{}", Error::io(format!("remove {FILE}"), &e));
            }
            _ => {}
        }
        Ok(())
    }
}

fn hub(settings: &Settings, fingerprint: Option<Hash>) -> Result<HubClient> {
    let access = Access::to(settings.server_url.clone(), None);
    let pins = Pins::new(fingerprint.as_slice());
    HubClient::with_pins(settings, Box::new(move || Ok(access.clone())), Some(pins))
}

/// 32 random bytes: two UUIDs bring 122 random bits of the system's generator each, the hash spreads them.
fn random() -> Hash {
    let hash = Sha256::new()
        .chain_update(Uuid::new_v4())
        .chain_update(Uuid::new_v4())
        .chain_update(Uuid::new_v4());
    Hash(hash.finalize().into())
}
