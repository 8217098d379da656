//! The gate that every request passes before the workers, and the dispatch to its route; also health and metrics.
//!
//! It decides nothing about keys (`auth` does), messages or files, and starts no thread.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::approvals::Approvals;
use super::auth::{Auth, AuthMode};
use super::certificate::Certificates;
use super::commit::Committer;
use super::event_stream::{self, UntilKeysChange};
use super::files::Files;
use super::http::{Caller, Job, Reply, Request};
use super::joining::Joining;
use super::messages::{Messages, SendReply};
use super::metrics::{MetricsText, RequestCounts};
use super::page;
use super::peers;
use super::process;
use super::protected;
use super::routes::{self, Route};
use super::server::{Admission, Gate, Head, Responder, Server, Wire};
use super::shared_view::SharedView;
use super::store::Store;
use super::subscribers::Subscribers;
use crate::config::PlainHttp;
use crate::disk;
use crate::wire::files::HOST_HEADER;
use crate::wire::fleet::STATE_HEADER;
use crate::wire::{self, Health, join};

/// State that gate and workers share.
pub struct Router {
    /// `None`: a hub of its own.
    pub shared: Option<SharedView>,
    pub auth: Arc<Auth>,
    pub store: Arc<Store>,
    pub committer: Arc<Committer>,
    pub events: Arc<Subscribers>,
    pub messages: Messages,
    pub files: Files,
    /// Bytes of one file at most.
    pub max_upload: Arc<AtomicU64>,
    pub requests: Arc<RequestCounts>,
    pub approvals: Approvals,
    pub data_dir: PathBuf,
    /// `None`: this build has no TLS.
    pub certificates: Option<Arc<Certificates>>,
    pub plain: Mutex<PlainHttp>,
    pub joining: Option<Joining>,
    /// Present while the server runs; only its counters are read.
    pub server: Mutex<Option<Server>>,
}

impl Gate for Router {
    fn admit(&self, head: &Head, peer: IpAddr, wire: Wire) -> Admission {
        let route = routes::find(&head.method, &head.path);
        let caller = match route {
            Ok(Route::Login) => self.auth.visitor(&head.headers, peer),
            _ if routes::is_public(&head.path) => Ok(Caller::Nobody),
            _ => self.auth.caller(&head.headers, peer),
        };
        let caller = caller.and_then(|caller| match wire {
            Wire::Plain => self.may_be_plain(&caller, peer).map(|()| caller),
            Wire::Tls => Ok(caller),
        });
        // a caller without access must not learn which paths exist
        match (caller, route) {
            (Err(reply), _) | (_, Err(reply)) => Admission::Refuse(reply),
            (Ok(_), Ok(Route::Backup)) if !protected::is_from_here(&head.headers, peer) => {
                Admission::Refuse(Reply::error(
                    403,
                    "a backup is made from the hub's own machine only: its directory is one of that machine",
                ))
            }
            // without TLS its answer would prove nothing
            (Ok(_), Ok(Route::Join)) if wire == Wire::Plain => Admission::Refuse(Reply::error(
                403,
                "a machine joins through TLS on this port only: update mesync there, or call the port itself, not a proxy",
            )),
            (Ok(caller), Ok(route)) => match caller.check(route.needs()) {
                Err(reply) => Admission::Refuse(reply),
                Ok(()) => Admission::Admit {
                    caller,
                    body_limit: route.body_limit(self.max_upload.load(Relaxed)),
                    streamed: route.streams(),
                },
            },
        }
    }
}

impl Router {
    pub fn set_plain(&self, plain: PlainHttp) {
        *self.plain.lock().unwrap_or_else(PoisonError::into_inner) = plain;
    }

    /// Checks that this caller may use plain HTTP; the error is an answer with a hint.
    fn may_be_plain(&self, caller: &Caller, peer: IpAddr) -> Result<(), Reply> {
        let plain = *self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        let known = matches!(caller, Caller::Admin | Caller::Nobody);
        match plain {
            PlainHttp::All => Ok(()),
            PlainHttp::Local if protected::is_local(peer) => Ok(()),
            PlainHttp::None if protected::is_local(peer) && known => Ok(()),
            PlainHttp::Local | PlainHttp::None => Err(Reply::error(
                403,
                "this hub does not answer over plain HTTP ([hub] plain): let this machine join it with \"mesync join\", or call it by https://",
            )),
        }
    }

    /// Dispatches an admitted request to its route.
    pub fn serve(&self, request: Request, responder: Responder) {
        let route = match routes::find(&request.method, &request.path) {
            Ok(route) => route,
            Err(reply) => return responder.send(reply),
        };
        let answer = self.counted(route, responder);
        if let Some(shared) = &self.shared
            && route != Route::Health
            && let Err(reply) = shared.admit(&request, &self.store, &self.committer)
        {
            return answer(reply);
        }
        match route {
            Route::Page => answer(page::page()),
            Route::Health => answer(self.health()),
            Route::Login => answer(self.login(&request)),
            Route::Keys => answer(Reply::json(200, &self.auth.uses())),
            Route::PageToken => answer(self.auth.page_token()),
            Route::Peer => answer(peers::receive_news(
                &self.committer,
                self.messages.fleet(),
                &request,
            )),
            Route::Metrics => answer(self.metrics(&request.caller)),
            Route::ApproveDeletes | Route::ApprovedDeletes => {
                answer(self.approvals.handle(route, &request));
            }
            Route::Join | Route::JoinRequests | Route::AcceptJoin => {
                answer(match &self.joining {
                    Some(joining) => joining.handle(route, &request),
                    None => {
                        Reply::error(404, "this hub was built without TLS, which joining needs")
                    }
                });
            }
            Route::Events => self.while_unchanged(answer)(event_stream::listen(
                &self.store,
                &self.events,
                &request,
            )),
            _ => {
                let answer = self.noting_state(route, &request, answer);
                let left = self
                    .files
                    .handle(route, request, answer)
                    .and_then(|(request, answer)| self.messages.handle(request, answer));
                if let Some((request, answer)) = left {
                    answer(Reply::error(
                        404,
                        format!("there is nothing at {}", request.path),
                    ));
                }
            }
        }
    }

    /// Logs in; the answer also has the fingerprint of the hub's next certificate.
    fn login(&self, request: &Request) -> Reply {
        let reply = self.auth.login(request);
        let next = self.certificates.as_ref();
        match next.and_then(|certificates| certificates.next_fingerprint()) {
            Some(next) if reply.status == 200 => reply.header(join::NEXT_HEADER, next.to_string()),
            _ => reply,
        }
    }

    /// Takes the state in a request. That of a pull is taken with the answer, so that a machine which
    /// is listed because of it receives every later broadcast.
    fn noting_state(&self, route: Route, request: &Request, answer: SendReply) -> SendReply {
        let Some(state) = request.header(STATE_HEADER) else {
            return answer;
        };
        // a caller without a key of a host says which one it is
        let host = match &request.caller {
            Caller::Host(host, _) => Some(host.clone()),
            Caller::Admin | Caller::Anonymous => {
                let named = request.header(HOST_HEADER).map(wire::check_host);
                named.and_then(|host| host.ok())
            }
            Caller::Viewer | Caller::Hub | Caller::Nobody => None,
        };
        let Some(host) = host else {
            return answer;
        };
        if route != Route::GetMessages {
            let now = self.committer.now();
            self.messages.fleet().note(&host, state, now);
            return answer;
        }
        let (messages, state) = (self.messages.clone(), state.to_string());
        let committer = Arc::clone(&self.committer);
        Box::new(move |reply: Reply| {
            if reply.status == 200 {
                messages.fleet().note(&host, &state, committer.now());
            }
            answer(reply);
        })
    }

    /// Ends event streams when keys change: a client that still has access reconnects at once.
    fn while_unchanged(&self, answer: SendReply) -> SendReply {
        let unchanged = self.auth.unchanged();
        Box::new(move |mut reply| {
            reply.job = reply.job.map(|job| match job {
                Job::Stream(writer) => Job::Stream(Box::new(UntilKeysChange { writer, unchanged })),
                job => job,
            });
            answer(reply);
        })
    }

    /// Counts the answer when it is given, for an upload after its body was read.
    fn counted(&self, route: Route, responder: Responder) -> SendReply {
        let requests = Arc::clone(&self.requests);
        Box::new(move |mut reply| {
            reply.job = match reply.job.take() {
                Some(Job::Upload(upload)) => Some(Job::Upload(Box::new(move |body| {
                    let reply = upload(body);
                    requests.count(route, reply.status);
                    reply
                }))),
                job => {
                    requests.count(route, reply.status);
                    job
                }
            };
            responder.send(reply);
        })
    }

    /// `GET /api/health`: tells whether messages can be accepted.
    fn health(&self) -> Reply {
        let (status, words) = match (self.committer.fatal(), self.committer.disk_is_full()) {
            (Some(_), _) => (503, "the store has failed"),
            (None, true) => (503, "the disk is almost full"),
            _ if self.shared.as_ref().is_some_and(SharedView::is_old) => {
                (503, "the bucket does not respond")
            }
            (None, false) => (200, "ok"),
        };
        let health = Health {
            status: words.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            features: ["files", "messages", wire::BATCH_CHANGES]
                .map(Into::into)
                .into(),
        };
        Reply::json(status, &health)
    }

    /// `GET /metrics`. A host sees only itself among the hosts, as in all answers.
    fn metrics(&self, caller: &Caller) -> Reply {
        let mut text = MetricsText::default();
        text.rows(
            "info",
            "gauge",
            "version of the hub",
            [(format!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1)],
        );
        // counts of all files would reveal files that the caller may not see
        if caller.limited_reader().is_none() {
            self.requests.write(&mut text);
            self.write_connections(&mut text);
            self.write_commits(&mut text);
            self.write_store(&mut text);
            (self.shared.iter()).for_each(|shared| shared.write(&self.store, &mut text));
            process::write(&mut text);
        }
        self.write_queues(caller, &mut text);
        let keys = match self.auth.mode() {
            AuthMode::Protected => 0,
            AuthMode::Keys(n) | AuthMode::Anonymous(n) => n,
        };
        text.gauge("keys", "keys in force, the hub's own not counted", keys);
        Reply::text(200, MetricsText::CONTENT_TYPE, text.finish())
    }

    fn write_connections(&self, text: &mut MetricsText) {
        if let Some(server) = &*self.server() {
            let counters = server.counters();
            text.counter(
                "connections_total",
                "connections accepted",
                counters.accepted.load(Relaxed),
            );
            text.gauge(
                "connections_open",
                "connections open now",
                counters.open.load(Relaxed),
            );
            text.counter(
                "worker_connections_replaced_total",
                "inner connections that broke",
                counters.replaced.load(Relaxed),
            );
            text.counter(
                "worker_restarts_total",
                "inner servers that stopped accepting",
                counters.restarts.load(Relaxed),
            );
            let refused = counters
                .refusals()
                .map(|(reason, n)| (format!("reason=\"{reason}\""), n));
            text.rows(
                "refused_total",
                "counter",
                "requests and connections refused",
                refused,
            );
        }
        text.gauge(
            "event_streams",
            "event streams open now",
            self.events.open(),
        );
    }

    fn write_commits(&self, text: &mut MetricsText) {
        let m = self.committer.metrics();
        let seconds = |micros: u64| micros as f64 / 1e6;
        text.counter("commits_total", "transactions", m.commits);
        text.counter(
            "commit_operations_total",
            "operations in them",
            m.operations,
        );
        text.gauge(
            "commit_group_largest",
            "operations in the largest transaction",
            m.largest_group,
        );
        text.counter(
            "commit_seconds_total",
            "time spent in transactions",
            seconds(m.micros),
        );
        text.gauge(
            "commit_seconds_longest",
            "time of the longest transaction",
            seconds(m.longest_micros),
        );
        text.gauge(
            "commit_seconds_latest",
            "time of the latest transaction",
            seconds(m.latest_micros),
        );
        text.gauge(
            "commit_waiting",
            "operations that wait for a transaction",
            m.waiting,
        );
        text.counter(
            "commit_refused_total",
            "operations refused because too many waited",
            m.turned_away,
        );
        let [syncs, writes, bytes] = self.store.written();
        text.counter("store_syncs_total", "syncs of the store's file", syncs);
        text.counter("store_writes_total", "writes to the store's file", writes);
        text.counter(
            "store_written_bytes_total",
            "bytes written to the store's file",
            bytes,
        );
    }

    fn write_store(&self, text: &mut MetricsText) {
        if let Ok((free, _, _)) = disk::free_space(&self.data_dir) {
            text.gauge(
                "disk_free_bytes",
                "free space on the data directory's disk",
                free,
            );
        }
        if let Ok(totals) = self.store.totals() {
            text.gauge("messages", "messages kept", totals.messages);
            text.counter(
                "messages_accepted_total",
                "messages ever accepted by this hub",
                totals.seq,
            );
            text.gauge(
                "message_bytes",
                "bytes of JSON of the messages kept",
                totals.bytes,
            );
        }
        if let Ok(counts) = self.store.file_counts() {
            text.gauge("files", "files that are not deleted", counts.files);
            text.gauge("file_bytes", "bytes of these files", counts.bytes);
            text.gauge("file_versions", "replaced revisions kept", counts.versions);
            text.gauge(
                "file_tombstones",
                "deleted files that are remembered",
                counts.tombstones,
            );
            text.gauge("file_events", "events of files kept", counts.events);
            text.gauge("chunks", "chunks of all files and versions", counts.chunks);
            text.gauge(
                "chunks_lost",
                "chunks that are lost or damaged, and asked for",
                self.store.lost_count(),
            );
            text.gauge("rev", "the latest revision", counts.rev);
        }
    }

    fn write_queues(&self, caller: &Caller, text: &mut MetricsText) {
        let only = match caller {
            Caller::Admin | Caller::Host(..) | Caller::Viewer => caller.sees_host(),
            Caller::Anonymous | Caller::Hub | Caller::Nobody => return,
        };
        let now = self.committer.now();
        let Ok(hosts) = self.store.hosts(only, now) else {
            return;
        };
        // a host name needs no escaping
        let label = |name: &str| format!("host=\"{name}\"");
        text.rows(
            "queued",
            "gauge",
            "messages that wait for a host",
            hosts.iter().map(|h| (label(&h.name), h.queued)),
        );
        // a host that was only a target was never seen
        let seen = hosts.iter().filter(|h| h.row.first_seen.is_some());
        text.rows(
            "last_seen_timestamp_seconds",
            "gauge",
            "when a host asked for messages last, by the clock of the hub",
            seen.map(|h| (label(&h.name), h.row.last_seen / 1000)),
        );
        let ages = hosts
            .iter()
            .filter_map(|h| Some((label(&h.name), now.saturating_sub(h.oldest?) / 1000)));
        text.rows(
            "oldest_queued_seconds",
            "gauge",
            "age of the oldest message that waits for a host",
            ages,
        );
        let Ok(infos) = self.messages.infos(only) else {
            return;
        };
        let healthy = infos
            .iter()
            .map(|h| (label(&h.name), u8::from(h.condition.is_healthy())));
        text.rows(
            "host_healthy",
            "gauge",
            "1: the host calls and is not degraded",
            healthy,
        );
        let conditions = infos.iter().map(|h| {
            let condition = format!("condition=\"{}\"", h.condition.name());
            (format!("{},{condition}", label(&h.name)), 1)
        });
        text.rows(
            "host_condition",
            "gauge",
            "1 for the condition that the host is in",
            conditions,
        );
    }

    pub fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
