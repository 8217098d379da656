//! Approvals of deletes for all machines.

use ureq::http::Method;

use super::body::Body;
use super::{Call, HubClient, HubResult};
use crate::wire::approvals::{self, FileDelete, FileDeletes};

impl HubClient {
    /// `POST /api/files/approvals`: approves these deletes on all machines.
    pub fn approve_deletes(&self, deletes: &[FileDelete]) -> HubResult<()> {
        for list in approvals::lists(deletes) {
            self.send_deletes("/api/files/approvals", list)?;
        }
        Ok(())
    }

    /// `POST /api/files/approved`: those of one list that are approved.
    pub fn approved_deletes(&self, list: &[FileDelete]) -> HubResult<Vec<FileDelete>> {
        self.send_deletes("/api/files/approved", list)
    }

    fn send_deletes(&self, path: &str, list: &[FileDelete]) -> HubResult<Vec<FileDelete>> {
        let deletes = list.to_vec();
        let body = serde_json::to_vec(&FileDeletes { deletes }).unwrap_or_default();
        let answer: FileDeletes = self.json(&Call {
            method: Method::POST,
            body: Body::Json(body),
            ..Call::get(path)
        })?;
        Ok(answer.deletes)
    }
}
