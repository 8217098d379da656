//! The directories of a command, from `-w` and the settings; refuses those that must not be synced.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::parse::Invocation;
use crate::config::Settings;
use crate::config::environment;
use crate::config::watch::{SyncMode, WatchSettings, remotes_overlap};
use crate::daemon::directories;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::files::overlap::{self, Mounts};
use crate::files::overview::real;
use crate::files::status::StatusFiles;

/// The directory on the command line, as the argument DIR or with `-w`.
fn named(invocation: &Invocation) -> Result<Option<&OsStr>> {
    let takes_one = invocation.row.arguments.iter().any(|a| a.name == "DIR");
    let argument = invocation.arguments.first().filter(|_| takes_one);
    match (argument, invocation.os_value("watch")) {
        (Some(_), Some(_)) => Err(invocation.usage("DIR and -w exclude each other")),
        (argument, flag) => Ok(argument.map(|dir| dir.as_os_str()).or(flag)),
    }
}

/// The directories of a command: that of `-w` with its settings and flags, else all directories of the settings.
pub fn watches(settings: &Settings, invocation: &Invocation) -> Result<Vec<WatchSettings>> {
    let Some(dir) = named(invocation)? else {
        let only = ["remote", "send-only", "receive-only", "debounce"]
            .into_iter()
            .find(|flag| invocation.has(flag));
        if let Some(flag) = only {
            return Err(invocation.usage(format!("--{flag} is about one directory: name it")));
        }
        let all: Vec<WatchSettings> = settings
            .watches
            .iter()
            .map(|watch| checked(settings, watch.clone()))
            .collect::<Result<_>>()?;
        let pairs = all
            .iter()
            .enumerate()
            .flat_map(|(n, one)| all[..n].iter().map(move |other| (one, other)));
        apart(pairs)?;
        return Ok(all);
    };
    let path =
        std::path::absolute(dir).map_err(|e| Error::io(format!("find {}", disk::show(dir)), &e))?;
    if let Err(e) = std::fs::read_dir(&path) {
        let what = format!(
            "cannot open the directory {}: {}",
            disk::show(dir),
            crate::error::plain(&e)
        );
        return Err(Error::new(Kind::Settings, what).hint("a synced directory must exist"));
    }
    let (named, path) = (path.clone(), real(&path));
    let known = settings
        .watches
        .iter()
        .find(|watch| real(&watch.path) == path);
    let is_known = known.is_some();
    let mut watch = known.cloned().unwrap_or_else(|| WatchSettings {
        named,
        ..WatchSettings::new(path)
    });
    let mut set = |flag: &str, key: &str| -> Result<()> {
        let bad = |e| invocation.usage(format!("bad value for --{flag}: {e}"));
        invocation
            .value(flag)?
            .map_or(Ok(()), |value| watch.set(key, value).map_err(bad))
    };
    if invocation.row.flags.iter().any(|f| f.long == "remote") {
        set("remote", "remote")?;
    }
    if invocation.row.flags.iter().any(|f| f.long == "debounce") {
        set("debounce", "debounce_ms")?;
    }
    match (invocation.has("send-only"), invocation.has("receive-only")) {
        (true, true) => {
            return Err(invocation.usage("--send-only and --receive-only exclude each other"));
        }
        (true, false) => watch.mode = SyncMode::SendOnly,
        (false, true) => watch.mode = SyncMode::ReceiveOnly,
        (false, false) => {}
    }
    let watch = checked(settings, watch)?;
    let others: Vec<PathBuf> = settings
        .watches
        .iter()
        .map(|other| real(&other.path))
        .filter(|other| *other != watch.path)
        .collect();
    let mounts = Mounts::read();
    if let Some(other) = others
        .iter()
        .find(|other| mounts.overlap(other, &watch.path))
    {
        return Err(overlapping(&watch.path, other));
    }
    mounts.check_above(&watch.path)?;
    let was_synced = StatusFiles::all(&settings.base_dir)
        .iter()
        .filter_map(StatusFiles::read)
        .any(|s| Path::new(&s.dir) == watch.path);
    if !is_known && !was_synced {
        ask_for_a_word(settings, invocation, &watch.path)?;
        overlap::check_below(&watch.path)?;
    }
    Ok(vec![watch])
}

/// A directory with more content than the user may expect needs `--yes`, once.
fn ask_for_a_word(settings: &Settings, invocation: &Invocation, dir: &Path) -> Result<()> {
    let home = environment::home();
    match overlap::too_wide(dir, home.as_deref(), &directories::private(settings)) {
        Some(why) if !invocation.has("yes") && !invocation.has("dry-run") => {
            let what = format!("will not sync {}: {why}", dir.display());
            Err(Error::new(Kind::Settings, what)
                .hint("--yes syncs it nevertheless; --dry-run shows the files first"))
        }
        _ => Ok(()),
    }
}

fn overlapping(one: &Path, other: &Path) -> Error {
    let what = format!(
        "{} and {} overlap, here or on the hub",
        one.display(),
        other.display()
    );
    Error::new(Kind::Settings, what).hint("give each a directory of its own on the hub: remote")
}

/// Refuses directories of one process that overlap, here or on the hub, also through links.
fn apart<'a>(
    mut pairs: impl Iterator<Item = (&'a WatchSettings, &'a WatchSettings)>,
) -> Result<()> {
    let mounts = Mounts::read();
    let found = pairs
        .find(|(one, other)| mounts.overlap(&one.path, &other.path) || remotes_overlap(one, other));
    found.map_or(Ok(()), |(one, other)| {
        Err(overlapping(&one.path, &other.path))
    })
}

/// Resolves the real path; refuses mesync's own directories.
fn checked(settings: &Settings, watch: WatchSettings) -> Result<WatchSettings> {
    let path = real(&watch.path);
    for own in [&settings.base_dir, &settings.hub.data_dir] {
        if path.starts_with(real(own)) {
            let what = format!("will not sync {}: it is mesync's own", path.display());
            return Err(Error::new(Kind::Settings, what)
                .hint("choose another directory, or another MESYNC_BASE_DIR"));
        }
    }
    Ok(WatchSettings { path, ..watch })
}

/// The directories that exist of those in the settings, and of those that this machine has synced.
pub fn synced_directories(settings: &Settings) -> Vec<PathBuf> {
    let known = StatusFiles::all(&settings.base_dir)
        .into_iter()
        .filter_map(|files| files.read())
        .map(|status| PathBuf::from(status.dir));
    let configured = settings.watches.iter().map(|watch| real(&watch.path));
    let mut all: Vec<PathBuf> = configured.chain(known).collect();
    all.sort();
    all.dedup();
    all.retain(|dir| dir.is_dir());
    all
}

/// The settings with the directory of `-w` added.
pub fn with_watches(settings: &Settings, invocation: &Invocation) -> Result<Settings> {
    let asked = watches(settings, invocation)?;
    let mut all = Vec::new();
    for watch in &settings.watches {
        let watch = checked(settings, watch.clone())?;
        if asked.iter().all(|a| a.path != watch.path) {
            all.push(watch);
        }
    }
    apart(
        asked
            .iter()
            .flat_map(|one| all.iter().map(move |other| (one, other))),
    )?;
    all.extend(asked);
    Ok(Settings {
        watches: all,
        ..settings.clone()
    })
}
