//! Passes a checked request to the workers through the pool, and returns the answer with its job.

use std::net::IpAddr;

use super::Shared;
use super::head::Head;
use super::limits::POOL_TIME;
use super::pool::{self, WorkerResponse};
use super::render::busy;
use super::tickets::Tickets;
use crate::hub::http::{Caller, Job, Reply, Request};
use crate::wire;

/// The headers that routes receive. Credentials are not among them: `Request.caller` is what they prove.
const PASSED_ON: &[&str] = &[
    "accept",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "if-range",
    "last-event-id",
    "range",
    wire::files::HOST_HEADER,
    wire::files::HISTORY_HEADER,
    wire::fleet::STATE_HEADER,
];
/// Attempts for one request: while no worker has seen it, it is sent again over another connection.
const MAX_WORKER_ATTEMPTS: usize = 3;

/// Sends a request through the pool. `Err`: the answer for the client when no worker answered.
pub fn ask(
    shared: &Shared,
    mut request: Request,
    body: &[u8],
) -> Result<(WorkerResponse, Option<Job>), Reply> {
    // for HEAD tiny_http would drop the body, and the client must learn its length
    let method = request.method.clone();
    let target = if request.query.is_empty() {
        request.path.clone()
    } else {
        format!("{}?{}", request.path, request.query)
    };
    for _ in 0..MAX_WORKER_ATTEMPTS {
        let Some(line) = shared.pool.take(POOL_TIME) else {
            break;
        };
        let ticket = Tickets::issue(&shared.tickets, request);
        let mut message = pool::head(&method, &target, ticket.number, body.len() as u64);
        message.extend_from_slice(body);
        match line.exchange(&message, ticket.number) {
            Ok(answer) => return Ok((answer, ticket.job())),
            Err(e) => match ticket.withdraw() {
                Some(back) => {
                    log::debug!("connection to the workers broke: {e}");
                    request = back;
                }
                None => {
                    log::warn!(
                        "no answer to {method} {}: {e}",
                        target.split('?').next().unwrap_or_default()
                    );
                    return Err(busy(
                        "the hub did not answer in time: whether the request was carried out is not known",
                    ));
                }
            },
        }
    }
    Err(busy("the hub is busy"))
}

/// The request as routes receive it. HEAD becomes GET.
pub fn request(head: Head, caller: Caller, peer: IpAddr) -> Request {
    // HEAD ignores Range (RFC 9110, 14.2), and is a GET from here on
    let head_only = head.method == "HEAD";
    let method = if head_only {
        "GET".to_string()
    } else {
        head.method
    };
    let mut headers = head.headers;
    headers
        .retain(|(name, _)| PASSED_ON.contains(&name.as_str()) && !(head_only && name == "range"));
    Request {
        method,
        path: head.path,
        query: head.query,
        headers,
        peer,
        caller,
        body: Vec::new(),
        length: head.length,
    }
}
