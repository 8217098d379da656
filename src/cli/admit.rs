//! Commands on the hub's machine that admit machines and people: `accept`, `invite`, `hub page`, and the renewal of the hub's
//! certificate.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crossbeam_channel::{after, select};
use rustix::system::uname;

use super::hub::{find_hub, local_client};
use super::parse::Invocation;
use super::{CommandEnd, Context, keys};
use crate::client::HubClient;
use crate::config::{self, PlainHttp, Settings, limits};
use crate::error::{Error, Result};
use crate::hub::{certificate, invitations};
use crate::service::Signals;
use crate::wire::join::{Accept, JoinRequests, WaitingMachine};
use crate::wire::rights::RightsRow;
use crate::{clock, disk, pins, wire};

/// The interval at which `accept --for` asks the hub for newly admitted machines.
const WINDOW_LOOK_INTERVAL: Duration = Duration::from_secs(1);
const INVITATION_TIME: Duration = Duration::from_secs(86_400);
const MAX_INVITATION_TIME: Duration = Duration::from_secs(30 * 86_400);

/// `mesync accept [NAME…]`
pub fn accept(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let names = (0..invocation.arguments.len()).map(|at| invocation.argument(at));
    let names: Vec<&str> = names.collect::<Result<_>>()?;
    let code = invocation.value("code")?;
    let rights = keys::named(invocation)?.map(|rights| rights.row());
    if invocation.has("all") {
        if !names.is_empty() || code.is_some() || invocation.has("replace") {
            return Err(
                invocation.usage("--all is for every machine: without names, --code and --replace")
            );
        }
        let time = time(invocation, "for", limits::JOIN_WINDOW)?
            .ok_or_else(|| invocation.usage("for how long? --for 10m"))?;
        let hub = local_client(&context.settings)?;
        return window(context, &hub, time, rights);
    }
    if invocation.has("for") {
        return Err(invocation.usage("--for needs --all"));
    }
    if names.is_empty() && rights.is_some() {
        return Err(invocation.usage("which machine is to have these rights? name it"));
    }
    let hub = local_client(&context.settings)?;
    if names.is_empty() {
        let requests = hub.join_requests()?;
        requests
            .pending
            .iter()
            .for_each(|asking| show(context, asking));
        if requests.pending.is_empty() {
            super::note("no machine asks to be let in");
        }
        return Ok(CommandEnd::All);
    }
    for name in names {
        let name = wire::check_host(name).map_err(|e| invocation.usage(e))?;
        let accept = Accept {
            name: Some(name.clone()),
            code: code.map(String::from),
            replace: invocation.has("replace"),
            window: None,
            rights: rights.clone(),
        };
        let requests = hub.accept(&accept)?;
        if let Some(asking) = requests.accepted.iter().rfind(|a| a.name == name) {
            let_in(context, asking);
        }
    }
    Ok(CommandEnd::All)
}

/// `machine-2  10.0.0.7  code 481-203  asked 12 s ago`
fn show(context: &mut Context, asking: &WaitingMachine) {
    if context.out.json {
        return context.out.object(asking);
    }
    let replaces = if asking.replace {
        "  replaces its key"
    } else {
        ""
    };
    context.out.line(&format!(
        "{}  {}  code {}  asked {} ago{replaces}",
        asking.name,
        asking.address,
        asking.code,
        clock::age(Duration::from_secs(asking.seconds))
    ));
}

fn let_in(context: &mut Context, asking: &WaitingMachine) {
    if context.out.json {
        return context.out.object(asking);
    }
    context.out.line(&format!(
        "{} is let in ({}, code {})",
        asking.name, asking.address, asking.code
    ));
}

/// Admits every machine until the time has passed, or this command ends.
fn window(
    context: &mut Context,
    hub: &HubClient,
    time: Duration,
    rights: Option<RightsRow>,
) -> Result<CommandEnd> {
    let signals = Signals::start()?;
    let seconds = time.as_secs();
    let mut known = hub.join_requests()?.accepted;
    let ask = |seconds: u64| Accept {
        window: Some(seconds),
        rights: rights.clone(),
        ..Accept::default()
    };
    let mut requests: JoinRequests = hub.accept(&ask(seconds))?;
    super::note(&format!(
        "every machine that asks is let in for {}",
        clock::age(time)
    ));
    loop {
        let is_known = |known: &[WaitingMachine], new: &WaitingMachine| {
            known
                .iter()
                .any(|k| (&k.name, &k.code) == (&new.name, &new.code))
        };
        for new in requests.accepted.iter().filter(|a| !is_known(&known, a)) {
            let_in(context, new);
        }
        context.out.flush();
        known = requests.accepted;
        if requests.window.is_none() {
            return Ok(CommandEnd::All);
        }
        select! {
            recv(signals.stop) -> _ => {
                hub.accept(&ask(0))?;
                return Ok(CommandEnd::All);
            }
            recv(after(WINDOW_LOOK_INTERVAL)) -> _ => {}
        }
        requests = hub.join_requests()?;
    }
}

/// `mesync invite NAME`
pub fn invite(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let name = wire::check_host(invocation.argument(0)?).map_err(|e| invocation.usage(e))?;
    let time = time(invocation, "for", MAX_INVITATION_TIME)?.unwrap_or(INVITATION_TIME);
    let settings = &context.settings;
    let url = match invocation.value("url")? {
        Some(url) => config::server_url::list(url)
            .map_err(|e| invocation.usage(format!("bad value for --url: {e}")))?,
        None => url(settings)?,
    };
    let dir = &settings.hub.data_dir;
    find_hub(dir)?;
    let fingerprint = certificate::own_fingerprint(dir)?;
    let secret = invitations::invite(
        dir,
        &name,
        time,
        invocation.has("replace"),
        keys::named(invocation)?.as_ref(),
    )?;
    let command = format!("mesync join '{url}#{name}.{secret}.{fingerprint}'");
    if context.out.json {
        let until = clock::rfc3339(clock::now() + time);
        let object = serde_json::json!({ "name": name, "command": command, "until": until });
        context.out.object(&object);
    } else {
        context.out.line(&command);
    }
    Ok(CommandEnd::All)
}

/// The URL by which other machines call the hub of this one.
fn url(settings: &Settings) -> Result<String> {
    let holder = disk::lock_holder(&settings.hub.data_dir.join(wire::HUB_LOCK));
    let listen: Option<SocketAddr> = holder
        .and_then(|text| text.trim().parse().ok())
        .or_else(|| settings.hub.listen.parse().ok());
    let everywhere = |ip: IpAddr| ip.is_unspecified();
    let system = uname();
    let host = match listen.map(|l| l.ip()).filter(|ip| !everywhere(*ip)) {
        Some(IpAddr::V6(ip)) => format!("[{ip}]"),
        Some(ip) => ip.to_string(),
        None => system.nodename().to_string_lossy().into_owned(),
    };
    let port = listen.map_or(8080, |l| l.port());
    config::check_url(&format!("http://{host}:{port}")).map_err(|why| {
        Error::new(
            crate::error::Kind::Settings,
            format!("cannot tell how machines call this hub: {why}"),
        )
        .hint("name it with --url")
    })
}

/// The value of a flag such as `--for`: `90s`, `10m`, `24h`, `7d`.
pub fn time(invocation: &Invocation, flag: &str, most: Duration) -> Result<Option<Duration>> {
    let Some(text) = invocation.value(flag)? else {
        return Ok(None);
    };
    let time = humantime::parse_duration(text).ok();
    match time.filter(|t| (Duration::from_secs(1)..=most).contains(t)) {
        Some(time) => Ok(Some(time)),
        None => Err(invocation.usage(format!(
            "bad value for --{flag}: must be a time such as 90s, 10m or 24h, at most {}",
            humantime::format_duration(most)
        ))),
    }
}

/// `mesync hub page`
pub fn page(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let settings = &context.settings;
    let url = match invocation.value("url")? {
        Some(url) => config::check_url(url)
            .map_err(|e| invocation.usage(format!("bad value for --url: {e}")))?,
        None if settings.hub.plain == PlainHttp::All => url(settings)?,
        None => pins::secured(&url(settings)?),
    };
    let answer = local_client(settings)?.page_token().map_err(|f| f.error)?;
    let address = format!("{url}/#{}", answer.token);
    if context.out.json {
        let object = serde_json::json!({ "url": address, "until": answer.expires_at });
        context.out.object(&object);
    } else {
        context.out.line(&address);
    }
    Ok(CommandEnd::All)
}

/// `mesync hub renew-certificate`
pub fn renew_certificate(context: &mut Context, _: &Invocation) -> Result<CommandEnd> {
    let dir = &context.settings.hub.data_dir;
    find_hub(dir)?;
    let (fingerprint, from) = certificate::renew(dir)?;
    if context.out.json {
        let object =
            serde_json::json!({ "fingerprint": fingerprint, "from": clock::rfc3339(from) });
        context.out.object(&object);
    } else {
        context.out.line(&format!(
            "{fingerprint} is the hub's certificate from {} on: machines that call the hub until then know it",
            clock::local(from)
        ));
    }
    Ok(CommandEnd::All)
}
