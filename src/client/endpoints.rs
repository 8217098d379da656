//! The hubs that a client may call, one of them at a time: the first choice follows from the name of the machine, and
//! each hub is called until it fails.
//!
//! It knows no routes. All of the hubs must be of one bucket, so a token, a revision or an answer of one is as good as
//! that of another.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::proxy::{self, Proxy};
use super::url::is_address;
use super::zone::ZoneResolver;
use crate::config::{Settings, environment, server_url, zone};
use crate::error::Result;
use crate::pins::Pins;
use crate::tls::Trust;
use crate::wire::files::Hash;
use crate::{agent, clock, wire};

/// Kept connections, at most: as many as the threads of one directory use.
const MAX_KEPT_CONNECTIONS: usize = 16;
/// How long a connection may take where another hub can be called instead. A machine that is off refuses nothing, it is
/// silent.
const MAX_CONNECT_WAIT: Duration = Duration::from_secs(3);
/// How long another hub than the first choice is called, and what a machine's name may add: otherwise all would come
/// back at once.
const AWAY: Duration = Duration::from_secs(20 * 60);
const MAX_AWAY_JITTER_SECONDS: u64 = 5 * 60;

/// One hub, over pooled connections.
pub(super) struct Endpoint {
    pub url: String,
    pub proxy: Option<Proxy>,
    agent: ureq::Agent,
    /// Event streams have no deadline for the whole, only for each read.
    streams: ureq::Agent,
    /// A server has responded, whatever it was.
    pub has_responded: AtomicBool,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Request,
    Stream,
}

pub(super) struct Endpoints {
    /// At least one.
    all: Vec<Endpoint>,
    /// The index of the first choice.
    home: usize,
    current: AtomicUsize,
    /// When the first choice was left.
    left: Mutex<Option<Instant>>,
    away: Duration,
}

impl Endpoint {
    fn new(
        url: &str,
        settings: &Settings,
        trust: Option<&Trust>,
        pins: Option<&Arc<Pins>>,
        connect: Duration,
    ) -> Result<Endpoint> {
        let timeout = settings.http_timeout;
        // a name is resolved in a separate thread for each request; an address needs none
        let bare = zone::without(url);
        let resolve = (!is_address(&bare)).then_some(connect);
        let proxy = proxy::find(&bare, environment::text)?;
        let config = || {
            agent::config(MAX_KEPT_CONNECTIONS, trust)
                .input_buffer_size(16 * 1024)
                .output_buffer_size(16 * 1024)
                // below the hub's own limit for idle connections
                .max_idle_age(Duration::from_secs(45))
                .timeout_resolve(resolve)
                .timeout_connect(Some(connect))
                .timeout_send_request(Some(timeout))
                .timeout_per_write(Some(timeout))
                .proxy(proxy.as_ref().map(|proxy| proxy.agent.clone()))
        };
        let requests = config()
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout))
            .build();
        let streams = config()
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(Duration::from_secs(3 * wire::KEEP_ALIVE)))
            .build();
        let make = |config| {
            let resolver = ZoneResolver(zone::of(url).map(str::to_string));
            agent::new(config, pins, resolver)
        };
        Ok(Endpoint {
            url: url.to_string(),
            proxy,
            agent: make(requests),
            streams: make(streams),
            has_responded: AtomicBool::new(false),
        })
    }

    pub fn agent(&self, purpose: Purpose) -> &ureq::Agent {
        match purpose {
            Purpose::Request => &self.agent,
            Purpose::Stream => &self.streams,
        }
    }
}

impl Endpoints {
    /// The hubs of `server_url`.
    pub fn new(settings: &Settings, pins: Option<&Arc<Pins>>) -> Result<Endpoints> {
        let urls: Vec<&str> = server_url::each(&settings.server_url).collect();
        let connect = match urls.as_slice() {
            [_] => settings.http_timeout,
            _ => settings.http_timeout.min(MAX_CONNECT_WAIT),
        };
        let trust = settings.ca_file.as_deref().map(Trust::read).transpose()?;
        let all = urls
            .iter()
            .map(|url| Endpoint::new(url, settings, trust.as_ref(), pins, connect))
            .collect::<Result<Vec<_>>>()?;
        let spread = spread(&settings.host_id);
        let home = usize::try_from(spread % all.len() as u64).unwrap_or(0);
        let jitter = Duration::from_secs((spread >> 32) % MAX_AWAY_JITTER_SECONDS);
        Ok(Endpoints {
            all,
            home,
            current: AtomicUsize::new(home),
            left: Mutex::default(),
            away: AWAY + jitter,
        })
    }

    /// More than one, so that a call may go to another.
    pub fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    /// The one that was called last.
    pub fn current(&self) -> &Endpoint {
        &self.all[self.current.load(Relaxed)]
    }

    /// In the order of a call: first the one that works, or the first choice if that was left long ago.
    pub fn in_order(&self) -> impl Iterator<Item = (usize, &Endpoint)> {
        let first = self.first(clock::monotonic());
        let order = (0..self.all.len()).map(move |n| (first + n) % self.all.len());
        order.map(|index| (index, &self.all[index]))
    }

    fn first(&self, now: Instant) -> usize {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.is_some_and(|left| now.saturating_duration_since(left) >= self.away) {
            // one call tries it; if it is still dead, the others stay where they are for as long again
            *left = Some(now);
            return self.home;
        }
        self.current.load(Relaxed)
    }

    /// This one has answered, and those before it in the order have not.
    pub fn answered(&self, index: usize) {
        if self.current.swap(index, Relaxed) == index {
            return;
        }
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = (index != self.home).then(|| left.unwrap_or_else(clock::monotonic));
    }

    /// Wakes every thread that waits in a call; no calls are possible afterwards.
    pub fn stop(&self) {
        for endpoint in &self.all {
            endpoint.agent.clone().shutdown();
            endpoint.streams.clone().shutdown();
        }
    }
}

/// A number that differs between machines, and not between starts of one.
fn spread(host: &str) -> u64 {
    let hash = Hash::of(host.as_bytes()).0;
    hash[..8]
        .iter()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(host: &str, hubs: usize) -> Endpoints {
        let urls: Vec<_> = (0..hubs)
            .map(|n| format!("http://127.0.0.1:{}", n + 1))
            .collect();
        let settings = Settings {
            server_url: urls.join(","),
            host_id: host.into(),
            ..Settings::default()
        };
        Endpoints::new(&settings, None).unwrap()
    }

    #[test]
    fn machines_are_spread_over_the_hubs() {
        let mut counts = [0; 3];
        for n in 0..300 {
            let hubs = endpoints(&format!("host-{n}"), 3);
            counts[hubs.home] += 1;
            assert_eq!(hubs.current().url, hubs.all[hubs.home].url);
        }
        assert!(counts.iter().all(|n| (70..=130).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_hub_is_called_until_it_fails_and_the_first_choice_is_tried_again() {
        let hubs = endpoints("alpha", 3);
        let start = clock::monotonic();
        let next = (hubs.home + 1) % 3;
        let all: Vec<usize> = hubs.in_order().map(|(index, _)| index).collect();
        assert_eq!(all, [hubs.home, next, (hubs.home + 2) % 3]);
        hubs.answered(next);
        assert_eq!(hubs.first(start), next);
        assert_eq!(hubs.current().url, hubs.all[next].url);
        // after a while one call tries the first choice, and others do not
        let later = clock::monotonic() + hubs.away;
        assert_eq!(hubs.first(later), hubs.home);
        assert_eq!(hubs.first(later), next);
        // it answers, so it is the one again
        hubs.answered(hubs.home);
        assert_eq!(hubs.first(later + 2 * hubs.away), hubs.home);
        assert!(hubs.left.lock().unwrap().is_none());
    }
}
