//! The settings file and the environment.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use mesync::internals::{config, error, wire};

use super::is_plain;

/// `config.toml` and variables: all that is before the first NUL byte is the file, each line after it `key=value`. The same
/// file is also read as `keys.toml`.
pub fn settings(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |b| *b == 0);
    let (file, variables) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let dir = tempfile::tempdir().expect("a scratch directory");
    let write = |name: &str| {
        std::fs::write(dir.path().join(name), file).expect("a file in it");
        std::fs::set_permissions(
            dir.path().join(name),
            std::fs::Permissions::from_mode(0o600),
        )
        .expect("its mode");
    };
    write("config.toml");
    write("keys.toml");
    let variable = |name: &str| -> Option<OsString> {
        if name == "MESYNC_BASE_DIR" {
            return Some(dir.path().into());
        }
        let row = config::SETTINGS
            .iter()
            .find(|s| s.env == name)
            .expect("only what is in the table is asked for");
        let value = |line: &[u8]| {
            line.strip_prefix(row.key.as_bytes())?
                .strip_prefix(b"=")
                .map(|v| OsStr::from_bytes(v).to_os_string())
        };
        variables.split(|b| *b == b'\n').find_map(value)
    };
    match config::Settings::load(variable) {
        Ok(settings) => settings_are_in_range(&settings),
        Err(e) => {
            let text = e.to_string();
            assert_eq!(e.kind, error::Kind::Settings, "{text}");
            let named = text.contains("bad value in MESYNC_")
                || text.contains("stream did not contain valid UTF-8");
            assert!(
                named
                    || line_of(&text)
                        .is_some_and(|n| (1..=file.split(|b| *b == b'\n').count()).contains(&n)),
                "{text}"
            );
            let secret = variable("MESYNC_API_KEY").filter(|key| key.len() > 20);
            assert!(
                secret.is_none_or(|key| !text.contains(&*key.to_string_lossy())),
                "{text}"
            );
        }
    }
    match mesync::internals::hub::list_keys(dir.path()) {
        Ok(keys) => {
            assert!(
                keys.len() <= config::limits::KEYS
                    && keys
                        .iter()
                        .all(|k| is_plain(&k.name, 63) && k.name == k.name.to_ascii_lowercase())
            );
            assert_eq!(
                keys.iter().map(|k| &k.name).collect::<HashSet<_>>().len(),
                keys.len()
            );
            assert_eq!(
                keys.iter().map(|k| k.hash).collect::<HashSet<_>>().len(),
                keys.len()
            );
        }
        Err(e) => assert!(
            e.kind == error::Kind::Settings && e.to_string().contains("keys.toml"),
            "{e}"
        ),
    }
}

fn settings_are_in_range(s: &config::Settings) {
    let seconds = |d: Duration, least: u64, most: u64| {
        d.subsec_nanos() == 0 && (least..=most).contains(&d.as_secs())
    };
    assert!(
        seconds(s.poll_interval, 1, 3600)
            && seconds(s.http_timeout, 1, 600)
            && seconds(s.hook_timeout, 1, 86_400)
    );
    assert!(
        seconds(s.send_deadline, 60, wire::ID_MEMORY / 2)
            && seconds(s.hub.message_ttl, 60, wire::ID_MEMORY / 2)
    );
    assert!((1..=64).contains(&s.hook_jobs) && (1..=64).contains(&s.hub.workers));
    assert!(
        (8..=10_000).contains(&s.hub.connections)
            && (1..=10_000).contains(&s.hub.connections_per_address)
            && (8..=10_000).contains(&s.hub.max_streams)
            && (16..=10_000).contains(&s.hub.max_hosts)
    );
    assert!((1_000_000..=1_000_000_000).contains(&s.hub.cache));
    assert!(
        wire::check_host(&s.host_id).as_deref() == Ok(&s.host_id),
        "{}",
        s.host_id
    );
    assert!(
        s.server_url.starts_with("http")
            && !s.server_url.ends_with('/')
            && !s.server_url.contains(char::is_whitespace)
    );
    assert!(s.hub.listen.parse::<std::net::SocketAddr>().is_ok() && s.hub.data_dir.is_absolute());
    assert!(
        s.api_key
            .iter()
            .chain(&s.hub.master_key)
            .all(|key| config::check_key(&key.0).as_ref() == Ok(&key.0))
    );
    match s.hub.reserve {
        config::Reserve::Percent(part) => assert!((0.0..=90.0).contains(&part)),
        config::Reserve::Bytes(n) => assert!(n <= 1_000_000_000_000),
    }
}

/// The number after "line ".
fn line_of(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once(", line ")?;
    rest.split(':').next()?.parse().ok()
}
