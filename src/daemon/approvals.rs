//! Asks the hub which of the deletes that directories hold a person has approved for all machines (`approve --everywhere`), and
//! hands those to the directories as an approval here.
//!
//! It decides nothing: a directory compares each delete with what it holds, as for an approval by a person on this machine.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::HubClient;
use crate::clock;
use crate::error::Kind;
use crate::files::engine::traits::DeleteToken;
use crate::files::status::{DirectoryStatus, StatusFiles};
use crate::messages::exchange::REFUSED;
use crate::wire::approvals::{FileDelete, lists};

/// How often a directory that holds deletes asks about one list of them.
const ASK_INTERVAL: Duration = Duration::from_secs(10);

pub struct SharedApprovals {
    hub: Arc<HubClient>,
    not_before: Instant,
    /// Counts the questions: a directory with many held deletes asks about another list each time.
    turn: usize,
}

impl SharedApprovals {
    pub fn new(hub: Arc<HubClient>) -> SharedApprovals {
        SharedApprovals {
            hub,
            not_before: clock::monotonic(),
            turn: 0,
        }
    }

    /// Asks about the directories that hold deletes, if it is time to.
    pub fn fetch(&mut self, base_dir: &Path) {
        if clock::monotonic() < self.not_before {
            return;
        }
        self.not_before = clock::monotonic() + ASK_INTERVAL;
        self.turn = self.turn.wrapping_add(1);
        for files in StatusFiles::all(base_dir) {
            let Some(status) = files.read() else { continue };
            if status.held_deletes == 0 || !status.running || files.approval().is_some() {
                continue;
            }
            if let Err(failure) = self.ask(&files, &status) {
                log::debug!("cannot ask for approved deletes: {}", failure.error);
                // an older hub, a server that is not a hub, a wrong key
                if !matches!(failure.error.kind, Kind::Unreachable | Kind::Busy) {
                    self.not_before = clock::monotonic() + REFUSED;
                }
                return;
            }
        }
    }

    fn ask(&self, files: &StatusFiles, status: &DirectoryStatus) -> crate::client::HubResult<()> {
        let held = files.held();
        let deletes: Vec<FileDelete> = held
            .iter()
            .map(|token| status.on_hub(&token.path, token.base))
            .collect();
        let lists = lists(&deletes);
        let Some(list) = lists.get(self.turn % lists.len().max(1)) else {
            return Ok(());
        };
        let mut approved = self.hub.approved_deletes(list)?;
        if approved.is_empty() {
            return Ok(());
        }
        // most likely the others were approved together with these
        for other in lists.iter().filter(|other| *other != list) {
            approved.extend(self.hub.approved_deletes(other)?);
        }
        let approved: std::collections::BTreeSet<FileDelete> = approved.into_iter().collect();
        let tokens: Vec<DeleteToken> = held
            .into_iter()
            .zip(&deletes)
            .filter(|(_, delete)| approved.contains(delete))
            .map(|(token, _)| token)
            .collect();
        log::info!(
            "deletes approved for all machines dir={} count={}",
            status.dir,
            tokens.len()
        );
        Ok(files.ask_approval(&tokens)?)
    }
}
