//! `POST /api/hub/backup`: backs up everything while the hub runs. The store decides how to copy.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Files, later};
use crate::error::Kind;
use crate::hub::http::{Reply, Request};
use crate::hub::messages::SendReply;
use crate::hub::rights::Right;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupRequest {
    dir: PathBuf,
}

impl Files {
    /// Only for an administrator on this machine; the router has checked the origin, because it knows all headers.
    pub(super) fn backup(&self, request: &Request, answer: SendReply) {
        if let Err(reply) = request.caller.check(Right::Admin) {
            return answer(reply);
        }
        let dir = match serde_json::from_slice::<BackupRequest>(&request.body) {
            Ok(BackupRequest { dir }) if dir.is_absolute() => dir,
            _ => {
                return answer(Reply::error(
                    400,
                    "the body must be {\"dir\": an absolute path}",
                ));
            }
        };
        let Some(lease) = self.backup.take(1) else {
            return answer(Reply::error(409, "another backup is being made"));
        };
        let this = self.clone();
        answer(later(move |_, answer| {
            let reply = match this.store.backup(&dir) {
                Ok(backup) => Reply::json(200, &backup),
                Err(e) => Reply::error(status(e.kind), e.to_string()),
            };
            drop(lease);
            answer(reply);
        }));
    }
}

fn status(kind: Kind) -> u16 {
    match kind {
        // the directory is unsuitable: a repetition would fail too
        Kind::CannotCreate => 409,
        Kind::Busy => 507,
        _ => 500,
    }
}
