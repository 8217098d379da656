//! The hub, which `mesync serve` runs. This file starts and stops its parts, in the reading order below.
//!
//! It knows neither clients nor signals: its owner decides when it reloads and stops.
//!
//! ```text
//! TCP --> server --gate--> worker-N --> router --> login, health, metrics
//!           ^                            |----> messages --> commit (one transaction a group) --> store
//!           |                            \----> files ------/                                        |
//!           +--------- replies, long bodies, event streams <-----------------------------------------+
//! ```

pub mod http;
pub mod server;

pub mod metrics;
pub mod page;
mod process;
pub mod router;
pub mod routes;

pub mod approvals;
pub mod auth;
pub mod bucket;
pub mod certificate;
pub mod failures;
pub mod fleet;
pub mod invitations;
pub mod joining;
pub mod keys;
pub mod peers;
pub mod pending;
pub mod protected;
pub mod rights;
pub mod token;

pub mod commit;
pub mod commit_log;
pub mod continuity;
pub mod event_stream;
pub mod files;
pub mod messages;
pub mod shared_view;
pub mod store;
pub mod subscribers;
pub mod upcoming;

pub mod data_dir;
pub mod memory;
mod opening;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use crate::config::environment;
use crate::config::{HubSettings, Settings, zone};
use crate::disk;
use crate::error::{Error, Kind, Result, plain};
use crate::service::ServicePart;
use approvals::Approvals;
use auth::{Auth, AuthMode};
use bucket::clock::StoreClock;
use bucket::janitor::{Janitor, JanitorTimes};
use bucket::shared_files::SharedFiles;
use bucket::start::OpenBucket;
use bucket::watch::BucketWatch;
use commit::{Committer, Work};
use data_dir::DataDirLock;
use files::Files;
use http::Request;
use joining::Joining;
use memory::Room;
use messages::Messages;
use opening::{OpenedBucket, OpenedStore};
use peers::PeerNotifier;
use router::Router;
use server::{Responder, Server};
use shared_view::SharedView;
use store::ops::Limits;
use subscribers::Subscribers;

pub use keys::{Key, add_key, add_key_with, list_keys, remove_key, rotate_key, set_rights};
pub use rights::Rights;

/// A running hub. Dropped without [`Hub::stop`], it stops at once.
pub struct Hub {
    router: Arc<Router>,
    commit: Option<JoinHandle<()>>,
    /// With the sender that ends it.
    janitor: Option<(Sender<()>, JoinHandle<()>)>,
    peers: Vec<JoinHandle<()>>,
    address: SocketAddr,
    settings: HubSettings,
    /// What it was started with.
    started_with: (Settings, bool),
    /// Heartbeats of server and committer at the last check.
    beats: Mutex<(u64, u64)>,
    // the last field, so that no other hub opens the store before it is closed
    lock: Option<DataDirLock>,
}

impl Hub {
    /// Listens, and answers requests from here on. `Kind::Busy`: another hub has the data directory.
    pub fn start(settings: &Settings, allow_anonymous: bool) -> Result<Hub> {
        let hub = &settings.hub;
        let listen = zone::socket_address(&hub.listen).map_err(|e| {
            Error::new(
                Kind::Settings,
                format!("cannot listen on {}: {}", hub.listen, plain(&e)),
            )
        })?;
        let lock = data_dir::lock(&hub.data_dir)?;
        let credentials = environment::variable("CREDENTIALS_DIRECTORY");
        let credentials = credentials.as_deref().map(Path::new);
        // first, because the keys and the certificate may come from the bucket
        let OpenedStore { store, log, bucket } = opening::open_store(hub, credentials)?;
        let auth = Auth::open(hub, credentials, allow_anonymous)?;
        let certificates = certificate::open(hub)?;
        let events = Arc::new(Subscribers::default());
        // after the store was opened, which has allocated its memory
        let room = Room::of_process();
        room.require_least()?;
        let (committer, work) = Committer::new(
            Arc::clone(&store),
            log,
            Arc::clone(&events),
            Limits::of(hub),
            hub.reserve,
        );
        committer.set_room(room);
        let max_upload = Arc::new(AtomicU64::new(hub.max_upload));
        let auth = Arc::new(auth);
        let silent = Arc::clone(&auth);
        let messages = Messages::new(
            Arc::clone(&store),
            Arc::clone(&committer),
            Arc::new(move || silent.silent_hosts()),
            &hub.data_dir,
        );
        let joining = certificates.clone().map(|certificates| {
            let (data_dir, auth) = (hub.data_dir.clone(), Arc::clone(&auth));
            let messages = messages.clone();
            let on_admission = Box::new(move |host: &str| messages.admit(host));
            Joining::new(data_dir, auth, certificates, on_admission)
        });
        let shared = bucket.as_ref().map(|opened| SharedView {
            clock: Arc::clone(&opened.clock),
        });
        let router = Arc::new(Router {
            shared,
            messages,
            auth,
            files: Files::new(
                Arc::clone(&store),
                Arc::clone(&committer),
                Arc::clone(&events),
                Arc::clone(&max_upload),
                room,
            ),
            max_upload,
            store,
            committer,
            events,
            requests: Arc::default(),
            approvals: Approvals::open(&hub.data_dir)?,
            data_dir: hub.data_dir.clone(),
            certificates,
            joining,
            plain: Mutex::new(hub.plain),
            server: Mutex::new(None),
        });
        // from here on, a failure stops the parts that have been started
        let mut started = Hub {
            router,
            commit: Some(start_commit(work)?),
            janitor: None,
            peers: Vec::new(),
            address: listen,
            settings: hub.clone(),
            started_with: (settings.clone(), allow_anonymous),
            beats: Mutex::default(),
            lock: Some(lock),
        };
        if let Some(OpenedBucket {
            bucket,
            clock,
            peers,
        }) = bucket
        {
            started.janitor = Some(start_janitor(&started.router, hub, bucket, clock)?);
            let router = &started.router;
            let teller = PeerNotifier {
                committer: Arc::clone(&router.committer),
                fleet: Arc::clone(router.messages.fleet()),
                auth: Arc::clone(&router.auth),
                certificates: router.certificates.clone(),
            };
            started.peers = peers::start(teller, peers)?;
        }
        started.listen(hub, room)?;
        started.say_what_it_is(hub);
        Ok(started)
    }

    fn listen(&mut self, settings: &HubSettings, room: Room) -> Result<()> {
        let certificates = self.router.certificates.as_ref();
        let tls = certificates.map(|certificates| certificates.acceptor());
        let config = server::Config {
            listen: self.address,
            socket_dir: settings.data_dir.join("socket"),
            connections: settings.connections,
            streams: settings.max_streams,
            per_address: settings.connections_per_address,
            workers: settings.workers,
            room,
            tls: tls.transpose()?,
        };
        let router = Arc::clone(&self.router);
        let serve = Arc::new(move |request: Request, responder: Responder| {
            router.serve(request, responder)
        });
        let server = Server::start(
            config,
            Arc::clone(&self.router) as Arc<dyn server::Gate>,
            serve,
        )?;
        self.address = server.address();
        *self.router.server() = Some(server);
        self.lock
            .as_mut()
            .map_or(Ok(()), |lock| lock.write_address(self.address))
    }

    fn say_what_it_is(&self, settings: &HubSettings) {
        let (version, address, data) = (
            env!("CARGO_PKG_VERSION"),
            self.address,
            settings.data_dir.display(),
        );
        let mode = match self.router.auth.mode() {
            AuthMode::Protected => "protected".to_string(),
            AuthMode::Keys(n) => keys::count(n),
            AuthMode::Anonymous(n) => format!("anonymous, {}", keys::count(n)),
        };
        log::info!("hub started: version={version} listen={address} data={data} mode=\"{mode}\"");
        if disk::is_in_memory(&settings.data_dir) {
            log::warn!(
                "the hub's data is in memory: a restart of the machine loses it; \
                 set --data to a directory on a disk; data={data}"
            );
        }
        match self.router.auth.mode() {
            AuthMode::Protected => log::info!(
                "no machine was let in yet: run \"mesync start\" there with MESYNC_SERVER_URL set to this hub, then \"mesync accept\" here; \
                 until then every user and program of this machine is let in, and nobody else"
            ),
            AuthMode::Anonymous(_) => {
                log::warn!(
                    "--allow-anonymous: every machine that can reach {address} may send and receive messages for any host"
                )
            }
            AuthMode::Keys(_) => {}
        }
    }

    /// The address that it listens on, with the chosen port if the configured one was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether both heartbeats have advanced since the last call. They do every second, so do not call it more often.
    pub fn alive(&self) -> bool {
        let server = self.router.server().as_ref().map_or(0, Server::heartbeat);
        let now = (server, self.router.committer.heartbeat());
        let before = std::mem::replace(
            &mut *self.beats.lock().unwrap_or_else(PoisonError::into_inner),
            now,
        );
        now.0 != before.0 && now.1 != before.1
    }

    /// Starts again if its view of the bucket is of no use any more: it is made again then.
    fn start_again(&mut self) {
        if !self.router.committer.wants_new_start() {
            return;
        }
        self.end(Duration::ZERO);
        self.lock = None;
        let (settings, allow_anonymous) = &self.started_with;
        let mut settings = settings.clone();
        settings.hub.listen = self.address.to_string();
        match Hub::start(&settings, *allow_anonymous) {
            Ok(hub) => *self = hub,
            Err(e) => log::warn!("{e}; trying again"),
        }
    }

    /// The fatal error, if the store cannot be written any more.
    pub fn fatal(&self) -> Option<Error> {
        if self.router.committer.wants_new_start() {
            return None;
        }
        let ended = || self.commit.as_ref().is_none_or(JoinHandle::is_finished);
        let fault =
            || ended().then(|| Error::new(Kind::Io, "cannot write the store: its thread panicked"));
        self.router.committer.fatal().or_else(fault)
    }

    /// Reads the keys again and applies these settings; logs those that need a restart.
    pub fn reload(&mut self, settings: Option<&Settings>) {
        self.router.auth.reload();
        let Some(now) = settings.map(|settings| &settings.hub) else {
            return;
        };
        self.router.committer.set(Limits::of(now), now.reserve);
        self.router
            .max_upload
            .store(now.max_upload, Ordering::Relaxed);
        self.router.set_plain(now.plain);
        if let Some(certificates) = &self.router.certificates {
            certificates.reload(certificate::OperatorCertificate::of(now));
        }
        let before = &self.settings;
        let restart = [
            ("listen", before.listen != now.listen),
            ("data_dir", before.data_dir != now.data_dir),
            ("workers", before.workers != now.workers),
            ("connections", before.connections != now.connections),
            ("max_streams", before.max_streams != now.max_streams),
            (
                "connections_per_address",
                before.connections_per_address != now.connections_per_address,
            ),
            ("cache", before.cache != now.cache),
            ("bucket", before.bucket != now.bucket),
            ("bucket_region", before.bucket_region != now.bucket_region),
            (
                "bucket_key_file",
                (&before.bucket_key, &before.bucket_key_file)
                    != (&now.bucket_key, &now.bucket_key_file),
            ),
            ("bucket_poll", before.bucket_poll != now.bucket_poll),
            ("peers", before.peers != now.peers),
            ("commit_window", before.commit_window != now.commit_window),
            (
                "master_key",
                (&before.master_key, &before.master_key_file)
                    != (&now.master_key, &now.master_key_file),
            ),
        ];
        restart
            .iter()
            .filter(|(_, changed)| *changed)
            .for_each(|(key, _)| log::warn!("[hub] {key} has changed: restart the hub to use it"));
    }

    /// Accepts no more requests, finishes running ones within `grace`, and writes pending data to the disk.
    pub fn stop(mut self, grace: Duration) {
        self.end(grace);
    }

    fn end(&mut self, grace: Duration) {
        let Some(commit) = self.commit.take() else {
            return;
        };
        // otherwise the server would wait for open event streams
        self.router.events.stop();
        let server = self.router.server().take();
        let started = server.is_some();
        if let Some(server) = server {
            server.stop(grace);
        }
        let janitor = self.janitor.take().map(|(stop, thread)| {
            drop(stop);
            thread
        });
        // last, because it answers requests
        self.router.committer.stop();
        if commit.join().is_err() {
            log::error!("commit thread panicked");
        }
        // they have ended with it
        for peer in self.peers.drain(..) {
            if peer.join().is_err() {
                log::error!("peer thread panicked");
            }
        }
        // what it waits for is answered now
        if janitor.is_some_and(|thread| thread.join().is_err()) {
            log::error!("janitor thread panicked");
        }
        if started {
            log::info!("hub stopped");
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

impl ServicePart for Hub {
    fn alive(&self) -> bool {
        Hub::alive(self)
    }

    fn fatal(&self) -> Option<Error> {
        Hub::fatal(self)
    }

    fn tend(&mut self) {
        self.start_again();
    }

    fn reload(&mut self, settings: Option<&Settings>) {
        Hub::reload(self, settings);
    }

    fn stop(self: Box<Self>, grace: Duration) {
        Hub::stop(*self, grace);
    }
}

fn start_janitor(
    router: &Arc<Router>,
    hub: &HubSettings,
    bucket: OpenBucket,
    clock: Arc<StoreClock>,
) -> Result<(Sender<()>, JoinHandle<()>)> {
    let committer = Arc::clone(&router.committer);
    let mut watch = BucketWatch::new(Arc::clone(&bucket.objects), Arc::clone(&router.store))?;
    let janitor = Janitor {
        objects: bucket.objects,
        clock,
        store: Arc::clone(&router.store),
        data_dir: hub.data_dir.clone(),
        snapshot_at: 0,
        snapshot_entries: bucket::janitor::SNAPSHOT_ENTRIES,
        times: JanitorTimes::default(),
    };
    let submit = move |op| {
        let (sender, outcome) = bounded(1);
        committer.submit(
            op,
            None,
            Box::new(move |outcome| drop(sender.send(outcome))),
        );
        outcome.recv().ok()
    };
    let files = SharedFiles::new(Arc::clone(&janitor.objects), &hub.data_dir);
    let (mut versions, router) = (BTreeMap::new(), Arc::clone(router));
    let look = move || {
        let before = versions.clone();
        let refreshed = files.refresh_all(&mut versions).and_then(|latest| {
            if before != versions {
                router.approvals.reload()?;
            }
            Ok(latest)
        });
        match refreshed.map(|latest| watch.check(&latest)) {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => router.committer.fail(fault),
            Err(e) => log::warn!("cannot read the shared files in the bucket: {e}"),
        }
    };
    let (stop, stopped) = bounded(0);
    let thread = std::thread::Builder::new()
        .name("janitor".into())
        .spawn(move || janitor.run(stopped, &submit, look));
    Ok((
        stop,
        thread.map_err(|e| Error::io("start the thread janitor", &e))?,
    ))
}

fn start_commit(work: Work) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new()
        .name("commit".into())
        .spawn(|| work.run());
    thread.map_err(|e| Error::io("start the thread commit", &e))
}
