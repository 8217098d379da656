//! Which key a client sends to which hub: only to the hub that the key is for.
//!
//! Client side: it knows the login file and the data directory of a local hub, and none of the
//! hub's code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::config::environment;
use crate::config::{self, Settings, server_url};
use crate::error::{Error, Kind, Result};
use crate::login::{self, Login};
use crate::{disk, wire};

/// The address and key for calling the hub.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// The server of the settings; `localhost` is replaced by the address of this user's hub if the
    /// key is that hub's: `[::1]` may belong to another program while the hub has `127.0.0.1`.
    pub url: String,
    pub key: Option<String>,
    /// They are of this user's hub on this machine: when it ends, another program may get its address.
    pub is_local: bool,
}

impl Access {
    pub fn to(url: String, key: Option<String>) -> Access {
        Access {
            url,
            key,
            is_local: false,
        }
    }
}

/// The key of the settings; otherwise that of this user's hub on this machine if the settings name
/// it; otherwise that of the login file if it is for that server.
///
/// Called again when a hub refuses the key: `local.key` appears when the hub on this machine
/// starts.
pub fn access(settings: &Settings) -> Result<Access> {
    let url = settings.server_url.clone();
    let credentials = environment::variable("CREDENTIALS_DIRECTORY");
    if let Some(key) = given_key(settings, credentials.as_deref().map(Path::new))? {
        return Ok(Access::to(url, Some(key)));
    }
    if let Some(access) = local_access(&settings.hub.data_dir, &url) {
        return Ok(access);
    }
    // the commands that need the file report its errors
    let login = login::file().and_then(|path| login::read(&path).ok().flatten());
    Ok(login
        .filter(|login| server_url::names(&url, &login.server_url))
        .map_or(Access::to(url, None), |login| access_by(&login)))
}

/// If no server is set for messages, uses that of the login file.
pub fn choose_server(settings: &mut Settings) {
    if settings.server_is_default
        && let Some(path) = login::file()
        && let Ok(Some(login)) = login::read(&path)
    {
        settings.server_url = login.server_url;
    }
}

/// If nothing names a server, a command calls this user's hub on this machine, at whatever port that listens. A daemon does
/// not, because it must not change its hub when that one ends.
pub fn choose_own_hub(settings: &mut Settings) {
    if settings.server_is_default
        && let Some(listen) = listen_address(&settings.hub.data_dir)
        && local_url(&settings.server_url, listen).is_none()
        && let Some(url) = local_url(&format!("http://localhost:{}", listen.port()), listen)
    {
        settings.server_url = url;
    }
}

/// The server and key for file commands: those of the login file, or else those for messages.
pub fn file_access(settings: &Settings, login: Option<&Login>) -> Result<Access> {
    match login {
        // a key of the settings is only for the server of the settings
        Some(login) if !server_url::names(&settings.server_url, &login.server_url) => {
            Ok(access_by(login))
        }
        Some(login) => Ok(Some(access(settings)?)
            .filter(|a| a.key.is_some())
            .unwrap_or_else(|| access_by(login))),
        None => access(settings),
    }
}

fn access_by(login: &Login) -> Access {
    let key = Some(login.api_key.clone()).filter(|key| !key.is_empty());
    Access::to(login.server_url.clone(), key)
}

/// [`access`] without the address.
pub fn api_key(settings: &Settings) -> Result<Option<String>> {
    Ok(access(settings)?.key)
}

/// The key of this user's hub on this machine, if this is its URL. [`Access::url`] is where to send
/// it.
pub fn local_key(data_dir: &Path, server_url: &str) -> Option<String> {
    local_access(data_dir, server_url)?.key
}

/// The key from the environment, from the file of the settings, or from the service manager.
fn given_key(settings: &Settings, credentials: Option<&Path>) -> Result<Option<String>> {
    if settings.api_key.is_some() {
        return Ok(settings.api_key.clone().map(|key| key.0));
    }
    let key = match &settings.api_key_file {
        Some(path) => Some(disk::read_secret(path)?),
        None => disk::read_credential(credentials, "api-key")?,
    };
    let bad = |e| {
        Error::new(
            Kind::Settings,
            format!("cannot use this machine's key: {e}"),
        )
    };
    key.map(|key| config::check_key(&key).map_err(bad))
        .transpose()
}

/// A hub writes its address into its lock file once it listens, and holds the lock as long as it
/// runs: so the port is its own, and no other program gets the key.
fn listen_address(data_dir: &Path) -> Option<SocketAddr> {
    let holder = disk::lock_holder(&data_dir.join(wire::HUB_LOCK))?;
    holder.trim().parse().ok()
}

fn local_access(data_dir: &Path, server_url: &str) -> Option<Access> {
    let url = local_url(server_url, listen_address(data_dir)?)?;
    let key = disk::read_secret(&data_dir.join(wire::LOCAL_KEY)).ok()?;
    Some(Access {
        url,
        key: Some(key),
        is_local: true,
    })
}

/// The URL with an address at which only that hub responds. `None`: it names another server.
fn local_url(server_url: &str, listen: SocketAddr) -> Option<String> {
    let rest = server_url.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority.rfind(':') {
        Some(at) if !authority.ends_with(']') => {
            (&authority[..at], authority[at + 1..].parse().ok()?)
        }
        _ => (authority, 80),
    };
    let asked = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => Some(ip),
        Err(_) if host.eq_ignore_ascii_case("localhost") => None,
        Err(_) => return None,
    };
    let reached = match (listen.ip(), asked) {
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), None) => Ipv4Addr::LOCALHOST.into(),
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Some(ip)) if ip.is_ipv4() => ip,
        // it listens on the IPv4 addresses too, unless the system is set otherwise (ipv6(7),
        // bindv6only)
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), _) if asked.is_none_or(|ip| ip.is_loopback()) => {
            Ipv6Addr::LOCALHOST.into()
        }
        (ip, None) => ip,
        (ip, Some(asked)) if ip == asked => ip,
        _ => return None,
    };
    (reached.is_loopback() && port == listen.port())
        .then(|| format!("http://{}{path}", SocketAddr::new(reached, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, listen: &str, wants: Option<&str>) {
        assert_eq!(
            local_url(url, listen.parse().unwrap()).as_deref(),
            wants,
            "{url} {listen}"
        );
    }

    #[test]
    fn a_local_key_is_sent_to_this_users_hub_only() {
        check(
            "http://localhost:8080",
            "0.0.0.0:8080",
            Some("http://127.0.0.1:8080"),
        );
        check(
            "http://LOCALHOST:8080/x",
            "127.0.0.1:8080",
            Some("http://127.0.0.1:8080/x"),
        );
        check(
            "http://localhost:8080",
            "[::]:8080",
            Some("http://[::1]:8080"),
        );
        check("http://[::1]:8080", "[::]:8080", Some("http://[::1]:8080"));
        check(
            "http://127.0.0.2:8080",
            "0.0.0.0:8080",
            Some("http://127.0.0.2:8080"),
        );
        check(
            "http://localhost",
            "0.0.0.0:80",
            Some("http://127.0.0.1:80"),
        );
        check("http://localhost:8081", "0.0.0.0:8080", None);
        check("http://localhost:8080", "192.0.2.1:8080", None);
        check("http://192.0.2.1:8080", "192.0.2.1:8080", None);
        check("http://[::1]:8080", "0.0.0.0:8080", None);
        check(
            "http://127.0.0.1:8080",
            "[::]:8080",
            Some("http://[::1]:8080"),
        );
        check("http://192.0.2.1:8080", "[::]:8080", None);
        check("http://192.0.2.1:8080", "0.0.0.0:8080", None);
        check("http://127.0.0.1:8080", "127.0.0.2:8080", None);
        check("http://hub:8080", "0.0.0.0:8080", None);
        check("http://localhost.evil:8080", "0.0.0.0:8080", None);
        check("https://localhost:8080", "0.0.0.0:8080", None);
        check("http://localhost:x", "0.0.0.0:8080", None);
    }

    #[test]
    fn a_local_key_is_found_while_the_hub_runs() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            disk::write_durably(&dir.path().join(name), text.as_bytes(), 0o600).unwrap()
        };
        write(wire::LOCAL_KEY, "the-local-key\n");
        let found = || local_key(dir.path(), "http://localhost:8080");
        assert_eq!(found(), None);
        let lock = disk::lock(&dir.path().join(wire::HUB_LOCK), "0.0.0.0:8080").unwrap();
        assert_eq!(found().as_deref(), Some("the-local-key"));
        drop(lock);
        assert_eq!(found(), None);
    }

    #[test]
    fn commands_call_the_own_hub_if_nothing_names_a_server() {
        let check = |listen: &str, server: Option<&str>, wants: &str| {
            let dir = tempfile::tempdir().unwrap();
            let _lock = disk::lock(&dir.path().join(wire::HUB_LOCK), listen).unwrap();
            let mut settings = Settings::default();
            settings.hub.data_dir = dir.path().into();
            settings.server_is_default = server.is_none();
            settings.server_url = server.unwrap_or("http://localhost:8080").into();
            choose_own_hub(&mut settings);
            assert_eq!(settings.server_url, wants, "{listen}");
        };
        check("0.0.0.0:9000", None, "http://127.0.0.1:9000");
        check("127.0.0.1:9000", None, "http://127.0.0.1:9000");
        check("0.0.0.0:8080", None, "http://localhost:8080");
        check("192.0.2.1:9000", None, "http://localhost:8080");
        check("starting", None, "http://localhost:8080");
        check("0.0.0.0:9000", Some("http://hub:1"), "http://hub:1");
    }

    #[test]
    fn a_key_is_sent_to_its_own_server_only() {
        let secret = |key: &str| Some(crate::config::Secret(key.into()));
        let settings = |url: &str, key: Option<&str>| Settings {
            server_url: url.into(),
            api_key: key.and_then(secret),
            ..Settings::default()
        };
        let login = |url: &str, key: &str| Login {
            server_url: url.into(),
            api_key: key.into(),
            token: "".into(),
            expires_at: "".into(),
        };
        let check = |settings: &Settings, login: Option<&Login>, wants: (&str, Option<&str>)| {
            let access = file_access(settings, login).unwrap();
            assert_eq!((access.url.as_str(), access.key.as_deref()), wants);
        };
        let (a, b) = ("http://a.example:1", "http://b.example:1");
        check(&settings(a, Some("for-a")), None, (a, Some("for-a")));
        check(
            &settings(a, Some("for-a")),
            Some(&login(b, "for-b")),
            (b, Some("for-b")),
        );
        check(&settings(a, Some("for-a")), Some(&login(b, "")), (b, None));
        check(
            &settings(a, Some("newer")),
            Some(&login(a, "older")),
            (a, Some("newer")),
        );
        check(
            &settings(a, None),
            Some(&login(a, "older")),
            (a, Some("older")),
        );
    }

    #[test]
    fn a_key_of_the_settings_takes_precedence() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            disk::write_durably(&dir.path().join(name), text.as_bytes(), 0o600).unwrap()
        };
        let mut settings = Settings::default();
        let read = |s: &Settings| given_key(s, Some(dir.path())).map_err(|e| e.to_string());
        assert_eq!(read(&settings), Ok(None));
        write("api-key", "from-credential\n");
        assert_eq!(read(&settings), Ok(Some("from-credential".into())));
        write("file", "from-the-file\n");
        settings.api_key_file = Some(dir.path().join("file"));
        assert_eq!(read(&settings), Ok(Some("from-the-file".into())));
        write("file", "short\n");
        assert!(read(&settings).unwrap_err().contains("8 to 512"));
        settings.api_key = Some(crate::config::Secret("from-environment".into()));
        assert_eq!(read(&settings), Ok(Some("from-environment".into())));
    }
}
