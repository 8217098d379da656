//! Empties `.mesync/trash/`: removes files that have been there for a month, the oldest files
//! beyond a tenth of the disk, and abandoned downloads.
//!
//! It touches nothing else. A wrong clock makes it keep files longer, or remove the newest sooner.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::AtFlags;

use super::conflict::TRASH;
use super::engine::traits::{Called, Fault};
use super::state::DiskState;
use super::tree::DiskTree;
use super::tree::partial;
use super::tree::root::{self, What, fault, show};
use crate::clock;
use crate::steady::Reading;

/// The note with the clocks at the last run.
const CLOCK: &str = "clock";
const TRASH_KEPT_TIME: Duration = Duration::from_secs(30 * 86_400);
const PARTIAL_KEPT: Duration = Duration::from_secs(7 * 86_400);
/// The part of the disk that the trash may use: 10 is a tenth.
const PART: u64 = 10;
/// Entries that one run reads, at most; later runs read the others.
const MAX_ENTRIES_READ: usize = 100_000;

/// A candidate: since when it is there (nanoseconds since 1970), its bytes, its name.
type Candidate = (i64, u64, String);

/// See the module documentation. `Fatal` if the directory was replaced.
pub fn expire(tree: &DiskTree, state: &DiskState) -> Called<()> {
    tree.check()?;
    let reading = Reading::after(state.note(CLOCK)?.as_deref());
    state.set_note(CLOCK, &reading.to_text())?;
    let believed = |kept| reading.is_believed(kept).then_some(kept);
    let space = rustix::fs::fstatvfs(tree.root().fd())
        .map_err(|e| fault("ask for the size of", "the disk", &e.into()))?;
    let room = space.f_blocks.saturating_mul(space.f_frsize) / PART;
    let now = i64::try_from(clock::millis(clock::now()))
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000);
    remove(tree, TRASH, |all| {
        due(all, now, believed(TRASH_KEPT_TIME), room)
    })?;
    tree.trashed.forget();
    remove(tree, partial::DIR, |all| {
        due(all, now, believed(PARTIAL_KEPT), u64::MAX)
    })
}

/// Which candidates to remove: those that are too old, then the oldest until the rest fits. `kept`
/// `None`: no age is known.
fn due(mut all: Vec<Candidate>, now: i64, kept: Option<Duration>, room: u64) -> Vec<Candidate> {
    all.sort();
    let kept = kept
        .and_then(|kept| i64::try_from(kept.as_nanos()).ok())
        .unwrap_or(i64::MAX);
    let mut sum: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
    let goes = |(since, bytes, _): &Candidate| {
        // the age of a file from before the clock was set is unknown
        let known =
            clock::is_plausible(clock::from_millis(since.max(&0).unsigned_abs() / 1_000_000));
        let goes = known && now.saturating_sub(*since) > kept || sum > room;
        sum -= if goes { bytes } else { &0 };
        goes
    };
    all.into_iter().filter(goes).collect()
}

fn remove(
    tree: &DiskTree,
    dir: &str,
    choose: impl FnOnce(Vec<Candidate>) -> Vec<Candidate>,
) -> Called<()> {
    let failed = |e: io::Error| fault("empty", dir, &e);
    let open: OwnedFd = match tree.root().through(dir) {
        Err(e) if root::absent(&e) => return Ok(()),
        other => other.map_err(failed)?,
    };
    let mut all = Vec::new();
    let listed = tree.entries(dir, &mut |name, _| {
        if let Ok(name) = name.to_str()
            && let Some(shown) = show(&open, name)?
        {
            // the last rename was the move to the trash
            all.push((
                shown.stamp.ctime,
                if shown.what == What::File {
                    shown.stamp.size
                } else {
                    0
                },
                name.to_string(),
            ));
        }
        Ok(all.len() < MAX_ENTRIES_READ)
    });
    listed.map_err(failed)?;
    for (_, _, name) in choose(all) {
        match rustix::fs::unlinkat(&open, name.as_str(), AtFlags::empty()) {
            // content of a deleted directory is left for the user to check
            Ok(())
            | Err(rustix::io::Errno::NOENT | rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {
            }
            Err(e) => {
                return Err(Fault::Later(crate::error::Error::io(
                    format!("remove {dir}/{name}"),
                    &e.into(),
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_files_are_removed_and_then_the_oldest_until_the_rest_fits() {
        let day = 86_400 * 1_000_000_000;
        let now = 20_454 * day;
        let check_for = |kept: Option<Duration>, all: &[(i64, u64)], room: u64, wants: &[i64]| {
            let all = all
                .iter()
                .map(|(age, bytes)| (now - age * day, *bytes, age.to_string()))
                .collect();
            let got: Vec<i64> = due(all, now, kept, room)
                .iter()
                .map(|(_, _, name)| name.parse().unwrap())
                .collect();
            assert_eq!(got, wants);
        };
        let check =
            |all: &[_], room, wants: &[_]| check_for(Some(TRASH_KEPT_TIME), all, room, wants);
        check(&[(1, 10), (29, 10), (31, 10)], 100, &[31]);
        check(&[(1, 10), (29, 10), (31, 10)], 15, &[31, 29]);
        check(&[(1, 10), (2, 10), (3, 10)], 9, &[3, 2, 1]);
        // from before the clock was set: removed only for want of room
        check(&[(20_000, 10), (31, 10)], 100, &[31]);
        check(&[(20_000, 10), (29, 10)], 15, &[20_000]);
        // the clock was set back
        check(&[(-5, 10), (0, 10)], 100, &[]);
        // the clock was set a moment ago
        check_for(None, &[(29, 10), (400, 10)], 100, &[]);
        check_for(None, &[(29, 10), (400, 10)], 15, &[400]);
    }
}
