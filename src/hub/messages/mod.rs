//! The routes for messages and hosts: from a request to an operation of the store, and from its outcome to a reply.
//!
//! It does not wait for the disk: the committer answers. The server has identified the caller.

pub mod batch;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::commit::{Committer, Permit};
use super::continuity::{Continuity, PullIdentity};
use super::fleet::{ConditionFacts, Fleet, ReportedState, judge};
use super::http::{Caller, Job, Reply, Request};
use super::rights::Right;
use super::store::Store;
use super::store::messages::read::{HostView, MessagePage, PullRequest, Pulled};
use super::store::ops::{Op, Outcome};
use crate::clock;
use crate::config::limits;
use crate::wire::{self, ClientRun, HostInfo, IdentityDoubt, Message, PostAnswer};
use batch::MessageBatch;

const JSON: &str = "application/json";

/// Sends the reply to a request, from any thread.
pub type SendReply = Box<dyn FnOnce(Reply) + Send>;

/// The routes and their state.
#[derive(Clone)]
pub struct Messages {
    store: Arc<Store>,
    committer: Arc<Committer>,
    continuity: Arc<Continuity>,
    silent: SilentHosts,
    fleet: Arc<Fleet>,
}

/// Returns the hosts that receive no messages.
pub type SilentHosts = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

impl Messages {
    pub fn new(
        store: Arc<Store>,
        committer: Arc<Committer>,
        silent: SilentHosts,
        data_dir: &Path,
    ) -> Messages {
        let fleet = Fleet::open(data_dir, committer.now());
        Messages {
            store,
            committer,
            continuity: Arc::default(),
            silent,
            fleet: Arc::new(fleet),
        }
    }

    /// A machine with a new key has the queue of this name from its first call on: the one before it has no key any more.
    pub fn admit(&self, host: &str) {
        self.continuity.forget(host);
        let (host, instance) = (host.to_string(), None);
        self.committer
            .submit(Op::Rebind { host, instance }, None, Box::new(drop));
    }

    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// Answers the request, at once or when it is on the disk; returns it if its path is not about messages or hosts.
    pub fn handle(&self, request: Request, answer: SendReply) -> Option<(Request, SendReply)> {
        let path = request.path.clone();
        let parts: Vec<&str> = path
            .strip_prefix("/api/")
            .unwrap_or("")
            .split('/')
            .collect();
        if request.caller == Caller::Nobody && ["messages", "hosts"].contains(&parts[0]) {
            answer(Reply::error(401, "a key is required"));
            return None;
        }
        match (request.method.as_str(), parts.as_slice()) {
            ("POST", ["messages"]) => self.post(request, answer),
            ("GET", ["messages"]) => self.pull(&request, answer),
            ("GET", ["hosts"]) => answer(self.list(&request.caller)),
            ("GET", ["hosts", host]) => answer(self.show(&request.caller, host)),
            ("PUT" | "DELETE", ["hosts", host]) => self.change(&request, host, answer),
            ("POST", ["hosts", host, "rebind"]) => self.rebind(&request, host, answer),
            (method, ["messages"] | ["hosts"] | ["hosts", _] | ["hosts", _, "rebind"]) => {
                answer(Reply::error(
                    405,
                    format!("{path} does not support the method {}", wire::brief(method)),
                ));
            }
            _ => return Some((request, answer)),
        }
        None
    }

    fn post(&self, request: Request, answer: SendReply) {
        let length = usize::try_from(request.length)
            .map_or(usize::MAX, |length| length.max(request.body.len()));
        if length > wire::MAX_BATCH_BYTES {
            let words = format!(
                "the request has {length} bytes; {} are the most: send the messages in several",
                wire::MAX_BATCH_BYTES
            );
            return answer(Reply::error(413, words));
        }
        let Some(permit) = self.committer.room(length) else {
            return answer(Reply::busy());
        };
        if request.body.len() == length {
            return self.take(&request.body, &request.caller, permit, answer);
        }
        // the thread of the connection reads the rest, and may wait for the disk
        let this = self.clone();
        let read = move |body: &mut dyn Read| {
            let mut bytes = Vec::new();
            if bytes.try_reserve_exact(length).is_err() {
                return Reply::busy();
            }
            match body.take(length as u64).read_to_end(&mut bytes) {
                Ok(read) if read == length => {}
                _ => return Reply::error(400, "the body ended before its announced length"),
            }
            let (answer, answered) = crossbeam_channel::bounded(1);
            this.take(
                &bytes,
                &request.caller,
                permit,
                Box::new(move |reply| drop(answer.send(reply))),
            );
            answered.recv().unwrap_or_else(|_| Reply::busy())
        };
        answer(Reply::job(JSON, Job::Upload(Box::new(read))));
    }

    fn take(&self, body: &[u8], caller: &Caller, permit: Permit, answer: SendReply) {
        let silent = (self.silent)();
        let may_send = |message: &Message| check_message(caller, &silent, message);
        let MessageBatch { results, admitted } = match batch::read(body, caller.host(), &may_send) {
            Ok(batch) => batch,
            Err((status, words)) => return answer(Reply::error(status, words)),
        };
        let reply = |results| Reply::json(200, &PostAnswer { results });
        if admitted.is_empty() {
            return answer(reply(MessageBatch::fill(results, Vec::new())));
        }
        if admitted.iter().any(|message| message.target.is_none()) {
            // in the same transaction or an earlier one
            silent.into_iter().for_each(|host| {
                self.committer
                    .submit(Op::Mute { host }, None, Box::new(drop));
            });
        }
        let committed = move |outcome| match outcome {
            Outcome::Posted {
                results: decided, ..
            } => answer(reply(MessageBatch::fill(results, decided))),
            other => answer(refusal(other, "")),
        };
        self.committer
            .submit(Op::Post(admitted), Some(permit), Box::new(committed));
    }

    fn pull(&self, request: &Request, answer: SendReply) {
        let run = request.parsed(
            "run",
            "a number and 16 hexadecimal digits",
            ClientRun::parse,
        );
        let (ask, run) = match (self.ask(request), run) {
            (Ok(ask), Ok(run)) => (ask, run),
            (Err(reply), _) | (_, Err(reply)) => return answer(reply),
        };
        let epoch = self.store.epoch();
        let sign = PullIdentity {
            instance: ask.instance,
            run,
            after: ask.after,
        };
        let ask = PullRequest {
            again: self.continuity.is_doubted(&ask.host, &sign, ask.now),
            ..ask
        };
        let pulled = self.store.pull(&ask);
        let doubt = match &pulled {
            Ok(Pulled::Now(_) | Pulled::Once(..)) => {
                self.continuity.note(&ask.host, &sign, ask.now)
            }
            _ => None,
        };
        let (op, page) = match pulled {
            Ok(Pulled::Now(page)) => return answer(page_reply(epoch, &page, doubt)),
            Ok(Pulled::Once(op, page)) => (op, page),
            Ok(Pulled::OtherEpoch) => {
                return answer(other_epoch(epoch, "the hub was restored or recreated"));
            }
            Ok(Pulled::OtherHistory) => {
                return answer(other_epoch(
                    epoch,
                    "the hub used that number for no message, or for another one",
                ));
            }
            Ok(Pulled::OtherInstance) => return answer(refusal(Outcome::OtherInstance, &ask.host)),
            Err(e) => return answer(Reply::failed(&e)),
        };
        let reply = page_reply(epoch, &page, doubt);
        let committed = move |outcome| match outcome {
            Outcome::Pulled => answer(reply),
            other => answer(refusal(other, &ask.host)),
        };
        self.committer.submit(op, None, Box::new(committed));
    }

    fn ask(&self, request: &Request) -> Result<PullRequest, Reply> {
        let host = match request.parameter("host") {
            Some(host) => request.caller.act_for(&host)?,
            None => {
                return Err(Reply::error(
                    400,
                    "the parameter \"host\" is missing: name the host whose messages to return",
                ));
            }
        };
        let ask = PullRequest {
            host,
            instance: request.parsed("instance", "a UUID", |v| Uuid::try_parse(v).ok())?,
            epoch: request.parsed("epoch", "a UUID", |v| Uuid::try_parse(v).ok())?,
            after: request.number("after")?,
            id: request.parsed("id", "a UUID", |v| Uuid::try_parse(v).ok())?,
            limit: request.number("limit")?.map_or(limits::PULL_SIZE, |n| {
                n.clamp(1, limits::PULL_SIZE as u64) as usize
            }),
            now: self.committer.now(),
            again: false,
        };
        if ask.after.is_some() && ask.epoch.is_none() {
            Err(Reply::error(
                400,
                "the parameter \"epoch\" is missing: \"after\" means nothing without it",
            ))
        } else {
            Ok(ask)
        }
    }

    fn list(&self, caller: &Caller) -> Reply {
        match self.infos(caller.sees_host()) {
            Ok(hosts) => Reply::json(200, &hosts),
            Err(e) => Reply::failed(&e),
        }
    }

    /// All hosts by name, or one: those that the store has, and those that have ever sent a state.
    pub fn infos(&self, only: Option<&str>) -> crate::error::Result<Vec<HostInfo>> {
        let now = self.committer.now();
        let mut told = self.fleet.all(only);
        let mut awaited = self.fleet.awaited(only, now);
        let stored = self.store.hosts(only, now)?;
        let stored = stored.iter().map(|host| {
            let doubt = self.continuity.told(&host.name, now);
            let oldest = host.oldest.map(|at| now.saturating_sub(at) / 1000);
            let machine = (awaited.remove(&host.name), told.remove(&host.name));
            (info(host, now, doubt), oldest, machine)
        });
        let mut all: Vec<_> = stored.collect();
        all.extend(awaited.into_iter().map(|(name, awaited)| {
            let told = told.remove(&name);
            let info = HostInfo {
                name,
                ..HostInfo::default()
            };
            (info, None, (Some(awaited), told))
        }));
        let judged = |(info, oldest, machine)| judged(info, oldest, machine, now);
        let mut infos: Vec<HostInfo> = all.into_iter().map(judged).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(infos)
    }

    fn show(&self, caller: &Caller, host: &str) -> Reply {
        let seen = if caller.administers() {
            Caller::Admin.act_for(host)
        } else {
            caller.act_for(host)
        };
        let host = match seen {
            Ok(host) => host,
            Err(reply) => return reply,
        };
        match self.infos(Some(&host)) {
            Ok(infos) => infos.first().map_or_else(
                || refusal(Outcome::NoSuchHost, &host),
                |info| Reply::json(200, info),
            ),
            Err(e) => Reply::failed(&e),
        }
    }

    fn change(&self, request: &Request, host: &str, answer: SendReply) {
        let host = match administered(&request.caller, host) {
            Ok(host) => host,
            Err(reply) => return answer(reply),
        };
        let (this, name) = (self.clone(), host.clone());
        let deleted = || Reply::json(200, &json!({"deleted": true}));
        match request.method.as_str() {
            "PUT" => self.administer(Op::PutHost { host }, name, answer, move |name| {
                this.show(&Caller::Admin, name)
            }),
            _ => {
                self.continuity.forget(&host);
                // the store has no host that never asked for messages
                let told = self.fleet.forget(&host, self.committer.now());
                let committed = move |outcome| match outcome {
                    Outcome::Done => answer(deleted()),
                    Outcome::NoSuchHost if told => answer(deleted()),
                    other => answer(refusal(other, &name)),
                };
                self.committer
                    .submit(Op::DeleteHost { host }, None, Box::new(committed));
            }
        }
    }

    fn rebind(&self, request: &Request, host: &str, answer: SendReply) {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct RebindRequest {
            instance: Option<Uuid>,
        }
        let (host, instance) = match (
            administered(&request.caller, host),
            serde_json::from_slice::<RebindRequest>(&request.body),
        ) {
            (Err(reply), _) => return answer(reply),
            (_, Err(_)) => {
                return answer(Reply::error(
                    400,
                    "the body must be {\"instance\": UUID or null}",
                ));
            }
            (Ok(host), Ok(body)) => (host, body.instance),
        };
        self.continuity.forget(&host);
        let (this, name) = (self.clone(), host.clone());
        self.administer(Op::Rebind { host, instance }, name, answer, move |name| {
            this.show(&Caller::Admin, name)
        });
    }

    fn administer(
        &self,
        op: Op,
        host: String,
        answer: SendReply,
        done: impl FnOnce(&str) -> Reply + Send + 'static,
    ) {
        let committed = move |outcome| match outcome {
            Outcome::Done => answer(done(&host)),
            other => answer(refusal(other, &host)),
        };
        self.committer.submit(op, None, Box::new(committed));
    }
}

fn administered(caller: &Caller, host: &str) -> Result<String, Reply> {
    caller
        .check(Right::Admin)
        .and_then(|()| wire::check_host(host).map_err(|why| Reply::error(400, why)))
}

/// Checks that the caller may send this message, and that its target receives messages.
fn check_message(caller: &Caller, silent: &[String], message: &Message) -> Result<(), String> {
    if let Some((rights, holder)) = caller.limits() {
        rights.check_message(message, holder)?;
    }
    match message.target.as_ref().filter(|host| silent.contains(host)) {
        Some(host) => Err(format!("the key of \"{host}\" does not receive messages")),
        None => Ok(()),
    }
}

/// Built from the stored text, so that payloads are not changed.
fn page_reply(epoch: Uuid, page: &MessagePage, doubt: Option<IdentityDoubt>) -> Reply {
    let length: usize = page.messages.iter().map(|(_, json)| json.len() + 40).sum();
    let mut body = String::with_capacity(length + 100);
    body.push_str(&format!("{{\"epoch\":\"{epoch}\",\"messages\":["));
    for (i, (seq, json)) in page.messages.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        body.push_str(&format!("{comma}{{\"seq\":{seq},\"message\":"));
        body.push_str(json);
        body.push('}');
    }
    let doubt = doubt
        .and_then(|doubt| serde_json::to_string(&doubt).ok())
        .map_or(String::new(), |doubt| format!(",\"doubt\":{doubt}"));
    body.push_str(&format!("],\"more\":{}{doubt}}}", page.more));
    Reply::text(200, JSON, body)
}

/// A row as it is listed. Times are computed from ages and the current wall clock, which may have been wrong earlier.
fn info(host: &HostView, now: u64, doubt: Option<IdentityDoubt>) -> HostInfo {
    let time = |at: u64| time(at, now);
    HostInfo {
        name: host.name.clone(),
        first_seen: host.row.first_seen.map(time),
        last_seen: host.row.first_seen.map(|_| time(host.row.last_seen)),
        silent: host
            .row
            .first_seen
            .map(|_| now.saturating_sub(host.row.last_seen) / 1000),
        queued: host.queued,
        oldest_queued_at: host.oldest.map(time),
        stale: host.stale,
        doubt,
        ..HostInfo::default()
    }
}

/// With how it is, from its latest state and what the hub knows of it.
fn judged(
    mut info: HostInfo,
    oldest_queued: Option<u64>,
    (awaited, told): (Option<u64>, Option<ReportedState>),
    now: u64,
) -> HostInfo {
    let age = |at: u64| now.saturating_sub(at) / 1000;
    info.state_age = told.as_ref().map(|told| age(told.at));
    if let Some(told) = &told
        && info.silent.is_none_or(|silent| silent > age(told.at))
    {
        info.last_seen = Some(time(told.at, now));
        info.silent = info.state_age;
    }
    let (condition, reason) = judge(&ConditionFacts {
        told: told.as_ref().map(|told| (&told.state, age(told.at))),
        awaited,
        seen: info.silent,
        queued: info.queued,
        oldest_queued,
        doubt: info.doubt,
    });
    HostInfo {
        condition,
        reason,
        state: told.map(|told| told.state),
        ..info
    }
}

/// A hub time as so long before now by the wall clock.
fn time(at: u64, now: u64) -> String {
    let wall = clock::millis(clock::now());
    clock::rfc3339(clock::from_millis(
        wall.saturating_sub(now.saturating_sub(at)),
    ))
}

fn other_epoch(epoch: Uuid, why: &str) -> Reply {
    let words = format!(
        "\"after\" belongs to another epoch ({why}); this one is {epoch}: pull without \"after\""
    );
    Reply::json(409, &json!({"error": words, "epoch": epoch}))
}

/// The response to an operation that failed.
fn refusal(outcome: Outcome, host: &str) -> Reply {
    match outcome {
        Outcome::NoSuchHost => Reply::error(404, format!("no host is called \"{host}\"")),
        Outcome::OtherInstance => {
            let what = format!("another machine acts under the name \"{host}\"");
            let give = "give this one a name of its own (MESYNC_HOST_ID)";
            Reply::error(
                409,
                format!(
                    "{what}: {give}, or let it take that one's place: mesync hosts rebind {host}"
                ),
            )
        }
        Outcome::TooManyHosts => Reply::error(
            507,
            "the hub knows as many hosts as max_hosts allows: remove some (mesync hosts remove HOST)",
        ),
        Outcome::DiskFull => Reply::disk_full(),
        Outcome::Failed(e) => Reply::failed(&e),
        _ => Reply::busy(),
    }
}

#[cfg(test)]
mod tests;
