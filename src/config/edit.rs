//! Changes settings in `config.toml` and leaves every other line as it is: comments and their
//! positions belong to the user.
//!
//! It reads back what it has written: a file that it does not understand remains unchanged.

use std::path::Path;

use crate::disk;
use crate::error::{Error, Kind, Result, plain};

/// Maximum size of a `config.toml` that is rewritten.
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// Sets these values at the top level, and adds a directory under `[[watch]]` if it is missing.
pub fn set(file: &Path, values: &[(&str, String)], watch: Option<&Path>) -> Result<()> {
    let failed = |why: &str| {
        Error::new(
            Kind::Settings,
            format!("cannot write settings to {}: {why}", file.display()),
        )
    };
    // keep a link: the target may be kept in another directory
    let file = &std::fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
    let text = match disk::read_at_most(file, MAX_FILE_BYTES) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| failed("it is not UTF-8"))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(failed(&plain(&e))),
    };
    let changed = changed(&text, values, watch).ok_or_else(|| {
        let lines: Vec<String> = values.iter().map(|(k, v)| line(k, v)).collect();
        failed("its form is not understood").hint(format!("write into it: {}", lines.join("; ")))
    })?;
    if changed == text {
        return Ok(());
    }
    let mode = std::fs::metadata(file).map_or(0o600, |meta| {
        use std::os::unix::fs::PermissionsExt;
        meta.permissions().mode() & 0o777
    });
    disk::create_dir(disk::parent(file))?;
    disk::write_durably(file, changed.as_bytes(), mode)
}

fn line(key: &str, value: &str) -> String {
    format!("{key} = {}", toml::Value::String(value.into()))
}

fn changed(text: &str, values: &[(&str, String)], watch: Option<&Path>) -> Option<String> {
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    for (key, value) in values {
        let top = lines
            .iter()
            .position(|l| l.trim_start().starts_with('['))
            .unwrap_or(lines.len());
        let is_it = |l: &String| {
            let rest = l.trim_start().strip_prefix(key);
            rest.is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        match lines[..top].iter().position(is_it) {
            Some(at) => lines[at] = line(key, value),
            None => {
                // after the last line with content, so that comments above a table stay with it
                let said = |l: &String| !l.trim().is_empty() && !l.trim_start().starts_with('#');
                let after = if top == lines.len() {
                    top
                } else {
                    lines[..top].iter().rposition(said).map_or(0, |at| at + 1)
                };
                lines.insert(after, line(key, value));
            }
        }
    }
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    let has = |table: &toml::Table, dir: &str| {
        let watches = table.get(super::watch::TABLE).and_then(|w| w.as_array());
        watches.is_some_and(|all| {
            all.iter()
                .any(|w| w.get("path").and_then(|p| p.as_str()) == Some(dir))
        })
    };
    let mut table: toml::Table = text.parse().ok()?;
    if let Some(dir) = watch {
        let dir = dir.to_str()?;
        if !has(&table, dir) {
            text.push_str(&format!(
                "\n[[{}]]\n{}\n",
                super::watch::TABLE,
                line("path", dir)
            ));
            table = text.parse().ok()?;
        }
        has(&table, dir).then_some(())?;
    }
    let all = values
        .iter()
        .all(|(key, value)| table.get(*key).and_then(|v| v.as_str()) == Some(value));
    all.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(before: &str, watch: Option<&str>, wants: Option<&str>) {
        let values = [
            ("server_url", "http://hub:1".to_string()),
            ("host_id", "a".to_string()),
        ];
        let got = changed(before, &values, watch.map(Path::new));
        assert_eq!(got.as_deref(), wants, "{before}");
        if let Some(got) = got {
            assert_eq!(
                changed(&got, &values, watch.map(Path::new)),
                Some(got.clone()),
                "twice"
            );
        }
    }

    #[test]
    fn all_other_lines_stay() {
        let two = "server_url = \"http://hub:1\"\nhost_id = \"a\"\n";
        check("", None, Some(two));
        check(
            "# mine\n  host_id='old' # x\n\n# the hub\n[hub]\nserver_url = 'not this'\n",
            None,
            Some(
                "# mine\nhost_id = \"a\"\nserver_url = \"http://hub:1\"\n\n# the hub\n[hub]\nserver_url = 'not this'\n",
            ),
        );
        check(
            "# only words\n\n[[watch]]\npath = '/x'\n",
            Some("/x"),
            Some(&format!("{two}# only words\n\n[[watch]]\npath = '/x'\n")),
        );
        check(
            "",
            Some("/a b\"c"),
            Some(&format!("{two}\n[[watch]]\npath = '/a b\"c'\n")),
        );
    }

    #[test]
    fn a_file_that_is_not_understood_stays_unchanged() {
        check("x = '''\n[a\n'''\nserver_url = 'y'\n", None, None);
        check("x = [", None, None);
        check("watch = 5\n", Some("/x"), None);
    }
}
