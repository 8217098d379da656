//! A server that is not a mesync hub, such as `s3em`: no revisions, no conditions, no chunks, no feed.
//!
//! The server's version of a path is read immediately before it is changed; another client may write in between, which
//! only a mesync hub can rule out. Rows get local numbers from `listing`. The server has no directories: an empty one
//! stays on its machine, and counts as in sync.

mod content;
mod listing;

use std::sync::{Arc, Once};

use uuid::Uuid;

use crate::client::{self, HubClient, ListingQuery};
use crate::error::{Error, Kind};
use crate::files::engine::pages::each_below;
use crate::files::engine::traits::*;
use crate::files::plan::RemoteRow;
use crate::files::remote::link::Link;
use crate::files::remote::rows::{self, RemoteNames};
use crate::files::remote::traffic::Traffic;
use crate::files::state::DiskState;
use crate::files::tree::DiskTree;
use crate::transfer::find;
use crate::wire::files::{Hash, Name, Record};
use crate::wire::revision::{Revision, Tag};
use listing::Ledger;

/// See the module documentation.
pub struct S3em {
    pub(super) hub: Arc<HubClient>,
    pub(super) state: Arc<DiskState>,
    tree: Arc<DiskTree>,
    pub(super) names: RemoteNames,
    pub(super) link: Arc<Link>,
    traffic: Arc<Traffic>,
    /// Always the same for one server, which has no epoch of its own.
    pub(super) epoch: Uuid,
    pub ledger: Ledger,
}

/// The result of checking the server's version of a name.
enum RemoteVersion {
    /// As expected: all live records of the name, the newest first.
    Met(Vec<Record>),
    Otherwise(Option<(String, RemoteRow)>),
}

impl S3em {
    pub fn new(
        hub: Arc<HubClient>,
        names: RemoteNames,
        state: Arc<DiskState>,
        tree: Arc<DiskTree>,
        link: Arc<Link>,
        traffic: Arc<Traffic>,
    ) -> CallResult<S3em> {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            log::warn!(
                "{} is no mesync hub: files go whole and are found by listing all of them, what two machines change in the same \
                 moment can be overwritten, and empty files, empty directories and symbolic links stay on this machine",
                hub.url()
            );
        });
        let mut seed = [0; 16];
        seed.copy_from_slice(&Hash::of(hub.url().as_bytes()).0[..16]);
        let epoch = uuid::Builder::from_custom_bytes(seed).into_uuid();
        let ledger = Ledger::new(&*state)?;
        Ok(S3em {
            hub,
            state,
            tree,
            names,
            link,
            traffic,
            epoch,
            ledger,
        })
    }

    /// Returns the result of a call, and informs the workers that wait for the server.
    pub(super) fn called<T>(&self, called: client::HubResult<T>) -> CallResult<T> {
        match called {
            Ok(done) => {
                self.link.reached();
                Ok(done)
            }
            Err(failure) => Err(self.link.failed(failure)),
        }
    }

    fn name(&self, path: &str) -> CallResult<Name> {
        self.names.name(path).map_err(|why| {
            Fault::Refused(Error::new(
                Kind::Failed,
                format!("cannot send {path}: {why}"),
            ))
        })
    }

    /// All live records of a path, the newest first.
    fn at(&self, path: &str) -> CallResult<Vec<Record>> {
        let name = self.name(path)?;
        // a server that matches the pattern in its database may misread a backslash
        let longest = name
            .name
            .split('\\')
            .max_by_key(|part| part.len())
            .filter(|part| !part.is_empty());
        let dir = name.path.split('\\').next().filter(|dir| !dir.is_empty());
        let (mut first, mut found) = (None, Vec::new());
        let each = find::each(
            &self.hub,
            &ListingQuery {
                path: dir,
                search: longest,
                all_kinds: false,
            },
            0,
            u64::MAX,
            |record| {
                let again = first == Some(record.id);
                first.get_or_insert(record.id);
                if !again && record.deleted_at.is_none() && record.full_name() == name.full() {
                    found.push(record);
                }
                !again
            },
        );
        self.called(each)?;
        Ok(found)
    }

    /// Checks whether the version that a change depends on is still the current one.
    fn stands(&self, path: &str, condition: ExpectedRow) -> CallResult<RemoteVersion> {
        let records = self.at(path)?;
        let now = records.first().and_then(|record| self.names.row(record));
        let known = self.state.rows(path)?.remote;
        let met = match condition {
            ExpectedRow::Nothing => records.is_empty(),
            ExpectedRow::Rev(at) if is_dir(&known) => known.rev == at.rev && records.is_empty(),
            ExpectedRow::Rev(at) => {
                known.rev == at.rev
                    && now
                        .as_ref()
                        .is_some_and(|(_, now)| now.entry == known.entry)
            }
        };
        if !met {
            // only a listing tells what it is
            self.ledger.want();
        }
        Ok(if met {
            RemoteVersion::Met(records)
        } else {
            RemoteVersion::Otherwise(now)
        })
    }

    fn remove(&self, records: &[Record]) -> CallResult<RemoteRow> {
        for record in records {
            match self.hub.remove(record.id, client::ChangeHeaders::default()) {
                Err(failure) if failure.status == 404 => {}
                other => drop(self.called(other)?),
            }
        }
        Ok(rows::gone(
            self.ledger.next(),
            records.first().map_or(Uuid::nil(), |record| record.id),
        ))
    }

    fn names_of(change: &HubChange) -> Vec<String> {
        std::iter::once(&change.path)
            .chain(change.from.as_ref().map(|from| &from.path))
            .cloned()
            .collect()
    }
}

/// Whether it is a directory that only this machine knows.
pub(super) fn is_dir(row: &RemoteRow) -> bool {
    row.entry.is_some_and(|entry| entry.is_dir())
}

impl S3em {
    /// A change that needs no bytes from this machine.
    pub(super) fn change(&self, change: &HubChange) -> CallResult<ChangeOutcome> {
        let _changing = self.ledger.changing(S3em::names_of(change));
        if let Some(entry) = &change.entry {
            return self
                .special(&change.path, entry)?
                .map_or_else(|| self.copy(change, entry), Ok);
        }
        match self.stands(&change.path, change.condition)? {
            RemoteVersion::Met(records) if records.is_empty() => Ok(ChangeOutcome::Noted(vec![(
                change.path.clone(),
                rows::gone(self.ledger.next(), Uuid::nil()),
            )])),
            RemoteVersion::Met(records) => Ok(ChangeOutcome::Made(vec![(
                change.path.clone(),
                self.remove(&records)?,
            )])),
            RemoteVersion::Otherwise(None) => Ok(ChangeOutcome::NotDone),
            RemoteVersion::Otherwise(row) => Ok(ChangeOutcome::Differs(row)),
        }
    }
}

impl HubCalls for S3em {
    fn changes(
        &self,
        after: u64,
        _newest: Revision,
        _began: Option<u64>,
    ) -> CallResult<ChangesResult> {
        if self.state.feed()?.epoch != self.epoch {
            // the known rows belong to another server, and are forgotten before this one is listed
            let page = RowPage {
                rev: 0,
                epoch: self.epoch,
                more: false,
                began: None,
                last: None,
                tag: Tag::default(),
                rows: Vec::new(),
            };
            return Ok(ChangesResult::Page(page));
        }
        self.compare(after == 0).map(ChangesResult::Page)
    }

    /// Such a server has no history.
    fn common(&self, _epoch: Uuid, _points: &[Revision]) -> CallResult<u64> {
        Ok(0)
    }

    /// Such a server has no memory of keys: only its current files are known.
    fn ask(&self, key: Uuid, _newest: Revision) -> CallResult<KeyRows> {
        let mut names = Vec::new();
        each_below(&*self.state, "", |path, rows| {
            if rows.key.as_ref().is_some_and(|k| k.key == key) {
                names.push(path.to_string());
            }
            Ok(true)
        })?;
        let _changing = self.ledger.changing(names.clone());
        let mut current = Vec::new();
        for path in names {
            let known = self.state.rows(&path)?.remote;
            let row = match self.at(&path)?.first() {
                Some(record) => self.names.row(record).map(|(_, row)| row),
                None if is_dir(&known) => None,
                None => Some(rows::gone(0, known.id)),
            };
            // a row that is unchanged keeps its number
            if let Some(row) = row.filter(|row| (row.entry, row.id) != (known.entry, known.id)) {
                current.push((
                    path,
                    RemoteRow {
                        rev: self.ledger.next(),
                        ..row
                    },
                ));
            }
        }
        Ok(KeyRows {
            made: None,
            current,
        })
    }
}
