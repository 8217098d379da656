//! The other hubs of a bucket: they are told at once that something was written, and which machines have called here.
//!
//! A thread for each, so that a dead one delays none. Nothing depends on it: each hub finds every entry in the bucket by itself,
//! only later, and without it shows machines that call other hubs as silent.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ureq::unversioned::resolver::DefaultResolver;

use super::auth::Auth;
use super::certificate::Certificates;
use super::commit::Committer;
use super::fleet::Fleet;
use super::http::{Reply, Request};
use crate::config::{HubSettings, server_url};
use crate::error::{Error, Result};
use crate::pins::{self, Pins};
use crate::wire::peers::PeerNews;
use crate::{agent, clock};

/// How often a peer is told of the machines that have called since.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// How long a peer may take to answer.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Wakes the thread of each peer.
pub struct PeerWakers(Vec<Sender<()>>);

/// The threads, by the end that each is woken through.
pub struct PeerWaits(Vec<(String, Receiver<()>)>);

/// For the peers of the settings.
pub fn channels(settings: &HubSettings) -> (PeerWakers, PeerWaits) {
    let urls = server_url::each(&settings.peers).filter(|url| !url.is_empty());
    let pairs = urls.map(|url| {
        // one is enough: all that was written meanwhile is found at the same look
        let (waker, wakes) = bounded(1);
        (waker, (url.to_string(), wakes))
    });
    let (wakers, waits) = pairs.unzip();
    (PeerWakers(wakers), PeerWaits(waits))
}

impl PeerWakers {
    /// An entry was written to the log.
    pub fn written(&self) {
        for waker in &self.0 {
            let _ = waker.try_send(());
        }
    }
}

/// The parts of this hub that its peers are told of.
pub struct PeerNotifier {
    pub committer: Arc<Committer>,
    pub fleet: Arc<Fleet>,
    pub auth: Arc<Auth>,
    pub certificates: Option<Arc<Certificates>>,
}

/// Starts the threads. They end when the [`PeerWakers`] are dropped, which the log has.
pub fn start(teller: PeerNotifier, waits: PeerWaits) -> Result<Vec<JoinHandle<()>>> {
    let teller = Arc::new(teller);
    let threads = waits.0.into_iter().map(|(url, wakes)| {
        let peer = Peer::new(url, &teller);
        std::thread::Builder::new()
            .name("peer".into())
            .spawn(move || peer.run(&wakes))
            .map_err(|e| Error::io("start the thread peer", &e))
    });
    threads.collect()
}

/// `POST /api/hub/peer`
pub fn receive_news(committer: &Committer, fleet: &Fleet, request: &Request) -> Reply {
    let Ok(news) = serde_json::from_slice::<PeerNews>(&request.body) else {
        return Reply::error(400, "this is no news of a hub");
    };
    if news.written {
        committer.poll();
    }
    fleet.note_elsewhere(&news, committer.now());
    Reply::json(200, &serde_json::json!({}))
}

struct Peer {
    url: String,
    agent: ureq::Agent,
    teller: Arc<PeerNotifier>,
}

impl Peer {
    fn new(url: String, teller: &Arc<PeerNotifier>) -> Peer {
        let config = agent::config(1, None)
            .proxy(None)
            .timeout_global(Some(TELL_TIMEOUT))
            .build();
        // all hubs of a bucket have one certificate
        let pins = teller.certificates.as_ref().map(|certificates| {
            let known = [
                Some(certificates.fingerprint()),
                certificates.next_fingerprint(),
            ];
            Pins::new(&known.into_iter().flatten().collect::<Vec<_>>())
        });
        Peer {
            url: pins
                .as_ref()
                .map_or_else(|| url.clone(), |_| pins::secured(&url)),
            agent: agent::new(config, pins.as_ref(), DefaultResolver::default()),
            teller: Arc::clone(teller),
        }
    }

    fn run(self, wakes: &Receiver<()>) {
        let mut told = self.teller.committer.now();
        let mut told_at = clock::monotonic();
        let mut fails = false;
        loop {
            let written = match wakes.recv_timeout(TELL_INTERVAL) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let (mut news, mut up_to) = (PeerNews::default(), told);
            // there may be thousands of machines, and an entry every few milliseconds
            if !written || told_at.elapsed() >= TELL_INTERVAL {
                let now = self.teller.committer.now();
                (news, up_to) = self.teller.fleet.news(told, now);
                told_at = clock::monotonic();
            }
            if !written && news == PeerNews::default() {
                continue;
            }
            match self.tell(PeerNews { written, ..news }) {
                Ok(()) => {
                    told = up_to;
                    fails = false;
                }
                // it finds the entry by itself, and is told of the machines later
                Err(why) => {
                    if !fails {
                        log::info!("cannot tell hub {}: {why}", self.url);
                    }
                    fails = true;
                }
            }
        }
    }

    fn tell(&self, news: PeerNews) -> std::result::Result<(), String> {
        let body = serde_json::to_vec(&news).unwrap_or_default();
        let answer = self
            .agent
            .post(format!("{}/api/hub/peer", self.url))
            .header(
                "authorization",
                format!("Bearer {}", self.teller.auth.hub_token()),
            )
            .header("content-type", "application/json")
            .send(&body);
        match answer {
            Ok(answer) if answer.status() == 200 => Ok(()),
            Ok(answer) => Err(format!("it answers {}", answer.status().as_u16())),
            Err(e) => Err(e.to_string()),
        }
    }
}
