//! Every setting, declared once: its name, variable, flag, default, range and one line of documentation.
//!
//! Help, man page tables and the parser of `config.toml` use the same table. This module reads only `config.toml`;
//! keys are separate files, which other modules read.

pub mod bucket;
pub mod edit;
mod encryption;
pub mod environment;
pub mod limits;
mod load;
pub mod server_url;
mod values;
pub mod watch;
pub mod zone;

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::nearest::nearest;
use crate::wire;
use crate::wire::files::Hash;
use encryption::{fingerprints, plain};
use values::{bytes, level, listen, milliseconds, number, path, reserve, seconds};
pub use values::{check_key, url as check_url};

/// The section of a setting in `config.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Top level: settings of the client.
    Client,
    /// `[hub]`.
    Hub,
    /// Not in the file: only in the environment and on the command line.
    None,
}

/// One row of the table.
pub struct Setting {
    pub key: &'static str,
    pub section: Section,
    pub env: &'static str,
    /// As text, like all values before they are parsed. Empty: no value.
    pub default: &'static str,
    pub doc: &'static str,
    set: fn(&mut Settings, &str) -> std::result::Result<(), String>,
}

/// All settings with their values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    pub base_dir: PathBuf,
    pub server_url: String,
    /// The server was not set: it is the default.
    pub server_is_default: bool,
    pub host_id: String,
    pub poll_interval: Duration,
    pub sent_ttl: Duration,
    pub send_deadline: Duration,
    pub http_timeout: Duration,
    pub hook_timeout: Duration,
    pub hook_jobs: usize,
    pub api_key: Option<Secret>,
    pub api_key_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    /// The fingerprints of the hub's certificate since this machine joined. If there are any, the hub is
    /// called over TLS only.
    pub hub_fingerprint: Vec<Hash>,
    pub log: Option<log::LevelFilter>,
    pub watches: Vec<watch::WatchSettings>,
    pub hub: HubSettings,
}

/// The settings of `[hub]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HubSettings {
    pub listen: String,
    pub data_dir: PathBuf,
    pub workers: usize,
    pub message_ttl: Duration,
    pub queue_messages: u64,
    pub queue_bytes: u64,
    pub message_space: u64,
    pub version_ttl: Duration,
    pub max_upload: u64,
    pub reserve: Reserve,
    pub connections: usize,
    pub connections_per_address: usize,
    pub max_streams: usize,
    pub max_hosts: u64,
    pub cache: u64,
    pub master_key: Option<Secret>,
    pub master_key_file: Option<PathBuf>,
    pub plain: PlainHttp,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// The bucket that this hub shares with others; `None`: it has a disk of its own.
    pub bucket: Option<bucket::BucketUrl>,
    pub bucket_region: String,
    pub bucket_key: Option<Secret>,
    pub bucket_key_file: Option<PathBuf>,
    pub bucket_poll: Duration,
    /// The other hubs of the bucket, with commas; may be empty.
    pub peers: String,
    pub commit_window: Duration,
    /// Of the client: authorities that must have signed the certificate of the bucket's server.
    pub ca_file: Option<PathBuf>,
}

/// A key that is never printed, however the settings are printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Which clients the hub serves over plain HTTP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PlainHttp {
    #[default]
    All,
    /// Clients on its own machine.
    Local,
    /// Only commands on its own machine that present the hub's own key.
    None,
}

/// Free space that the hub leaves: a part of the disk, or a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reserve {
    Percent(f64),
    Bytes(u64),
}

impl Default for Reserve {
    fn default() -> Self {
        Reserve::Percent(1.0)
    }
}

const fn row(
    section: Section,
    key: &'static str,
    env: &'static str,
    default: &'static str,
    doc: &'static str,
    set: fn(&mut Settings, &str) -> std::result::Result<(), String>,
) -> Setting {
    Setting {
        key,
        section,
        env,
        default,
        doc,
        set,
    }
}

use Section::{Client, Hub};

/// The table.
#[rustfmt::skip]
pub static SETTINGS: &[Setting] = &[
    row(Section::None, "base_dir", "MESYNC_BASE_DIR", "~/.daemon", "directory with outbox, inbox, sent, failed, hooks, state and config.toml",
        |s, v| path(v).map(|v| s.base_dir = v)),
    row(Client, "server_url", "MESYNC_SERVER_URL", "http://localhost:8080", "the hub, or several hubs of one bucket, separated by commas",
        |s, v| server_url::list(v).map(|v| s.server_url = v)),
    row(Client, "host_id", "MESYNC_HOST_ID", "", "this machine's name on the hub; the system's host name if not set",
        |s, v| wire::check_host(v).map(|v| s.host_id = v)),
    row(Client, "poll_interval", "MESYNC_POLL_INTERVAL", "5", "seconds between scans of outbox and hub when no event wakes the daemon (1 to 3600)",
        |s, v| seconds(v, 1, 3600).map(|v| s.poll_interval = v)),
    row(Client, "sent_ttl", "MESYNC_SENT_TTL", "86400", "seconds that messages are kept in sent/ (0 to 315360000)",
        |s, v| seconds(v, 0, 315_360_000).map(|v| s.sent_ttl = v)),
    row(Client, "send_deadline", "MESYNC_SEND_DEADLINE", "604800", "seconds after which an unsent message is moved to failed/ (60 to 604800)",
        |s, v| seconds(v, 60, wire::ID_MEMORY / 2).map(|v| s.send_deadline = v)),
    row(Client, "http_timeout", "MESYNC_HTTP_TIMEOUT", "10", "seconds to wait for a response of the hub (1 to 600)",
        |s, v| seconds(v, 1, 600).map(|v| s.http_timeout = v)),
    row(Client, "hook_timeout", "MESYNC_HOOK_TIMEOUT", "60", "seconds that a hook may run (1 to 86400)",
        |s, v| seconds(v, 1, 86_400).map(|v| s.hook_timeout = v)),
    row(Client, "hook_jobs", "MESYNC_HOOK_JOBS", "4", "hooks that run at the same time (1 to 64)",
        |s, v| number(v, 1, 64).map(|v| s.hook_jobs = v as usize)),
    row(Client, "api_key_file", "MESYNC_API_KEY_FILE", "", "file with this machine's key for the hub",
        |s, v| path(v).map(|v| s.api_key_file = Some(v))),
    row(Client, "ca_file", "MESYNC_CA_FILE", "", "PEM file with the authorities that must have signed the certificate of an https server; the public ones if not set",
        |s, v| path(v).map(|v| { s.hub.ca_file = Some(v.clone()); s.ca_file = Some(v) })),
    row(Client, "hub_fingerprint", "MESYNC_HUB_FINGERPRINT", "", "SHA-256 of the hub's certificate; the hub is then called through TLS only; mesync join writes it",
        |s, v| fingerprints(v).map(|v| s.hub_fingerprint = v)),
    row(Section::None, "api_key", "MESYNC_API_KEY", "", "this machine's key for the hub",
        |s, v| check_key(v).map(|v| s.api_key = Some(Secret(v)))),
    row(Client, "log", "MESYNC_LOG", "", "how much to log: error, warn, info or debug; info for daemons and warn for commands if not set",
        |s, v| level(v).map(|v| s.log = Some(v))),
    row(Hub, "listen", "MESYNC_LISTEN", "0.0.0.0:8080", "address and port of the hub",
        |s, v| listen(v).map(|v| s.hub.listen = v)),
    row(Hub, "data_dir", "MESYNC_DATA_DIR", "", "the hub's data; hub in the base directory if not set",
        |s, v| path(v).map(|v| s.hub.data_dir = v)),
    row(Hub, "workers", "MESYNC_WORKERS", "8", "threads that answer requests (1 to 64)",
        |s, v| number(v, 1, 64).map(|v| s.hub.workers = v as usize)),
    row(Hub, "message_ttl", "MESYNC_MESSAGE_TTL", "604800", "seconds that an undelivered message is kept (60 to 604800)",
        |s, v| seconds(v, 60, wire::ID_MEMORY / 2).map(|v| s.hub.message_ttl = v)),
    row(Hub, "queue_messages", "MESYNC_QUEUE_MESSAGES", "100000", "messages that may wait for one host (1 to 10000000)",
        |s, v| number(v, 1, 10_000_000).map(|v| s.hub.queue_messages = v)),
    row(Hub, "queue_bytes", "MESYNC_QUEUE_BYTES", "256MB", "bytes that may wait for one host (1MB to 1TB)",
        |s, v| bytes(v, 1_000_000, 1_000_000_000_000).map(|v| s.hub.queue_bytes = v)),
    row(Hub, "message_space", "MESYNC_MESSAGE_SPACE", "1GB", "bytes of all waiting messages together (1MB to 1TB)",
        |s, v| bytes(v, 1_000_000, 1_000_000_000_000).map(|v| s.hub.message_space = v)),
    row(Hub, "version_ttl", "MESYNC_VERSION_TTL", "2592000", "seconds for which replaced and deleted files can be restored (3600 to 315360000)",
        |s, v| seconds(v, 3600, 315_360_000).map(|v| s.hub.version_ttl = v)),
    row(Hub, "max_upload", "MESYNC_MAX_UPLOAD", "8GB", "bytes of one file (1MB to 64GB)",
        |s, v| bytes(v, 1_000_000, 64_000_000_000).map(|v| s.hub.max_upload = v)),
    row(Hub, "reserve", "MESYNC_RESERVE", "1%", "disk space to keep free, in percent or bytes, at least 8 MiB",
        |s, v| reserve(v).map(|v| s.hub.reserve = v)),
    row(Hub, "connections", "MESYNC_CONNECTIONS", "512", "connections at the same time, without event streams (8 to 10000)",
        |s, v| number(v, 8, 10_000).map(|v| s.hub.connections = v as usize)),
    row(Hub, "connections_per_address", "MESYNC_CONNECTIONS_PER_ADDRESS", "64", "connections and event streams at the same time from one address (1 to 10000)",
        |s, v| number(v, 1, 10_000).map(|v| s.hub.connections_per_address = v as usize)),
    row(Hub, "max_streams", "MESYNC_MAX_STREAMS", "1000", "event streams at the same time (8 to 10000)",
        |s, v| number(v, 8, 10_000).map(|v| s.hub.max_streams = v as usize)),
    row(Hub, "max_hosts", "MESYNC_MAX_HOSTS", "10000", "names of machines, including those that are only named as targets (16 to 10000)",
        |s, v| number(v, 16, limits::HOSTS).map(|v| s.hub.max_hosts = v)),
    row(Hub, "cache", "MESYNC_CACHE", "4MB", "memory for the pages of the hub's tables (1MB to 1GB)",
        |s, v| bytes(v, 1_000_000, 1_000_000_000).map(|v| s.hub.cache = v)),
    row(Hub, "master_key_file", "MESYNC_MASTER_KEY_FILE", "", "file with a key that has all rights on the hub",
        |s, v| path(v).map(|v| s.hub.master_key_file = Some(v))),
    row(Hub, "plain", "MESYNC_PLAIN", "all", "which clients may use plain HTTP: all, local or none",
        |s, v| plain(v).map(|v| s.hub.plain = v)),
    row(Hub, "tls_cert", "MESYNC_TLS_CERT", "", "file with your own certificate and those that signed it, in PEM, for clients that trust authorities",
        |s, v| path(v).map(|v| s.hub.tls_cert = Some(v))),
    row(Hub, "tls_key", "MESYNC_TLS_KEY", "", "file with the key of tls_cert, in PEM",
        |s, v| path(v).map(|v| s.hub.tls_key = Some(v))),
    row(Hub, "bucket", "MESYNC_BUCKET", "", "S3 bucket that this hub shares with others, as https://HOST/BUCKET or https://HOST/BUCKET/PREFIX; a disk of its own if not set",
        |s, v| bucket::BucketUrl::parse(v).map(|v| s.hub.bucket = Some(v))),
    row(Hub, "bucket_region", "MESYNC_BUCKET_REGION", "us-east-1", "region of the bucket",
        |s, v| bucket::region(v).map(|v| s.hub.bucket_region = v)),
    row(Hub, "bucket_key_file", "MESYNC_BUCKET_KEY_FILE", "", "file with the access key of the bucket: its id, a colon and its secret",
        |s, v| path(v).map(|v| s.hub.bucket_key_file = Some(v))),
    row(Hub, "bucket_poll", "MESYNC_BUCKET_POLL", "2", "seconds between polls of the bucket while nothing happens (1 to 60)",
        |s, v| seconds(v, 1, 60).map(|v| s.hub.bucket_poll = v)),
    row(Hub, "peers", "MESYNC_PEERS", "", "the other hubs of the bucket, separated by commas: they are told of changes and machines at once",
        |s, v| server_url::list(v).map(|v| s.hub.peers = v)),
    row(Hub, "commit_window", "MESYNC_COMMIT_WINDOW", "50", "minimum milliseconds between two writes to the log of the bucket (0 to 5000)",
        |s, v| milliseconds(v, 0, 5000).map(|v| s.hub.commit_window = v)),
    row(Section::None, "bucket_key", "MESYNC_BUCKET_KEY", "", "the access key of the bucket: its id, a colon and its secret",
        |s, v| bucket::AccessKey::parse(v).map(|_| s.hub.bucket_key = Some(Secret(v.to_string())))),
    row(Section::None, "master_key", "MESYNC_MASTER_KEY", "", "a key that has all rights on the hub",
        |s, v| check_key(v).map(|v| s.hub.master_key = Some(Secret(v)))),
];

impl Settings {
    /// `config.toml` in the base directory.
    pub fn config_file(&self) -> PathBuf {
        self.base_dir.join("config.toml")
    }

    /// Sets one setting from a flag of the command line.
    pub fn set_flag(&mut self, flag: &str, key: &str, value: &str) -> Result<()> {
        let row = SETTINGS
            .iter()
            .find(|s| s.key == key)
            .ok_or_else(|| Error::new(Kind::Usage, format!("no setting {key}")))?;
        (row.set)(self, value)
            .map_err(|e| Error::new(Kind::Usage, format!("bad value for {flag}: {e}")))
    }
}

/// The error for a key that is in no table.
fn unknown<'a>(key: &str, place: &str, keys: impl Iterator<Item = &'a str>) -> String {
    let meant = nearest(key, keys).map_or(String::new(), |meant| {
        format!("; did you mean \"{meant}\"?")
    });
    format!("there is no setting \"{}\"{place}{meant}", wire::brief(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_name_and_a_variable_of_its_own() {
        for (i, a) in SETTINGS.iter().enumerate() {
            assert!(a.env.starts_with("MESYNC_") && !a.doc.is_empty());
            assert!(
                SETTINGS[i + 1..]
                    .iter()
                    .all(|b| a.key != b.key && a.env != b.env),
                "{}",
                a.key
            );
        }
    }
}
