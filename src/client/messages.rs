//! The routes of messages, of hosts and of the hub itself, one method for each.

use ureq::http::Method;
use uuid::Uuid;

use super::{Body, Call, HubClient, HubResult, MAX_ANSWER_BYTES};
use crate::wire::{self, ClientRun, Cursor, HostInfo, PostAnswer, PostResult, PullAnswer};

/// The result of a pull.
pub enum PullResult {
    Page(PullAnswer),
    /// The hub has another epoch than the cursor (it was restored, or is a new one): pull again
    /// without a cursor.
    OtherEpoch,
}

impl HubClient {
    /// `POST /api/messages`: the results, in the order of the messages. Each message is a JSON
    /// object with its id beside it. A result counts only if it names its message.
    pub fn post(
        &self,
        messages: &[String],
        ids: impl ExactSizeIterator<Item = Uuid>,
    ) -> HubResult<Vec<PostResult>> {
        let mut body =
            String::with_capacity(messages.iter().map(|m| m.len() + 1).sum::<usize>() + 2);
        body.push('[');
        body.push_str(&messages.join(","));
        body.push(']');
        let answer: PostAnswer = self.json(&Call {
            method: Method::POST,
            body: Body::Json(body.into_bytes()),
            ..Call::get("/api/messages")
        })?;
        let results = answer.results;
        // a refused message may be too damaged for the hub to read its id
        let names = |(result, id): (&PostResult, Uuid)| {
            result
                .id
                .map_or(result.status == wire::Status::Rejected, |named| named == id)
        };
        if results.len() != messages.len() || !results.iter().zip(ids).all(names) {
            return Err(self
                .not_a_hub(&format!(
                    "{} results that do not name {} messages",
                    results.len(),
                    messages.len()
                ))
                .into());
        }
        Ok(results)
    }

    /// `GET /api/messages`: the messages for `host` after `cursor`, which acknowledges all up to it.
    pub fn pull(
        &self,
        host: &str,
        instance: Uuid,
        run: ClientRun,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> HubResult<PullResult> {
        let mut after = cursor.map_or(String::new(), |Cursor { epoch, seq, .. }| {
            format!("&epoch={epoch}&after={seq}")
        });
        if let Some(Cursor { id, .. }) = cursor.filter(|c| !c.id.is_nil()) {
            after.push_str(&format!("&id={id}"));
        }
        let path =
            format!("/api/messages?host={host}&instance={instance}&run={run}&limit={limit}{after}");
        // the hub limits a page to about one message more than its target size
        let call = Call {
            most: wire::MAX_BATCH_BYTES as u64 * 2,
            headers: self.state().into_iter().collect(),
            ..Call::get(&path)
        };
        match self.json(&call) {
            Ok(page) => Ok(PullResult::Page(page)),
            Err(f) if f.status == 409 && cursor.is_some() && f.error.what.contains("epoch") => {
                Ok(PullResult::OtherEpoch)
            }
            Err(f) => Err(f),
        }
    }

    /// `GET /api/hosts/{host}`, which tells the state of this machine to a hub.
    pub fn tell_state(&self) -> HubResult<()> {
        if !self.may_be_ours() {
            return Ok(());
        }
        let path = format!("/api/hosts/{}", self.host);
        let call = Call {
            headers: self.state().into_iter().collect(),
            ..Call::get(&path)
        };
        self.json::<HostInfo>(&call).map(|_| ())
    }

    /// `GET /api/hosts`: all hosts for an administrator, otherwise only the caller's own.
    pub fn hosts(&self) -> HubResult<Vec<HostInfo>> {
        self.json(&Call {
            most: 64 * MAX_ANSWER_BYTES,
            ..Call::get("/api/hosts")
        })
    }

    /// `DELETE /api/hosts/{host}`: removes it with its queue.
    pub fn remove_host(&self, host: &str) -> HubResult<()> {
        let path = format!("/api/hosts/{host}");
        let _: serde_json::Value = self.json(&Call {
            method: Method::DELETE,
            ..Call::get(&path)
        })?;
        Ok(())
    }

    /// `POST /api/hosts/{host}/rebind`: gives the queue of `host` to `instance`, or to the next
    /// instance that asks.
    pub fn rebind(&self, host: &str, instance: Option<Uuid>) -> HubResult<HostInfo> {
        let body = serde_json::json!({ "instance": instance })
            .to_string()
            .into_bytes();
        let path = format!("/api/hosts/{host}/rebind");
        self.json(&Call {
            method: Method::POST,
            body: Body::Json(body),
            ..Call::get(&path)
        })
    }
}
