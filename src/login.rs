//! The login file: which server keeps this user's files, and the key that it gave. `s3ec` uses the
//! same file.
//!
//! `~/.config/s3ec/config.toml`. Fields of other programs are kept. It knows no HTTP: the caller
//! gets the token.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::config::environment;
use crate::disk;
use crate::error::{Error, Kind, Result, plain};

/// Bytes of the file, at most.
const MAX_FILE_BYTES: usize = 64 * 1024;

/// The result of a login. `s3ec` requires all four fields, as strings.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub server_url: String,
    pub api_key: String,
    pub token: String,
    /// RFC 3339, by the hub's clock.
    pub expires_at: String,
}

/// The file in the user's directory for settings (XDG Base Directory Specification). `None`: this
/// user has none.
pub fn file() -> Option<PathBuf> {
    file_in(
        environment::variable("XDG_CONFIG_HOME").map(PathBuf::from),
        environment::home(),
    )
}

fn file_in(config: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let dir = config
        .filter(|dir| dir.is_absolute())
        .or_else(|| Some(home?.join(".config")))?;
    Some(dir.join("s3ec/config.toml"))
}

/// Reads the login; `None` if there is none. If others can read the file, its mode is corrected
/// with a warning: `s3ec` creates it like that.
pub fn read(path: &Path) -> Result<Option<Login>> {
    let bytes = match disk::read_at_most(&target(path), MAX_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(bad(path, &plain(&e))),
    };
    protect(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| bad(path, "it is not UTF-8"))?;
    let table = parse(path, text)?;
    let field = |name: &str| {
        table
            .get(name)
            .and_then(|v| v.as_str())
            .unwrap_or_default()
            .to_string()
    };
    let server_url = crate::config::check_url(&field("server_url"))
        .map_err(|why| bad(path, &format!("server_url {why}")))?;
    Ok(Some(Login {
        server_url,
        api_key: field("api_key"),
        token: field("token"),
        expires_at: field("expires_at"),
    }))
}

/// Writes the login atomically, readable for this user only, and keeps all other fields of the
/// file.
pub fn write(path: &Path, login: &Login) -> Result<()> {
    disk::create_dir(disk::parent(path))?;
    let target = target(path);
    let old = match disk::read_at_most(&target, MAX_FILE_BYTES) {
        Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
        Err(_) => String::new(),
    };
    // an unreadable file must not prevent a login
    let mut table = parse(path, &old).unwrap_or_default();
    let fields = [
        ("server_url", &login.server_url),
        ("api_key", &login.api_key),
        ("token", &login.token),
        ("expires_at", &login.expires_at),
    ];
    for (name, value) in fields {
        table.insert(name.to_string(), toml::Value::String(value.clone()));
    }
    let text = toml::to_string(&table).map_err(|e| {
        Error::new(
            Kind::Failed,
            format!("cannot write {}: {e}", path.display()),
        )
    })?;
    disk::write_durably(&target, text.as_bytes(), 0o600)
}

/// The target if the file is a link: the file may be kept in another directory, and is replaced by
/// a rename.
fn target(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

fn parse(path: &Path, text: &str) -> Result<toml::Table> {
    // without the parser's text, which quotes the line, and with it the key
    toml::from_str(text).map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |s| {
            text[..s.start.min(text.len())].matches('\n').count() + 1
        });
        bad(path, &format!("line {line} is not TOML"))
    })
}

fn protect(path: &Path) -> Result<()> {
    let meta = std::fs::metadata(path).map_err(|e| bad(path, &plain(&e)))?;
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me && meta.uid() != 0 {
        return Err(bad(path, "it belongs to another user"));
    }
    if meta.mode() & 0o077 != 0 {
        let mended = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
        let what = if mended.is_ok() {
            "it is private now"
        } else {
            "and that cannot be changed"
        };
        log::warn!(
            "others could read the key in {} (mode {:o}): {what}",
            path.display(),
            meta.mode() & 0o777
        );
    }
    Ok(())
}

fn bad(path: &Path, why: &str) -> Error {
    Error::new(
        Kind::Settings,
        format!("cannot use the login file {}: {why}", path.display()),
    )
    .hint("mesync login --server URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Login {
        let text = |t: &str| t.to_string();
        Login {
            server_url: text("http://hub:8080"),
            api_key: text("the-key-it-is"),
            token: text("t"),
            expires_at: text("2026-11-21T10:30:00Z"),
        }
    }

    #[test]
    fn fields_of_other_programs_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s3ec/config.toml");
        assert!(read(&path).unwrap().is_none());
        write(&path, &login()).unwrap();
        assert!(read(&path).unwrap().as_ref() == Some(&login()));
        let mut text = std::fs::read_to_string(&path).unwrap();
        text +=
            "concurrency = 20\nlast_sync_at = \"2026-11-21T10:30:00+00:00\"\n[other]\nx = [1, 2]\n";
        std::fs::write(&path, text).unwrap();
        write(
            &path,
            &Login {
                token: "u".into(),
                ..login()
            },
        )
        .unwrap();
        let table: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        assert_eq!(
            (table["concurrency"].as_integer(), table["token"].as_str()),
            (Some(20), Some("u"))
        );
        assert_eq!(
            (table["other"]["x"][1].as_integer(), table.len()),
            (Some(2), 7)
        );
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_others_can_read_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        write(&path, &login()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&path).unwrap().is_some());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_to_it_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (link, real) = (dir.path().join("config.toml"), dir.path().join("real.toml"));
        write(&real, &login()).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write(
            &link,
            &Login {
                token: "u".into(),
                ..login()
            },
        )
        .unwrap();
        assert!(
            std::fs::symlink_metadata(&link).unwrap().is_symlink()
                && read(&real).unwrap().unwrap().token == "u"
        );
    }

    #[test]
    fn an_error_is_reported_without_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let check = |text: &str, wants: &str| {
            std::fs::write(&path, text).unwrap();
            let error = read(&path).err().expect("an error").to_string();
            assert!(
                error.contains(wants)
                    && !error.contains("secret")
                    && error.contains("mesync login"),
                "{error}"
            );
        };
        check(
            "server_url = \"http://x\"\napi_key = \"secret",
            "line 2 is not TOML",
        );
        check("api_key = \"secret\"", "server_url must be a URL");
        check("server_url = \"ftp://x\"\n", "server_url must be a URL");
    }

    #[test]
    fn the_file_is_where_s3ec_looks() {
        let check = |config: Option<&str>, home: Option<&str>, wants: Option<&str>| {
            let path = |text: Option<&str>| text.map(PathBuf::from);
            assert_eq!(file_in(path(config), path(home)), path(wants));
        };
        check(None, Some("/h"), Some("/h/.config/s3ec/config.toml"));
        check(Some("/x"), Some("/h"), Some("/x/s3ec/config.toml"));
        check(
            Some("relative"),
            Some("/h"),
            Some("/h/.config/s3ec/config.toml"),
        );
        check(None, None, None);
    }
}
