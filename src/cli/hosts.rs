//! The machines that the hub knows: how each is, a wait until all are in sync, and which machine has a name.

use std::time::{Duration, Instant};

use crossbeam_channel::after;

use super::output::{Output, left, right};
use super::parse::Invocation;
use super::{CommandEnd, Context, admit};
use crate::daemon::servers;
use crate::error::{Kind, Result};
use crate::messages::{identity, spool};
use crate::wire::fleet::{MAX_STATE_AGE, MachineCondition};
use crate::wire::{self, HostInfo, IdentityDoubt};
use crate::{clock, logger};

const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Machines that one line names.
const MAX_NAMED: usize = 10;
const MAX_WAIT: Duration = Duration::from_secs(86_400);
/// Consecutive reports in which every machine must be in sync: what a machine has sent before its first report, the others have
/// taken before their second.
const REPORTS: u32 = 2;

/// `mesync hosts [--wait TIME] [HOST...]`: with a time, [`CommandEnd::NotAll`] if not all of them are in sync when it is over.
pub fn hosts(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let wait = admit::time(invocation, "wait", MAX_WAIT)?;
    let named: Vec<String> = (0..invocation.arguments.len())
        .map(|n| wire::check_host(invocation.argument(n)?).map_err(|e| invocation.usage(e)))
        .collect::<Result<_>>()?;
    let hub = servers::messages(&context.settings)?;
    let ask = || -> Result<Vec<HostInfo>> {
        let hosts = hub.hosts().map_err(|failure| failure.error)?;
        Ok(chosen(hosts, &named))
    };
    let Some(wait) = wait else {
        show(&ask()?, &mut context.out);
        return Ok(CommandEnd::All);
    };
    let end = clock::monotonic() + wait;
    let mut reports = InSyncReports::since(clock::monotonic());
    loop {
        let hosts = ask()?;
        let now = clock::monotonic();
        let done = reports.take(&hosts, now);
        if !done && now < end {
            let _ = after(LOOK_INTERVAL).recv();
            continue;
        }
        if done {
            show(&hosts, &mut context.out);
            return Ok(CommandEnd::All);
        }
        let left = hosts.iter().filter(|h| !is_in_sync(h));
        let left: Vec<&str> = left.map(|h| h.name.as_str()).collect();
        log::warn!("the time is over: {}", missing(&left));
        show(&hosts, &mut context.out);
        return Ok(CommandEnd::NotAll(Kind::Failed));
    }
}

fn missing(names: &[&str]) -> String {
    let shown = names.iter().take(MAX_NAMED).map(|name| wire::brief(name));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "the machines were in sync, but have not reported so twice since".into(),
        1 => format!("1 machine is not in sync: {shown}"),
        n if n <= MAX_NAMED => format!("{n} machines are not in sync: {shown}"),
        n => format!("{n} machines are not in sync: {shown} and others"),
    }
}

/// The named machines, including those that the hub does not know, or all machines; degraded ones first.
fn chosen(mut hosts: Vec<HostInfo>, named: &[String]) -> Vec<HostInfo> {
    if !named.is_empty() {
        hosts.retain(|host| named.contains(&host.name));
        let known: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
        let unknown = named.iter().filter(|name| !known.contains(name));
        hosts.extend(unknown.map(|name| HostInfo {
            name: name.clone(),
            reason: Some("the hub does not know it".into()),
            ..HostInfo::default()
        }));
    }
    hosts.sort_by(|a, b| (a.condition, &a.name).cmp(&(b.condition, &b.name)));
    hosts
}

/// Which reports of the machines count: a state that was read before a moment tells nothing of changes after it.
struct InSyncReports {
    since: Instant,
    taken: u32,
}

impl InSyncReports {
    fn since(since: Instant) -> InSyncReports {
        InSyncReports { since, taken: 0 }
    }

    /// Returns whether all machines have been in sync for the required number of reports.
    fn take(&mut self, hosts: &[HostInfo], now: Instant) -> bool {
        if !hosts.iter().all(is_in_sync) {
            *self = InSyncReports::since(now);
            return false;
        }
        let passed = now.saturating_duration_since(self.since);
        // whole seconds are rounded down
        let read = |h: &HostInfo| {
            let age = Duration::from_secs(h.state_age? + 1);
            Some(age + MAX_STATE_AGE)
        };
        if hosts
            .iter()
            .all(|h| read(h).is_some_and(|age| age <= passed))
        {
            (self.since, self.taken) = (now, self.taken + 1);
        }
        self.taken >= REPORTS
    }
}

fn is_in_sync(host: &HostInfo) -> bool {
    host.condition == MachineCondition::InSync
}

fn show(hosts: &[HostInfo], out: &mut Output) {
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
            Some(IdentityDoubt::SetBack) => " (set back?)",
            Some(IdentityDoubt::Cloned) => " (cloned)",
        };
        let name = wire::brief(&h.name) + if h.stale { " (stale)" } else { "" } + doubt;
        vec![
            name,
            h.condition.words().to_string(),
            time(&h.first_seen),
            time(&h.last_seen),
            h.queued.to_string(),
            time(&h.oldest_queued_at),
            h.reason
                .as_deref()
                .map(logger::one_line)
                .unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = hosts.iter().map(row).collect();
    out.table(
        &[
            left("HOST"),
            left("STATE"),
            left("FIRST SEEN"),
            left("LAST SEEN"),
            right("QUEUED"),
            left("OLDEST"),
            left("WHY"),
        ],
        &rows,
    );
}

/// `mesync hosts remove HOST`
pub fn remove(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let host = wire::check_host(invocation.argument(0)?).map_err(|e| invocation.usage(e))?;
    let hub = servers::messages(&context.settings)?;
    hub.remove_host(&host).map_err(|failure| failure.error)?;
    if context.out.json {
        let object = serde_json::json!({ "name": host, "removed": true });
        context.out.object(&object);
    } else {
        context.out.line(&format!("{host}: removed"));
    }
    Ok(CommandEnd::All)
}

/// `mesync hosts rebind HOST`
pub fn rebind(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let settings = &context.settings;
    let host = wire::check_host(invocation.argument(0)?).map_err(|e| invocation.usage(e))?;
    let hub = servers::messages(settings)?;
    // requested on the machine itself: only this one is admitted. Elsewhere: the next one that calls
    let instance = if host == settings.host_id {
        spool::create(&settings.base_dir)?;
        Some(identity::instance(&settings.base_dir)?)
    } else {
        None
    };
    let row = hub
        .rebind(&host, instance)
        .map_err(|failure| failure.error)?;
    show(&[row], &mut context.out);
    Ok(CommandEnd::All)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_in_sync_when_two_reports_in_a_row_say_so() {
        let start = clock::monotonic();
        let mut reports = InSyncReports::since(start);
        let mut check = |second: u64, states: &[(MachineCondition, u64)], wants| {
            let host = |(condition, age): &(MachineCondition, u64)| HostInfo {
                condition: *condition,
                state_age: Some(*age),
                ..HostInfo::default()
            };
            let hosts: Vec<HostInfo> = states.iter().map(host).collect();
            let now = start + Duration::from_secs(second);
            assert_eq!(reports.take(&hosts, now), wants, "{second} {states:?}");
        };
        let (fine, busy) = (MachineCondition::InSync, MachineCondition::Syncing);
        // from before the wait
        check(0, &[(fine, 0), (fine, 0)], false);
        check(5, &[(fine, 0), (fine, 1)], false);
        check(6, &[(fine, 0), (fine, 1)], false);
        // the first is of second 6, the next one counts from there
        check(10, &[(fine, 0), (fine, 0)], false);
        check(11, &[(fine, 0), (busy, 0)], false);
        check(15, &[(fine, 0), (fine, 0)], false);
        check(16, &[(fine, 0), (fine, 0)], false);
        check(20, &[(fine, 0), (fine, 0)], false);
        check(21, &[(fine, 0), (fine, 0)], true);
    }
}
