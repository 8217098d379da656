//! Translates the path of a local file in a synced directory to its path on the hub.
//!
//! It uses names only, so the file need not exist.

use std::path::{Component, Path, PathBuf};

use crate::config::Settings;
use crate::files::overview::real;
use crate::files::status::StatusFiles;

/// A local directory, and the directory on the hub that it is synced with ("": the root).
struct SyncedDirectory {
    dir: PathBuf,
    remote: String,
}

/// Whether the text can only be a local path.
pub fn is_explicit(what: &str) -> bool {
    what == "." || what == ".." || what.starts_with("./") || what.starts_with("../")
}

/// The path on the hub for a local path; `None`: it is in no directory that is synced with this server.
pub fn on_hub(settings: &Settings, server: &str, what: &str) -> Option<String> {
    let configured = settings.watches.iter().map(|watch| SyncedDirectory {
        dir: real(&watch.path),
        remote: watch.remote.clone(),
    });
    let known = StatusFiles::all(&settings.base_dir)
        .into_iter()
        .filter_map(|files| files.read())
        .filter(|status| status.server == server)
        .map(|status| SyncedDirectory {
            dir: PathBuf::from(status.dir),
            remote: status.remote,
        });
    let all: Vec<SyncedDirectory> = configured.chain(known).collect();
    translate(&all, &std::env::current_dir().ok()?, what)
}

/// The absolute path without "." and "..".
pub fn lexical(cwd: &Path, what: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for component in cwd.join(what).components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path
}

fn translate(all: &[SyncedDirectory], cwd: &Path, what: &str) -> Option<String> {
    let path = lexical(cwd, what);
    let (below, synced) = all
        .iter()
        .find_map(|synced| Some((path.strip_prefix(&synced.dir).ok()?, synced)))?;
    let below = below.to_str()?;
    let parts = [synced.remote.as_str(), below];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_synced_directory_has_one_on_the_hub() {
        let synced = |dir: &str, remote: &str| SyncedDirectory {
            dir: dir.into(),
            remote: remote.into(),
        };
        let all = [synced("/home/a/share", ""), synced("/srv/web", "web/1")];
        let check = |cwd: &str, what: &str, wants: Option<&str>| {
            assert_eq!(
                translate(&all, Path::new(cwd), what).as_deref(),
                wants,
                "{cwd} {what}"
            );
        };
        check("/home/a/share/docs", "./a.txt", Some("docs/a.txt"));
        check("/home/a/share/docs", "a.txt", Some("docs/a.txt"));
        check("/home/a/share/docs", "../b.txt", Some("b.txt"));
        check("/home/a/share/docs", "../../b.txt", None);
        check("/home/a/share", ".", Some(""));
        check("/", "/srv/web/x/y", Some("web/1/x/y"));
        check("/srv/web", ".", Some("web/1"));
        check("/srv/website", "x", None);
    }
}
