//! Reads the settings: the environment over `config.toml` over the defaults.
//!
//! The table in the parent module has the settings; a value is parsed by its row.

use std::path::Path;

use super::Section::{Client, Hub};
use super::{SETTINGS, Section, Setting, Settings, unknown, watch};
use crate::error::{Error, Kind, Result, is_shortage};
use crate::wire;

impl Settings {
    /// Environment over `config.toml` over defaults; then values that depend on the machine are
    /// filled in.
    ///
    /// A bad value is an error that names the variable, or the file, line and key.
    pub fn load(env: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Settings> {
        let mut settings = Settings {
            server_is_default: true,
            ..Settings::default()
        };
        // a user without a home directory cannot use "~", and therefore sets the base directory
        let given = |s: &Setting| s.key == "base_dir" && env(s.env).is_some_and(|v| !v.is_empty());
        for s in SETTINGS
            .iter()
            .filter(|s| !s.default.is_empty() && !given(s))
        {
            (s.set)(&mut settings, s.default).map_err(|e| {
                Error::new(
                    Kind::Settings,
                    format!("cannot use the default of {}: {e}", s.key),
                )
                .hint(format!("set {}", s.env))
            })?;
        }
        // the base directory first, because it contains the file
        let (places, others): (Vec<_>, Vec<_>) = SETTINGS.iter().partition(|s| s.key == "base_dir");
        settings.read_environment(&places, &env)?;
        let file = settings.config_file();
        settings.read_file(&file)?;
        settings.read_environment(&others, &env)?;
        if settings.host_id.is_empty() {
            settings.host_id = system_host_name()?;
        }
        if settings.hub.data_dir.as_os_str().is_empty() {
            settings.hub.data_dir = settings.base_dir.join("hub");
        }
        Ok(settings)
    }

    fn read_environment(
        &mut self,
        rows: &[&Setting],
        env: &impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<()> {
        for row in rows {
            let Some(value) = env(row.env).filter(|v| !v.is_empty()) else {
                continue;
            };
            let value = value.to_str().ok_or_else(|| {
                Error::new(
                    Kind::Settings,
                    format!("bad value in {}: it is not UTF-8", row.env),
                )
            })?;
            (row.set)(self, value).map_err(|e| {
                Error::new(Kind::Settings, format!("bad value in {}: {e}", row.env))
            })?;
            self.server_is_default &= row.key != "server_url";
        }
        Ok(())
    }

    fn read_file(&mut self, file: &Path) -> Result<()> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) if is_shortage(&e) => {
                return Err(Error::io(format!("read {}", file.display()), &e));
            }
            Err(e) => {
                let why = crate::error::plain(&e);
                return Err(Error::new(
                    Kind::Settings,
                    format!("cannot read {}: {why}", file.display()),
                ));
            }
        };
        let bad = |at: usize, why: String| {
            let line = text[..at.min(text.len())].matches('\n').count() + 1;
            Error::new(
                Kind::Settings,
                format!("bad setting in {}, line {line}: {why}", file.display()),
            )
        };
        let table = toml::de::DeTable::parse(&text)
            .map_err(|e| bad(e.span().map_or(0, |s| s.start), e.message().to_string()))?;
        for (name, value) in table.get_ref() {
            match (name.get_ref().as_ref(), value.get_ref()) {
                ("hub", toml::de::DeValue::Table(hub)) => {
                    for (name, value) in hub {
                        self.read_value(Hub, name.get_ref(), value.get_ref())
                            .map_err(|e| bad(name.span().start, e))?;
                    }
                }
                (watch::TABLE, value) => {
                    self.watches =
                        watch::read(value, name.span().start).map_err(|(at, why)| bad(at, why))?
                }
                ("hub", _) => {
                    return Err(bad(name.span().start, "hub must be a table: [hub]".into()));
                }
                (key, value) => self
                    .read_value(Client, key, value)
                    .map_err(|e| bad(name.span().start, e))?,
            }
        }
        Ok(())
    }

    fn read_value(
        &mut self,
        section: Section,
        key: &str,
        value: &toml::de::DeValue<'_>,
    ) -> std::result::Result<(), String> {
        use toml::de::DeValue;
        let Some(row) = SETTINGS
            .iter()
            .find(|s| s.section == section && s.key == key)
        else {
            let keys = |section| {
                SETTINGS
                    .iter()
                    .filter(move |s| s.section == section)
                    .map(|s| s.key)
            };
            return Err(match SETTINGS.iter().find(|s| s.key == key) {
                Some(Setting { section: Hub, .. }) => format!("{key} belongs under [hub]"),
                Some(Setting {
                    section: Client, ..
                }) => format!("{key} belongs above [hub], at the top"),
                Some(other) => {
                    let file = format!("{key}_file");
                    let place = match SETTINGS.iter().find(|s| s.key == file).map(|s| s.section) {
                        Some(Hub) => format!("a file of its own, named by {file} under [hub], or "),
                        Some(_) => format!("a file of its own, named by {file}, or "),
                        None => String::new(),
                    };
                    format!(
                        "{key} does not belong in this file, but in {place}{}",
                        other.env
                    )
                }
                None if watch::SETTINGS.iter().any(|s| s.key == key) => {
                    format!("{key} belongs under [[watch]]")
                }
                None if section == Hub => unknown(key, " under [hub]", keys(Hub)),
                None => unknown(key, "", keys(Client).chain(["hub", watch::TABLE])),
            });
        };
        let text = match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(n) => n.to_string(),
            DeValue::Float(n) => n.to_string(),
            DeValue::Boolean(b) => b.to_string(),
            _ => return Err(format!("{key} must be a string or a number")),
        };
        self.server_is_default &= key != "server_url";
        (row.set)(self, &text).map_err(|e| format!("{key}: {e}"))
    }
}

fn system_host_name() -> Result<String> {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    wire::check_host(&name).map_err(|e| {
        Error::new(
            Kind::Settings,
            format!("cannot use the system's host name: {e}"),
        )
        .hint("set MESYNC_HOST_ID, or host_id in config.toml")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(env: &[(&str, &str)], file: &str, wants: &str) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), file).unwrap();
        let lookup = |name: &str| match name {
            "MESYNC_BASE_DIR" => Some(dir.path().into()),
            _ => env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()),
        };
        let got = match Settings::load(lookup) {
            Ok(s) => format!("{s:?}"),
            Err(e) => e.to_string(),
        };
        assert!(got.contains(wants), "{env:?} {file:?}: {got}");
    }

    #[test]
    fn environment_beats_file_beats_default() {
        check(&[], "", "poll_interval: 5s");
        check(&[], "poll_interval = 7", "poll_interval: 7s");
        check(
            &[("MESYNC_POLL_INTERVAL", "9")],
            "poll_interval = 7",
            "poll_interval: 9s",
        );
        check(
            &[("MESYNC_POLL_INTERVAL", "")],
            "poll_interval = 7",
            "poll_interval: 7s",
        );
        check(
            &[],
            "[hub]\nlisten = ':9000'\nqueue_bytes = '2MiB'",
            "queue_bytes: 2097152",
        );
        check(&[], "[hub]\nreserve = '5%'", "reserve: Percent(5.0)");
        check(
            &[("MESYNC_SERVER_URL", "http://hub:1/")],
            "",
            "server_url: \"http://hub:1\", server_is_default: false",
        );
    }

    #[test]
    fn bad_values_name_their_place() {
        check(
            &[("MESYNC_POLL_INTERVAL", "0")],
            "",
            "bad value in MESYNC_POLL_INTERVAL: must be a whole number of seconds from 1 to 3600, not \"0\"",
        );
        check(
            &[],
            "\n\npoll_interval = 'x'",
            "line 3: poll_interval: must be a whole number",
        );
        check(&[], "a = [", "line 1:");
        check(
            &[],
            "\npol_interval = 5",
            "line 2: there is no setting \"pol_interval\"; did you mean \"poll_interval\"?",
        );
        check(
            &[],
            "\n[hub]\nlisen = ':1'",
            "line 3: there is no setting \"lisen\" under [hub]; did you mean \"listen\"?",
        );
        check(
            &[],
            "\n[[wach]]\npath = '/a'",
            "line 2: there is no setting \"wach\"; did you mean \"watch\"?",
        );
        check(
            &[],
            "server_url = 'http://hub:70000'",
            "line 1: server_url: must be a URL",
        );
        check(
            &[],
            "[hub]\n\nlisten = 'localhost:8080'",
            "line 3: listen: must be an address and a port",
        );
        check(
            &[("MESYNC_LISTEN", "0.0.0.0:70000")],
            "",
            "bad value in MESYNC_LISTEN: must be an address and a port",
        );
        check(&[], "listen = ':1'", "line 1: listen belongs under [hub]");
        check(
            &[],
            "[hub]\nhost_id = 'x'",
            "line 2: host_id belongs above [hub]",
        );
        check(
            &[],
            "api_key = 'secretsecret'",
            "api_key does not belong in this file, but in a file of its own, named by api_key_file, or MESYNC_API_KEY",
        );
        check(
            &[],
            "[hub]\nmaster_key = 'secretsecret'",
            "line 2: master_key does not belong in this file, but in a file of its own, named by master_key_file under [hub], or",
        );
        check(
            &[],
            "base_dir = '/x'",
            "base_dir does not belong in this file, but in MESYNC_BASE_DIR",
        );
        check(
            &[("MESYNC_SERVER_URL", "hub:8080")],
            "",
            "must begin with http:// or https://",
        );
        check(
            &[("MESYNC_SERVER_URL", "http://key@hub:8080")],
            "",
            "use MESYNC_API_KEY",
        );
        check(&[("MESYNC_HOST_ID", "a b")], "", "a host name is 1 to 63");
        check(
            &[("MESYNC_API_KEY", "a-long-enough-key")],
            "",
            "api_key: Some((secret))",
        );
        check(
            &[("MESYNC_API_KEY", "short")],
            "",
            "bad value in MESYNC_API_KEY: a key is 8 to 512",
        );
    }

    #[test]
    fn watched_directories_are_tables_of_their_own() {
        let watch = |rest: &str| format!("poll_interval = 7\n\n[[watch]]\npath = '/a'\n{rest}");
        check(&[], "", "watches: []");
        check(
            &[],
            &watch(""),
            "path: \"/a\", named: \"/a\", remote: \"\", mode: TwoWay, debounce: 500ms, rescan: 3600s, ignore: [], concurrency: 8",
        );
        check(
            &[],
            &watch("ignore = ['*.bak', '.git/']\nbandwidth_limit = '2MB/s'"),
            "ignore: [\"*.bak\", \".git/\"], concurrency: 8, max_deletes: 10, max_delete_share: 25, bandwidth_limit: Some(2000000)",
        );
        check(
            &[],
            &watch("max_deletes = 0\nmax_delete_share = 100"),
            "max_deletes: 0, max_delete_share: 100",
        );
        check(
            &[],
            &watch("max_delete_share = 101"),
            "max_delete_share: must be a whole number from 0 to 100, not \"101\"",
        );
        check(
            &[],
            &watch("max_deletes = -1"),
            "max_deletes: must be a whole number from 0 to 1000000, not \"-1\"",
        );
        check(
            &[],
            &watch("remote = '/docs/'\nmode = 'send-only'\nignore = 'x'"),
            "remote: \"docs\", mode: SendOnly",
        );
        check(
            &[],
            &watch("mode = 'both'"),
            "line 5: mode: must be two-way, send-only or receive-only, not \"both\"",
        );
        check(
            &[],
            &watch("debounce_ms = 1"),
            "line 5: debounce_ms: must be a whole number of milliseconds from 10 to 60000",
        );
        check(
            &[],
            &watch("remote = '../x'"),
            "line 5: remote: the name leads elsewhere",
        );
        check(
            &[],
            &watch("rescn = 9"),
            "line 5: there is no setting \"rescn\" under [[watch]]; did you mean \"rescan\"?",
        );
        check(
            &[],
            &watch("ignore = [1]"),
            "line 5: ignore: a pattern is a string",
        );
        check(
            &[],
            "\n[[watch]]\nmode = 'two-way'",
            "line 2: path is missing under [[watch]]",
        );
        check(&[], "watch = 5", "line 1: watch must be tables: [[watch]]");
        check(
            &[],
            "\nrescan = 5",
            "line 2: rescan belongs under [[watch]]",
        );
        check(
            &[],
            &watch("remote = 'x'\n[[watch]]\npath = '/a/b'\nremote = 'y'"),
            "line 6: /a/b and /a overlap",
        );
        check(
            &[],
            &watch("remote = 'x'\n[[watch]]\npath = '/b'\nremote = 'x/y'"),
            "here or on the hub",
        );
        check(
            &[],
            &watch("remote = 'x'\n[[watch]]\npath = '/ab'\nremote = 'xy'"),
            "path: \"/ab\"",
        );
    }
}
