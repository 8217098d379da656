//! `POST /api/hub/backup`: a copy of everything, made while the hub goes on. What is copied how is the store's business.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::json;

use super::{Files, later};
use crate::hub::http::{Caller, Reply, Request};
use crate::hub::messages::Answer;
use crate::hub::protected;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    dir: PathBuf,
}

impl Files {
    /// For who administers the hub, and on its machine only: the directory is one of that machine.
    pub(super) fn backup(&self, request: &Request, answer: Answer) {
        if request.caller != Caller::Admin || !protected::is_local(request.peer) {
            return answer(Reply::error(403, "a backup is made on the hub's own machine, with the master key or the hub's own"));
        }
        let dir = match serde_json::from_slice::<Asked>(&request.body) {
            Ok(Asked { dir }) if dir.is_absolute() => dir,
            _ => return answer(Reply::error(400, "the body must be {\"dir\": an absolute path}")),
        };
        let Some(lease) = self.backup.take(1) else {
            return answer(Reply::error(409, "another backup is being made"));
        };
        let this = self.clone();
        answer(later(move |_, answer| {
            let reply = match backup_stub(&this.store, &dir) {
                Ok(()) => Reply::json(200, &json!({"dir": dir})),
                Err(e) => Reply::error(500, e.to_string()),
            };
            drop(lease);
            answer(reply);
        }));
    }
}

fn backup_stub(_: &crate::hub::store::Store, _: &std::path::Path) -> crate::error::Result<()> {
    Err(crate::error::Error::new(crate::error::Kind::Failed, "cannot back up yet"))
}
