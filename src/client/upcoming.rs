//! The routes of long files that are being sent. A hub of an earlier version answers them with 404 or 405.

use ureq::http::Method;
use uuid::Uuid;

use super::files::{CHUNKS_BYTES, to_json};
use super::{Call, Download, HubClient, HubResult, Purpose};
use crate::wire::files::{Announced, Chunk, Commit};

impl HubClient {
    /// `POST /api/upcoming`: tells others which file is about to be sent.
    pub fn announce(&self, commit: &Commit) -> HubResult<Uuid> {
        let announced: Announced = self.json(&Call {
            method: Method::POST,
            body: to_json(commit),
            ..Call::get("/api/upcoming")
        })?;
        Ok(announced.id)
    }

    /// `GET /api/upcoming/{id}/chunks`
    pub fn upcoming_chunks(&self, id: Uuid) -> HubResult<Vec<Chunk>> {
        self.json(&Call {
            most: CHUNKS_BYTES,
            ..Call::get(&format!("/api/upcoming/{id}/chunks"))
        })
    }

    /// `GET /api/upcoming/{id}/content`: bytes from `at` on that have arrived; `None`: there are none yet.
    pub fn upcoming_content(&self, id: Uuid, at: u64) -> HubResult<Option<Download<'_>>> {
        let call = Call::get(&format!("/api/upcoming/{id}/content?at={at}"));
        let answer = self.authorized(Purpose::Request, &call)?;
        if answer.status().as_u16() == 204 {
            return Ok(None);
        }
        let answer = self.typed(answer, "application/octet-stream", &call.path)?;
        Ok(Some(Download::of(self, answer, at)))
    }
}
