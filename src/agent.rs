//! What the HTTP clients of the program have in common: no redirects, every status is a response, and one way to trust a
//! server.
//!
//! Timeouts, proxies and buffers are the caller's.

use std::sync::Arc;

use ureq::config::{Config, ConfigBuilder};
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::Resolver;
use ureq::unversioned::transport::DefaultConnector;

use crate::pins::{self, Pins};
use crate::tls::Trust;

/// The configuration to which a caller adds its own. `max_kept`: connections that stay open between requests. `trust`: the
/// authorities that must have signed the certificate of an `https` server; the public ones if `None`.
pub fn config(max_kept: usize, trust: Option<&Trust>) -> ConfigBuilder<AgentScope> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("mesync/", env!("CARGO_PKG_VERSION")))
        .max_idle_connections(max_kept)
        .max_idle_connections_per_host(max_kept);
    match trust {
        Some(trust) => trust.apply(config),
        None => config,
    }
}

/// `pins`: the server is known by its certificate, and no authority counts.
pub fn new(config: Config, pins: Option<&Arc<Pins>>, resolver: impl Resolver) -> ureq::Agent {
    match pins {
        Some(pins) => pins::agent(config, pins, resolver),
        None => ureq::Agent::with_parts(config, DefaultConnector::default(), resolver),
    }
}
