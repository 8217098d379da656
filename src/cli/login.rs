//! `mesync login`: stores the server for files, and its key.

use std::io::{BufRead, IsTerminal, Read};
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::parse::Invocation;
use super::{CommandEnd, Context};
use crate::client::{HubClient, is_loopback};
use crate::config::{self, Settings, server_url};
use crate::credentials::{self, Access};
use crate::daemon::servers;
use crate::error::{Error, Kind, Result};
use crate::login::{self, Login};
use crate::{disk, logger};

/// `mesync login [--server URL]`
pub fn login(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let path = login::file();
    let path = path.ok_or_else(|| {
        Error::new(
            Kind::Settings,
            "cannot save a login: this user has no home directory",
        )
        .hint("set HOME or XDG_CONFIG_HOME")
    })?;
    let old = login::read(&path).ok().flatten();
    let server = match invocation.value("server")? {
        Some(url) => config::check_url(url)
            .map_err(|e| invocation.usage(format!("bad value for --server: {e}")))?,
        None => old.map_or_else(
            // s3ec, which reads the same file, knows no lists
            || {
                let mut urls = server_url::each(&context.settings.server_url);
                urls.next().unwrap_or_default().to_string()
            },
            |old| old.server_url,
        ),
    };
    let mut settings = (*context.settings).clone();
    // the fingerprint belongs to the former server
    let same = server_url::names(&settings.server_url, &server);
    settings.server_url = server.clone();
    if !same {
        settings.hub_fingerprint.clear();
    }
    let key = key(invocation, &settings, same)?;
    if settings.hub_fingerprint.is_empty() {
        servers::warn_if_readable(&server);
    } else if server.starts_with("http://") && !is_loopback(&server) {
        log::warn!(
            "mesync calls {server} through TLS; s3ec reads the same file, and sends the key in the clear"
        );
    }
    let access = Access::to(server.clone(), Some(key.clone()));
    let hub = HubClient::new(&settings, Box::new(move || Ok(access.clone())))?;
    let answer = hub.login(&key)?;
    let login = Login {
        server_url: server,
        api_key: key,
        token: answer.token,
        expires_at: answer.expires_at,
    };
    login::write(&path, &login)?;
    let (shown, out) = (disk::show(path.as_os_str()), &mut context.out);
    if out.json {
        out.object(&serde_json::json!({ "server_url": login.server_url, "expires_at": login.expires_at, "file": shown }))
    } else {
        out.line(&format!(
            "logged in to {}, saved in {shown}",
            logger::one_line(&login.server_url)
        ))
    }
    Ok(CommandEnd::All)
}

fn key(invocation: &Invocation, settings: &Settings, same: bool) -> Result<String> {
    let check = |key: &str| {
        config::check_key(key)
            .map_err(|e| Error::new(Kind::Usage, format!("cannot use the key: {e}")))
    };
    match (
        invocation.value("api-key")?,
        invocation.os_value("api-key-file"),
    ) {
        (Some(_), Some(_)) => {
            return Err(invocation.usage("--api-key and --api-key-file exclude each other"));
        }
        (Some(key), None) => return check(key),
        (None, Some(file)) if file == "-" => {
            let mut text = String::new();
            let read = std::io::stdin().take(4096).read_to_string(&mut text);
            read.map_err(|e| Error {
                kind: Kind::Io,
                ..Error::io("read standard input", &e)
            })?;
            return check(&text);
        }
        (None, Some(file)) => return check(&disk::read_secret(Path::new(file))?),
        (None, None) => {}
    }
    let set = match (&settings.api_key, same) {
        (Some(key), _) => Some(key.0.clone()),
        (None, true) => credentials::api_key(settings)?,
        (None, false) => credentials::local_key(&settings.hub.data_dir, &settings.server_url),
    };
    match set {
        Some(key) => Ok(key),
        None if std::io::stdin().is_terminal() => check(&ask(&settings.server_url)?),
        None => {
            Err(invocation.usage("login needs a key: set MESYNC_API_KEY, or give --api-key-file"))
        }
    }
}

/// Asks for the key without showing it.
fn ask(server: &str) -> Result<String> {
    let failed = |e: std::io::Error| Error {
        kind: Kind::Io,
        ..Error::io("read the key from the terminal", &e)
    };
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).map_err(|e| failed(e.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("key for {server}: ").as_bytes(),
    );
    tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(|e| failed(e.into()))?;
    let mut line = String::new();
    let read = stdin.lock().take(4096).read_line(&mut line);
    // restore the echo even after an error
    let restored = tcsetattr(&stdin, OptionalActions::Now, &before);
    logger::note("");
    read.map_err(failed)?;
    restored.map_err(|e| failed(e.into()))?;
    Ok(line)
}
