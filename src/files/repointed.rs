//! Detects that the link that names a synced directory leads to another directory now. The
//! directory is held until a user confirms, because this is neither a delete of all files nor a
//! reason to mix two trees.
//!
//! States belong to real paths, so the other directory has none. The state of the first directory,
//! found by its name, tells the two apart.

use std::path::Path;

use super::state::DiskState;
use super::status::StatusFiles;
use super::tree::{marker, root::Root};
use crate::config::watch::WatchSettings;
use crate::error::Result;

/// Why a directory is held; `None`: its name has not led to another one before, or the other one
/// was this directory under an old path.
pub fn check(base_dir: &Path, settings: &WatchSettings) -> Result<Option<String>> {
    for files in before(base_dir, settings) {
        let was = files.read().map(|known| known.dir).unwrap_or_default();
        let id = DiskState::copy_of(files.state())?.marker().ok().flatten();
        if id.is_some() && marker::read(&Root::open(&settings.path)?).ok().flatten() == id {
            continue;
        }
        return Ok(Some(format!(
            "{} led to {was} when it was synced, and leads to this directory now",
            settings.named.display()
        )));
    }
    Ok(None)
}

/// Records that the name belongs to this directory from now on.
pub fn adopt(base_dir: &Path, settings: &WatchSettings) {
    before(base_dir, settings)
        .iter()
        .for_each(StatusFiles::forget);
}

/// The states of other directories that had this name.
fn before(base_dir: &Path, settings: &WatchSettings) -> Vec<StatusFiles> {
    let (named, dir) = (
        settings.named.to_string_lossy(),
        settings.path.to_string_lossy(),
    );
    let same = |files: &StatusFiles| {
        let known = files
            .read()
            .filter(|known| known.dir != dir && known.remote == settings.remote);
        known.is_some_and(|known| known.named.unwrap_or(known.dir) == named)
            && files.state().exists()
    };
    StatusFiles::all(base_dir)
        .into_iter()
        .filter(same)
        .collect()
}
