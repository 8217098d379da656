//! The hosts that a hub knows, and to which machine the queue of one belongs.

use super::output::{Output, left, right};
use super::parse::Invocation;
use super::{Context, Done};
use crate::clock;
use crate::daemon::servers;
use crate::error::Result;
use crate::messages::{exchange, spool};
use crate::wire::{self, Doubt, HostInfo};

/// `mesync hosts`
pub fn hosts(context: &mut Context, _: &Invocation) -> Result<Done> {
    let hub = servers::messages(&context.settings)?;
    let hosts = hub.hosts().map_err(|failure| failure.error)?;
    show_hosts(&hosts, &mut context.out);
    Ok(Done::All)
}

fn show_hosts(hosts: &[HostInfo], out: &mut Output) {
    if out.json {
        hosts.iter().for_each(|h| out.object(h));
        return;
    }
    let time = |text: &Option<String>| {
        text.as_deref()
            .and_then(clock::parse_rfc3339)
            .map_or("-".into(), clock::local)
    };
    let row = |h: &HostInfo| {
        // names are checked by an honest hub
        let doubt = match h.doubt {
            None => "",
            Some(Doubt::SetBack) => " (set back?)",
            Some(Doubt::Cloned) => " (cloned)",
        };
        let name = wire::brief(&h.name) + if h.stale { " (stale)" } else { "" } + doubt;
        vec![
            name,
            time(&h.first_seen),
            time(&h.last_seen),
            h.queued.to_string(),
            time(&h.oldest_queued_at),
        ]
    };
    let rows: Vec<Vec<String>> = hosts.iter().map(row).collect();
    out.table(
        &[
            left("HOST"),
            left("FIRST SEEN"),
            left("LAST SEEN"),
            right("QUEUED"),
            left("OLDEST"),
        ],
        &rows,
    );
}

/// `mesync hosts rebind HOST`
pub fn rebind(context: &mut Context, invocation: &Invocation) -> Result<Done> {
    let settings = &context.settings;
    let host = wire::check_host(invocation.argument(0)?).map_err(|e| invocation.usage(e))?;
    let hub = servers::messages(settings)?;
    // requested on the machine itself: only this one is admitted. Elsewhere: the next one that calls
    let instance = if host == settings.host_id {
        spool::create(&settings.base_dir)?;
        Some(exchange::instance(
            settings.base_dir.join("state/instance"),
        )?)
    } else {
        None
    };
    let row = hub
        .rebind(&host, instance)
        .map_err(|failure| failure.error)?;
    show_hosts(&[row], &mut context.out);
    Ok(Done::All)
}
