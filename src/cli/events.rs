//! `mesync events`: shows past and new changes of files on the hub.

use std::time::Duration;

use super::output::Output;
use super::parse::Invocation;
use super::{CommandEnd, Context, note};
use crate::backoff::Backoff;
use crate::client::{HubClient, HubResult};
use crate::daemon::servers;
use crate::error::Result;
use crate::logger::one_line;
use crate::wire::files::{FileEvent, PAGE};
use crate::wire::revision::Revision;
use crate::wire::scope::Scope;
use crate::{clock, wire};

/// The default age of the oldest event shown.
const RECENT_TIME: Duration = Duration::from_secs(86_400);
/// Between two attempts to reopen the stream at most.
const RECONNECT_PAUSE: Duration = Duration::from_secs(15);

/// `mesync events [--follow]`
pub fn events(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let follow = invocation.has("follow");
    let since = match invocation.value("since")? {
        Some(text) => Some(parse_since(text).ok_or_else(|| {
            let what = format!(
                "bad value for --since: \"{}\" is neither a time such as 2026-11-21T10:30:00Z nor an age such as 2h",
                wire::brief(text)
            );
            invocation.usage(what)
        })?),
        None => (!follow).then(|| clock::rfc3339(clock::now() - RECENT_TIME)),
    };
    let hub = servers::files(&context.settings)?;
    let out = &mut context.out;
    // the stream begins at the revision before the history is read, so that no event between them is missed
    let mut last = if follow { now_at(&hub)? } else { None };
    if let Some(since) = since {
        let shown = history(&hub, &since, out)?;
        last = last.max(Some(shown).filter(|_| last.is_some()));
        if shown.rev == 0 && !follow {
            note(&format!(
                "no events since {}",
                clock::parse_rfc3339(&since).map_or(since, clock::local)
            ));
        }
    }
    if follow {
        stream(&hub, last, out)
    } else {
        Ok(CommandEnd::All)
    }
}

/// Accepts RFC 3339, or an age.
fn parse_since(text: &str) -> Option<String> {
    if let Some(at) = clock::parse_rfc3339(text) {
        return Some(clock::rfc3339(at));
    }
    let age = humantime::parse_duration(text).ok()?;
    clock::now().checked_sub(age).map(clock::rfc3339)
}

/// The latest revision; `None`: the server has no revisions.
fn now_at(hub: &HubClient) -> HubResult<Option<Revision>> {
    if hub.is_ours()? {
        hub.changes(0, Revision::default(), None, 1, &Scope::default())
            .map(|changes| Some(changes.rev.into()))
    } else {
        Ok(None)
    }
}

/// Shows past events; returns the latest revision among them.
fn history(hub: &HubClient, since: &str, out: &mut Output) -> Result<Revision> {
    let (mut offset, mut last) = (0, Revision::default());
    loop {
        let (events, rows) = hub.history(Some(since), PAGE, offset)?;
        for event in &events {
            show(event, out);
            last = last.max(event.payload.revision()).max(1.into());
        }
        offset += rows as u64;
        if rows == 0 || out.is_over() {
            return Ok(last);
        }
    }
}

/// Shows new events until standard output is closed; reopens the stream when it breaks.
fn stream(hub: &HubClient, mut last: Option<Revision>, out: &mut Output) -> Result<CommandEnd> {
    let mut backoff = Backoff::new(RECONNECT_PAUSE);
    let mut opened = false;
    loop {
        out.flush();
        match follow(hub, &mut last, &mut backoff, &mut opened, out) {
            Ok(()) if out.is_over() => return Ok(CommandEnd::All),
            Ok(()) => log::info!("event stream ended; reopening it"),
            Err(failure) if failure.status == 410 => {
                log::warn!("some events have expired on the hub");
                last = now_at(hub)?;
            }
            // the first attempt's failure is the command's error
            Err(failure) if !opened || !failure.is_transient() => return Err(failure.error),
            Err(failure) => log::warn!("{}; retrying", failure.error.what),
        }
        std::thread::park_timeout(backoff.next(uuid::Uuid::new_v4().as_u64_pair().0));
    }
}

fn follow(
    hub: &HubClient,
    last: &mut Option<Revision>,
    backoff: &mut Backoff,
    opened: &mut bool,
    out: &mut Output,
) -> HubResult<()> {
    let mut events = hub.file_events(*last)?;
    *opened = true;
    backoff.reset();
    while let Some(event) = events.next_event()? {
        let at = event.payload.revision();
        if at.rev > 0 && last.is_some_and(|last| at.rev <= last.rev) {
            continue;
        }
        *last = last.map(|last| last.max(at));
        show(&event, out);
        out.flush();
        if out.is_over() {
            break;
        }
    }
    Ok(())
}

fn show(event: &FileEvent, out: &mut Output) {
    if out.json {
        return out.object(event);
    }
    let at = event
        .created_at
        .as_deref()
        .or(Some(&event.payload.updated_at))
        .and_then(clock::parse_rfc3339);
    let at = at.map_or_else(|| clock::local(clock::now()), clock::local);
    let kind = one_line(event.kind.trim_start_matches("file_"));
    let by = event
        .payload
        .host
        .as_ref()
        .map_or(String::new(), |host| format!("  by {}", one_line(host)));
    let size = out.size(event.payload.size);
    out.line(&format!(
        "{at}  {kind:8}  {size:>10}  {}{by}",
        one_line(&event.payload.full_name())
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ages_say_since_when() {
        assert_eq!(
            parse_since("2026-11-21T10:30:00+01:00").as_deref(),
            Some("2026-11-21T09:30:00.000Z")
        );
        let before = clock::now() - Duration::from_secs(7200);
        let at = parse_since("2h")
            .and_then(|t| clock::parse_rfc3339(&t))
            .unwrap();
        assert!(at.duration_since(before).unwrap_or_default() < Duration::from_secs(60));
        assert_eq!(parse_since("soon"), None);
    }
}
