//! Commands of the hub's machine: run it, and its keys. The hub itself is in `hub`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use super::output::left;
use super::parse::Invocation;
use super::{Context, Done};
use crate::error::Result;
use crate::service::{self, Part, Signals};
use crate::{clock, daemon, disk, hub, wire};

/// `mesync serve`: the context's settings already have the values of the flags.
pub fn serve(context: &mut Context, invocation: &Invocation) -> Result<Done> {
    let mut settings = context.settings.clone();
    let signals = Signals::start()?;
    let hub = hub::Hub::start(&settings, invocation.has("allow-anonymous"))?;
    if settings.server_is_default {
        settings.server_url = url(hub.address());
    }
    let mut parts: Vec<Box<dyn Part>> = vec![Box::new(hub)];
    if invocation.has("start") {
        match daemon::Daemon::start(&settings) {
            Ok(client) => parts.push(Box::new(client)),
            Err(e) => {
                service::stop(parts);
                return Err(e);
            }
        }
    }
    service::run(&signals, parts).map(|()| Done::All)
}

/// How a client on this machine calls a hub that listens there.
fn url(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// A key as `--json` shows it.
#[derive(Serialize)]
struct Listed {
    name: String,
    /// Only when it was made: the hub keeps no more than its hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    created: Option<String>,
}

/// `mesync key add NAME`
pub fn key_add(context: &mut Context, invocation: &Invocation) -> Result<Done> {
    let name = wire::check_host(invocation.argument(0)?).map_err(|e| invocation.usage(e))?;
    let dir = &context.settings.hub.data_dir;
    disk::create_dir(dir)?;
    let key = hub::add_key(dir, &name)?;
    match context.out.json {
        true => context.out.object(&Listed { name, key: Some(key), created: Some(clock::rfc3339(clock::now())) }),
        false => context.out.line(&key),
    }
    Ok(Done::All)
}

/// `mesync key list`
pub fn key_list(context: &mut Context, _: &Invocation) -> Result<Done> {
    let keys = hub::list_keys(&context.settings.hub.data_dir)?;
    if context.out.json {
        keys.into_iter().for_each(|k| context.out.object(&Listed { name: k.name, key: None, created: k.created.map(clock::rfc3339) }));
        return Ok(Done::All);
    }
    let rows: Vec<Vec<String>> = keys.into_iter().map(|k| vec![k.name, k.created.map_or("-".into(), clock::local)]).collect();
    context.out.table(&[left("NAME"), left("CREATED")], &rows);
    Ok(Done::All)
}

/// `mesync key remove NAME`
pub fn key_remove(context: &mut Context, invocation: &Invocation) -> Result<Done> {
    let name = wire::check_host(invocation.argument(0)?).map_err(|e| invocation.usage(e))?;
    hub::remove_key(&context.settings.hub.data_dir, &name)?;
    match context.out.json {
        true => context.out.object(&serde_json::json!({ "name": name, "removed": true })),
        false => context.out.line(&format!("{name} is locked out")),
    }
    Ok(Done::All)
}
