//! A hub with a new name, port or scheme is the same hub: the state of a directory stays valid.
//!
//! A state is named by address ([`super::state::file`]). A new address has none; then the states of
//! the same directory under other addresses are checked: one may belong to the hub that responds
//! now.

use std::path::Path;

use super::engine::traits::State;
use super::state::DiskState;
use super::status::StatusFiles;
use crate::client::{Failure, HubClient};
use crate::config::watch::WatchSettings;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::wire::revision::Revision;
use crate::wire::scope::Scope;

/// If the directory has a state of this hub under another address, renames it to `file`. Errors:
/// `Busy` if another process keeps the directory in sync under that address, `Unreachable` if the
/// hub cannot be asked.
pub fn take_over(
    base_dir: &Path,
    file: &Path,
    settings: &WatchSettings,
    hub: &HubClient,
) -> Result<()> {
    if file.exists() {
        return Ok(());
    }
    let dir = settings.path.to_string_lossy();
    let same = |files: &StatusFiles| {
        files
            .read()
            .is_some_and(|known| known.dir == dir && known.remote == settings.remote)
    };
    for files in StatusFiles::all(base_dir)
        .into_iter()
        .filter(|files| files.state() != file && files.state().exists() && same(files))
    {
        // nothing is known from a damaged state
        let state = match DiskState::open(files.state()) {
            Err(e) if e.kind == Kind::Damaged => continue,
            other => other?,
        };
        if !is_of(&state, hub)? {
            continue;
        }
        drop(state);
        log::info!(
            "hub has a new address; keeping the state of the directory url={} dir={dir}",
            hub.url()
        );
        disk::rename(files.state(), file)
            .and_then(|()| disk::sync_dir(disk::parent(file)))
            .map_err(|e| {
                Error::io(
                    format!("rename {} to {}", files.state().display(), file.display()),
                    &e,
                )
            })?;
        files.forget();
        return Ok(());
    }
    Ok(())
}

/// Whether a state belongs to the hub that responds; the hub may have been set back since.
fn is_of(state: &DiskState, hub: &HubClient) -> Result<bool> {
    let feed = state.feed()?;
    let points = state.points()?;
    if feed.epoch.is_nil() || !hub.is_ours()? {
        return Ok(false);
    }
    let page = hub.changes(
        feed.cursor.max(1),
        Revision::default(),
        None,
        1,
        &Scope::default(),
    );
    let epoch = match page {
        Ok(page) => page.epoch,
        // tombstones were forgotten since, as after a long time: a listing may begin anywhere
        Err(Failure { status: 410, .. }) => {
            hub.changes(0, Revision::default(), None, 1, &Scope::default())?
                .epoch
        }
        Err(failure) => return Err(failure.error),
    };
    Ok(epoch == feed.epoch || !points.is_empty() && common(hub, feed.epoch, &points)? > 0)
}

fn common(hub: &HubClient, epoch: uuid::Uuid, points: &[Revision]) -> Result<u64> {
    match hub.common(epoch, points) {
        // an older hub
        Err(Failure {
            status: 404 | 405, ..
        }) => Ok(0),
        other => Ok(other?),
    }
}
