//! Joining a hub, and letting machines and readers of the page in.

use ureq::http;

use super::body::Body;
use super::{Call, HubClient, HubResult, MAX_ANSWER_BYTES, Purpose};
use crate::wire::LoginAnswer;
use crate::wire::join::{Accept, AdmissionAnswer, AdmissionRequest, JoinRequests};

const PATH: &str = "/api/join";

impl HubClient {
    /// `POST /api/join`: asks to join, without a key.
    pub fn ask_to_join(&self, ask: &AdmissionRequest) -> HubResult<AdmissionAnswer> {
        let call = post(PATH, ask);
        let answer = self.exchange(Purpose::Request, &call, self.server_url(), None)?;
        if !answer.status().is_success() {
            return Err(self.refused(answer, PATH));
        }
        self.body(answer, MAX_ANSWER_BYTES, PATH)
    }

    /// `GET /api/join/requests`: the machines that ask to join.
    pub fn join_requests(&self) -> HubResult<JoinRequests> {
        self.json(&Call::get("/api/join/requests"))
    }

    /// `POST /api/hub/page`: a token for the page.
    pub fn page_token(&self) -> HubResult<LoginAnswer> {
        self.json(&post("/api/hub/page", &serde_json::json!({})))
    }

    /// `POST /api/join/accept`
    pub fn accept(&self, accept: &Accept) -> HubResult<JoinRequests> {
        self.json(&post("/api/join/accept", accept))
    }
}

fn post(path: &str, body: &impl serde::Serialize) -> Call<'static> {
    Call {
        method: http::Method::POST,
        body: Body::Json(serde_json::to_vec(body).unwrap_or_default()),
        ..Call::get(path)
    }
}
