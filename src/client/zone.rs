//! Resolves hosts like ureq, and gives link-local addresses the interface that the hub's URL names.

use std::net::SocketAddr;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::config::zone;

/// `None`: the URL has no zone.
#[derive(Debug)]
pub struct ZoneResolver(pub Option<String>);

impl Resolver for ZoneResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut found = DefaultResolver::default().resolve(uri, config, timeout)?;
        if let Some(zone) = &self.0 {
            // looked up each time: an interface that was removed and added again has another number
            let index = zone::index(zone)?;
            for address in found.iter_mut() {
                if let SocketAddr::V6(address) = address
                    && address.ip().is_unicast_link_local()
                {
                    address.set_scope_id(index);
                }
            }
        }
        Ok(found)
    }
}
