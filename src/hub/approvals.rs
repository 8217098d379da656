//! Deletes that a person has approved for every machine, in `approvals`: a line for each, with its time and a hash of name and
//! revision.
//!
//! The hub tells a machine which of the deletes that it holds are among them; the machine carries them out. A backup does not
//! contain the file: a hub that was set back uses revisions again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::bucket::shared_files::DataFileEdit;
use super::http::{Reply, Request};
use super::rights::Right;
use super::routes::Route;
use crate::config::limits::{APPROVAL_DAYS, MAX_APPROVALS};
use crate::error::{Error, Kind, Result, plain};
use crate::wire::approvals::{FileDelete, FileDeletes};
use crate::wire::files::Name;
use crate::{clock, disk};

const FILE: &str = "approvals";
/// Bytes of a line: ten digits of seconds at least, a space, 32 of the hash, a line end.
const MAX_LINE_BYTES: usize = 64;

/// A hash of name and revision.
type DeleteHash = [u8; 16];

/// The approvals of the last [`APPROVAL_DAYS`].
pub struct Approvals {
    path: PathBuf,
    /// With the time of each, in seconds since 1970.
    known: Mutex<BTreeMap<DeleteHash, u64>>,
}

impl Approvals {
    /// Reads them. A line that is none is left out: its deletes stay held.
    pub fn open(data_dir: &std::path::Path) -> Result<Approvals> {
        let path = data_dir.join(FILE);
        let known = Mutex::new(Approvals::read(&path)?);
        Ok(Approvals { path, known })
    }

    /// Reads them again, because another hub may have added some.
    pub fn reload(&self) -> Result<()> {
        *self.known() = Approvals::read(&self.path)?;
        Ok(())
    }

    fn read(path: &std::path::Path) -> Result<BTreeMap<DeleteHash, u64>> {
        let text = match disk::read_at_most(path, MAX_APPROVALS * MAX_LINE_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => {
                let what = format!("cannot read {}: {}", path.display(), plain(&e));
                return Err(Error::new(Kind::Settings, what)
                    .hint("remove it: deletes that were approved are held again"));
            }
        };
        Ok(String::from_utf8_lossy(&text)
            .lines()
            .filter_map(parse)
            .collect())
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<DeleteHash, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn handle(&self, route: Route, request: &Request) -> Reply {
        let Ok(FileDeletes { deletes }) = serde_json::from_slice(&request.body) else {
            return Reply::error(400, "this is not the JSON of a list of deletes");
        };
        let answer = match route {
            Route::ApproveDeletes => self.approve(deletes, request),
            _ => Ok(self.approved(deletes, request)),
        };
        answer.map_or_else(
            |refusal| refusal,
            |deletes| Reply::json(200, &FileDeletes { deletes }),
        )
    }

    /// `POST /api/files/approvals`: all of them, or none.
    fn approve(
        &self,
        deletes: Vec<FileDelete>,
        request: &Request,
    ) -> std::result::Result<Vec<FileDelete>, Reply> {
        request.caller.check(Right::WriteFiles)?;
        for delete in &deletes {
            let name = Name::parse(&delete.name).map_err(|why| Reply::error(400, why))?;
            if let Some((rights, holder)) = request.caller.limits() {
                rights
                    .check_name(&name, holder)
                    .map_err(|why| Reply::error(403, why))?;
            }
        }
        let now = clock::millis(clock::now()) / 1000;
        self.add(&deletes, now).map_err(|e| match e.kind {
            Kind::Busy => Reply::error(507, e.to_string()),
            _ => Reply::failed(&e),
        })?;
        log::info!("deletes approved for all machines count={}", deletes.len());
        Ok(deletes)
    }

    fn add(&self, deletes: &[FileDelete], now: u64) -> Result<()> {
        let file = DataFileEdit::begin(disk::parent(&self.path), FILE)?;
        let mut known = self.known();
        if file.is_shared() {
            *known = Approvals::read(&self.path)?;
        }
        let mut next = known.clone();
        next.retain(|_, at| is_valid(*at, now));
        next.extend(deletes.iter().map(|delete| (hash(delete), now)));
        if next.len() > MAX_APPROVALS {
            let what = format!("cannot approve: the hub keeps {MAX_APPROVALS} approvals");
            return Err(Error::new(Kind::Busy, what)
                .hint("approve the rest with \"mesync approve DIR\" on each machine"));
        }
        let mut text = String::with_capacity(next.len() * 44);
        for (hash, at) in &next {
            let hash = u128::from_be_bytes(*hash);
            text += &format!("{at} {hash:032x}\n");
        }
        file.write(text.as_bytes())?;
        *known = next;
        Ok(())
    }

    /// `POST /api/files/approved`: those that are approved.
    fn approved(&self, mut deletes: Vec<FileDelete>, request: &Request) -> Vec<FileDelete> {
        let now = clock::millis(clock::now()) / 1000;
        let known = self.known();
        let rights = request.caller.limited_reader();
        deletes.retain(|delete| {
            let is_seen = rights.is_none_or(|rights| {
                Name::parse(&delete.name).is_ok_and(|name| rights.reads(&name.path))
            });
            is_seen
                && known
                    .get(&hash(delete))
                    .is_some_and(|at| is_valid(*at, now))
        });
        deletes
    }
}

fn is_valid(at: u64, now: u64) -> bool {
    let days = Duration::from_secs(APPROVAL_DAYS * 86_400);
    now < at.saturating_add(days.as_secs())
}

fn hash(delete: &FileDelete) -> DeleteHash {
    let hash = Sha256::new()
        .chain_update(delete.rev.to_be_bytes())
        .chain_update(delete.name.as_bytes())
        .finalize();
    let mut short = DeleteHash::default();
    short.copy_from_slice(&hash[..16]);
    short
}

fn parse(line: &str) -> Option<(DeleteHash, u64)> {
    let (at, hash) = line.split_once(' ')?;
    let hash = (hash.len() == 32).then(|| u128::from_str_radix(hash, 16).ok())??;
    Some((hash.to_be_bytes(), at.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn delete(name: &str, rev: u64) -> FileDelete {
        FileDelete {
            name: name.into(),
            rev,
        }
    }

    #[test]
    fn an_approval_is_of_one_name_at_one_revision_for_a_month() {
        let dir = tempfile::tempdir().unwrap();
        let approvals = Approvals::open(dir.path()).unwrap();
        approvals.add(&[delete("a/b", 7)], 1000).unwrap();
        approvals.add(&[delete("c", 8)], 1000 + 29 * DAY).unwrap();
        // as another process, which finds a torn line
        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap() + "12 ab";
        std::fs::write(&path, text).unwrap();
        let approvals = Approvals::open(dir.path()).unwrap();
        let check = |name: &str, rev, now, wants: bool| {
            let at = approvals.known().get(&hash(&delete(name, rev))).copied();
            assert_eq!(
                at.is_some_and(|at| is_valid(at, now)),
                wants,
                "{name} {rev}"
            );
        };
        check("a/b", 7, 1000 + 30 * DAY - 1, true);
        check("a/b", 7, 1000 + 30 * DAY, false);
        check("a/b", 8, 1000, false);
        check("a", 7, 1000, false);
        check("c", 8, 1000 + 30 * DAY, true);
        // what has expired leaves the file
        approvals.add(&[delete("d", 9)], 1000 + 31 * DAY).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn too_many_approvals_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let approvals = Approvals::open(dir.path()).unwrap();
        approvals.add(&[delete("a", 1)], 1000).unwrap();
        let many: Vec<FileDelete> = (0..MAX_APPROVALS as u64).map(|n| delete("b", n)).collect();
        let e = approvals.add(&many, 1000).unwrap_err();
        assert_eq!(e.kind, Kind::Busy);
        assert_eq!(approvals.known().len(), 1);
        approvals.add(&many[1..], 1000).unwrap();
        assert_eq!(approvals.known().len(), MAX_APPROVALS);
        let read = Approvals::open(dir.path()).unwrap();
        assert_eq!(*read.known(), *approvals.known());
    }
}
