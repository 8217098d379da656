//! Commands about the client of this machine: run it, show its status and that of its hub. `daemon` and `client` do the work.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_channel::after;
use serde::Serialize;

use super::output::Output;
use super::parse::Invocation;
use super::{CommandEnd, Context, all_of, directories};
use crate::config::Settings;
use crate::daemon::servers;
use crate::error::{Error, Kind, Result};
use crate::files::overview::{self, DirectoryRow};
use crate::messages::Queue;
use crate::messages::hooks::{self, Programs};
use crate::messages::lock::{self, Client};
use crate::messages::spool::survey::{self, survey};
use crate::service::{self, Signals};
use crate::wire::fleet::MachineCondition;
use crate::{clock, daemon, disk, logger};

/// `mesync start [--once]`
pub fn start(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let settings = &Arc::new(super::watches::with_watches(&context.settings, invocation)?);
    if !invocation.has("once") {
        let signals = Signals::start()?;
        let client = daemon::Daemon::start(settings, daemon::ClientHalves::Both)?;
        let read = || super::watches::with_watches(&super::read_settings(invocation)?, invocation);
        return service::run(&signals, super::parts::of(client, settings)?, &read)
            .map(|()| CommandEnd::All);
    }
    if super::join::ask_once_if_refused(settings)? {
        context.settings = Arc::new(super::read_settings(invocation)?);
        return start(context, invocation);
    }
    let Some(lock) = daemon::lock(settings)? else {
        // silent, because cron mails all output, and the running client does the work
        return if std::io::stderr().is_terminal() || invocation.has("verbose") {
            Err(daemon::another_client(settings))
        } else {
            Ok(CommandEnd::NotAll(Kind::Busy))
        };
    };
    // run both halves, even if one fails
    let exchanged =
        daemon::once(settings, lock).map(|left| left.map_or(CommandEnd::All, CommandEnd::NotAll));
    let synced = super::sync::all_once(settings);
    all_of([exchanged, synced, all_done(settings)])
}

/// Reports remaining work after a pass; [`CommandEnd::All`] if there is none.
fn all_done(settings: &Settings) -> Result<CommandEnd> {
    let messages = |queue| survey(&settings.base_dir, queue).map(|s| s.count);
    let (outbox, failed) = (messages(Queue::Outbox)?, messages(Queue::Failed)?);
    let hooks = HookCounts::of(settings)?;
    let left = [
        (outbox, "message", "in outbox/"),
        (failed, "message", "in failed/"),
        (hooks.waiting, "hook", "to run"),
        (hooks.failed, "hook", "failed"),
    ];
    let left = left
        .into_iter()
        .filter(|(n, ..)| *n > 0)
        .map(|(n, noun, how)| format!("{} {how}", super::counted(n as u64, noun)));
    let left: Vec<String> = left.collect();
    if left.is_empty() {
        return Ok(CommandEnd::All);
    }
    log::warn!("work remains: {} (see \"mesync status\")", left.join(", "));
    Ok(CommandEnd::NotAll(Kind::Failed))
}

/// The number of hooks by state.
struct HookCounts {
    waiting: usize,
    failed: usize,
    /// Failed hooks whose programs were removed since.
    gone: usize,
}

impl HookCounts {
    fn of(settings: &Settings) -> Result<HookCounts> {
        let records = hooks::list(&settings.base_dir)?;
        let mut programs = Programs::new(&settings.base_dir);
        let all_failed = records.iter().filter(|r| r.is_failed()).count();
        let gone = records.iter().filter(|r| programs.has_outlived(r)).count();
        Ok(HookCounts {
            waiting: records.len() - all_failed,
            failed: all_failed - gone,
            gone,
        })
    }
}

/// The status of a client, its queues and its hub.
#[derive(Serialize)]
struct ClientStatus {
    healthy: bool,
    host: String,
    base_dir: String,
    /// The process id; `None`: no client runs.
    client: Option<String>,
    /// If no client runs: when the last one wrote its status, or ended.
    client_seen_at: Option<String>,
    /// A problem of the client, or how it ended; `None`: no problem is known.
    problem: Option<String>,
    hub: HubStatus,
    outbox: QueueStatus,
    inbox: QueueStatus,
    sent: QueueStatus,
    failed: QueueStatus,
    hooks_waiting: usize,
    hooks_failed: usize,
    hooks_gone: usize,
    directories: Vec<DirectoryRow>,
}

#[derive(Serialize)]
struct HubStatus {
    url: String,
    reachable: bool,
    version: Option<String>,
    /// `false`: a server for files only, such as `s3em`; messages need a hub.
    keeps_messages: bool,
    /// A problem with the hub.
    problem: Option<String>,
    /// Messages that wait on the hub for this machine; `None`: the hub did not answer.
    queued: Option<u64>,
    oldest_queued_at: Option<String>,
    /// The hub's time of the last pull of this machine.
    last_seen_at: Option<String>,
    /// Seconds since the last call of this machine, by the hub's clock.
    silent: Option<u64>,
    /// The hub knows this machine, and counts it as silent.
    #[serde(skip)]
    is_silent: bool,
}

#[derive(Serialize)]
struct QueueStatus {
    messages: usize,
    bytes: u64,
    oldest_at: Option<String>,
    #[serde(skip)]
    oldest: Option<SystemTime>,
}

/// The interval of `status --watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// A running process that has not called the hub for this time, and three times `poll_interval`, does not work.
const SILENT_TIME: Duration = Duration::from_secs(300);

/// `mesync status`: [`CommandEnd::NotAll`] if this machine is degraded.
pub fn status(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    if !invocation.has("watch") {
        return status_once(context);
    }
    loop {
        context.out.begin_picture();
        let done = status_once(context)?;
        context.out.flush();
        if context.out.is_over() {
            return Ok(done);
        }
        let _ = after(WATCH_INTERVAL).recv();
    }
}

fn status_once(context: &mut Context) -> Result<CommandEnd> {
    let settings = &context.settings;
    let base = &settings.base_dir;
    let hooks = HookCounts::of(settings)?;
    let (client, at) = lock::read(base);
    let hub = ask_hub(settings);
    let directories = overview::rows(base, &settings.watches);
    let syncing = directories.iter().find_map(|row| row.process.as_deref());
    let problem = client_problem(settings, (&client, at), syncing, &hub);
    let client = if let Client::Running { process, .. } = client {
        Some(process)
    } else {
        None
    };
    let mut status = ClientStatus {
        healthy: false,
        host: settings.host_id.clone(),
        base_dir: disk::show(base.as_os_str()),
        client_seen_at: at.filter(|_| client.is_none()).map(clock::rfc3339),
        client,
        problem,
        hub,
        outbox: queue_status(settings, Queue::Outbox)?,
        inbox: queue_status(settings, Queue::Inbox)?,
        sent: queue_status(settings, Queue::Sent)?,
        failed: queue_status(settings, Queue::Failed)?,
        hooks_waiting: hooks.waiting,
        hooks_failed: hooks.failed,
        hooks_gone: hooks.gone,
        directories,
    };
    let stuck_here = survey::is_behind(status.outbox.oldest);
    let stuck_there = survey::is_behind(
        status
            .hub
            .oldest_queued_at
            .as_deref()
            .and_then(clock::parse_rfc3339),
    );
    let reasons = degraded(&status, stuck_here, stuck_there);
    status.healthy = reasons.is_empty();
    if context.out.json {
        context.out.object(&status);
    } else {
        print(&status, &reasons, &mut context.out);
    }
    Ok(if status.healthy {
        CommandEnd::All
    } else {
        CommandEnd::NotAll(Kind::Failed)
    })
}

/// Why this machine is degraded, a few words each; empty: it is healthy.
fn degraded(s: &ClientStatus, stuck_here: bool, stuck_there: bool) -> Vec<String> {
    let not_healthy = s.directories.iter().filter(|d| !d.healthy);
    let (with_problems, not_in_sync): (Vec<_>, Vec<_>) = not_healthy.partition(|d| d.is_in_sync());
    let when = |so: bool, words: &str| so.then(|| words.to_string());
    let count = |n: usize, noun: &str, how: &str| {
        (n > 0).then(|| format!("{} {how}", super::counted(n as u64, noun)))
    };
    [
        when(s.problem.is_some(), "client problem"),
        when(s.hub.problem.is_some(), "hub problem"),
        when(stuck_here, "outbox is behind"),
        when(stuck_there, "messages wait on the hub"),
        count(s.failed.messages, "message", "failed"),
        count(s.hooks_failed, "hook", "failed"),
        count(not_in_sync.len(), "directory", "not in sync"),
        count(with_problems.len(), "directory", "with problems"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The problem of the client: from its lock file, from a failed write to that, or from the hub, which has not seen it.
/// `syncing`: the process of a directory.
fn client_problem(
    settings: &Settings,
    (client, at): (&Client, Option<SystemTime>),
    syncing: Option<&str>,
    hub: &HubStatus,
) -> Option<String> {
    let long = SILENT_TIME.max(settings.poll_interval * 3);
    match client {
        Client::Stopped => {
            let (process, silent) = syncing.zip(hub.silence(long))?;
            Some(format!(
                "process {process} syncs directories, and has not called the hub {silent}; if its log does not say why, start it again"
            ))
        }
        Client::Failed(why) => Some(format!("the client has failed{}: {why}", clock::ago(at))),
        Client::Died { process } => Some(format!(
            "the client (process {process}) has died: it was not stopped, and last wrote how it is{}; see its log, and start it again",
            clock::ago(at)
        )),
        Client::Running {
            problem: Some(problem),
            ..
        } => Some(format!("{problem} (told{})", clock::ago(at))),
        Client::Running {
            is_starting: true, ..
        } => Some(format!(
            "the client started{}, and the hub has not answered yet",
            clock::ago(at)
        )),
        Client::Running { .. } => {
            let told_lately = at.and_then(clock::since).is_some_and(|age| age < long);
            let silent = hub.silence(long).filter(|_| !told_lately);
            let silent = silent.map(|silent| {
                format!("the client runs, and has not asked the hub for messages {silent}")
            });
            let unwritable = |(dir, e): (PathBuf, _)| {
                Error::io(format!("write to {}", dir.display()), &e).to_string()
            };
            silent.or_else(|| survey::unwritable(&settings.base_dir).map(unwritable))
        }
    }
}

impl HubStatus {
    fn unknown(url: &str) -> HubStatus {
        HubStatus {
            url: url.to_string(),
            reachable: false,
            version: None,
            keeps_messages: true,
            problem: None,
            queued: None,
            oldest_queued_at: None,
            last_seen_at: None,
            silent: None,
            is_silent: false,
        }
    }

    /// For how long the hub has not heard from this machine, in words, if that is `long`.
    fn silence(&self, long: Duration) -> Option<String> {
        match self.silent.map(Duration::from_secs) {
            Some(silent) => (silent >= long).then(|| format!("for {}", clock::age(silent))),
            None => self
                .is_silent
                .then(|| "since the hub was started".to_string()),
        }
    }
}

fn print(s: &ClientStatus, reasons: &[String], out: &mut Output) {
    let queue = |q: &QueueStatus, out: &Output| match q.oldest {
        Some(at) => {
            let age = clock::since(at).map_or("a moment".into(), clock::age);
            format!("{} ({}, oldest {age})", q.messages, out.size(q.bytes))
        }
        None => "0".into(),
    };
    let see = |n: usize, command: &str| {
        if n > 0 {
            format!(": see \"mesync {command}\"")
        } else {
            String::new()
        }
    };
    let client = match (
        &s.client,
        s.client_seen_at.as_deref().and_then(clock::parse_rfc3339),
    ) {
        (Some(process), _) => format!("running, process {process}"),
        (None, None) => "not running".into(),
        (None, at) => format!("not running; the last one ended{}", clock::ago(at)),
    };
    let seen = s.hub.silent.map_or(String::new(), |silent| {
        format!(
            "; this machine last asked {} ago",
            clock::age(Duration::from_secs(silent))
        )
    });
    let hub = match (&s.hub.problem, &s.hub.version) {
        (Some(problem), _) => logger::one_line(problem),
        (None, _) if !s.hub.keeps_messages => format!(
            "{} is up; it keeps files only, as s3em does: messages need a mesync hub",
            s.hub.url
        ),
        (None, version) => format!(
            "{} is up, mesync {}",
            s.hub.url,
            version.as_deref().unwrap_or("of unknown version")
        ),
    };
    let gone = if s.hooks_gone > 0 {
        format!(", {} of hooks that are gone", s.hooks_gone)
    } else {
        String::new()
    };
    let hooks = format!(
        "{} to run, {} failed{gone}",
        s.hooks_waiting, s.hooks_failed
    );
    let lines = [
        ("host", format!("{} in {}", s.host, s.base_dir)),
        ("client", client),
        ("hub", hub),
        (
            "on the hub",
            match s.hub.queued {
                Some(n) => n.to_string() + &seen,
                None if !s.hub.keeps_messages => "no messages".into(),
                None => "unknown".to_string() + &seen,
            },
        ),
        ("outbox", queue(&s.outbox, out)),
        ("inbox", queue(&s.inbox, out)),
        ("sent", queue(&s.sent, out)),
        (
            "failed",
            queue(&s.failed, out) + &see(s.failed.messages, "list failed"),
        ),
        (
            "hooks",
            hooks + &see(s.hooks_failed + s.hooks_gone, "list hooks"),
        ),
    ];
    let line = |out: &mut Output, name: &str, text: &str| {
        let name = out.bold(&format!("{name:<13}"));
        out.line(&format!("{name} {text}"));
    };
    lines.iter().for_each(|(name, text)| line(out, name, text));
    if let Some(problem) = &s.problem {
        line(out, "problem", &logger::one_line(problem));
    }
    s.directories
        .iter()
        .for_each(|directory| directories::print(directory, out));
    let verdict = match reasons {
        [] => "healthy".to_string(),
        some => format!("degraded: {}", some.join(", ")),
    };
    line(out, "status", &verdict);
}

fn queue_status(settings: &Settings, queue: Queue) -> Result<QueueStatus> {
    let entries = survey(&settings.base_dir, queue)?;
    Ok(QueueStatus {
        messages: entries.count,
        bytes: entries.bytes,
        oldest_at: entries.oldest.map(clock::rfc3339),
        oldest: entries.oldest,
    })
}

fn ask_hub(settings: &Arc<Settings>) -> HubStatus {
    let mut status = HubStatus::unknown(&settings.server_url);
    let hub = match servers::messages(settings) {
        Ok(hub) => hub,
        Err(e) => {
            return HubStatus {
                problem: Some(e.to_string()),
                ..status
            };
        }
    };
    let health = hub.health();
    status.url = hub.url().to_string();
    match health {
        Ok(health) => {
            status.reachable = true;
            if health.status != "ok" {
                status.problem = Some(format!("hub {} is {}", hub.url(), health.status));
            }
            status.keeps_messages =
                !health.version.is_empty() || health.features.iter().any(|f| f == "messages");
            status.version = Some(health.version).filter(|v| !v.is_empty());
        }
        Err(failure) => status.problem = Some(failure.error.to_string()),
    }
    if status.reachable && status.keeps_messages {
        match hub.hosts() {
            Ok(hosts) => {
                let me = hosts.into_iter().find(|h| h.name == settings.host_id);
                if let Some(doubt) = me.as_ref().and_then(|h| h.doubt) {
                    status.problem = Some(doubt.words(&settings.host_id));
                }
                status.queued = Some(me.as_ref().map_or(0, |h| h.queued));
                status.silent = me.as_ref().and_then(|h| h.silent);
                let condition = me.as_ref().map(|h| h.condition);
                status.is_silent = condition == Some(MachineCondition::Silent);
                status.last_seen_at = me.as_ref().and_then(|h| h.last_seen.clone());
                status.oldest_queued_at = me.and_then(|h| h.oldest_queued_at);
            }
            Err(failure) => status.problem = Some(failure.error.to_string()),
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_and_does_not_call_the_hub_is_a_problem() {
        let settings = Settings::default();
        let check = |syncing: Option<&str>, silent, is_silent, wants: Option<&str>| {
            let hub = HubStatus {
                silent,
                is_silent,
                ..HubStatus::unknown("http://hub")
            };
            let problem = client_problem(&settings, (&Client::Stopped, None), syncing, &hub);
            match wants {
                Some(wants) => assert!(problem.as_ref().unwrap().contains(wants), "{problem:?}"),
                None => assert_eq!(problem, None, "{syncing:?} {silent:?} {is_silent}"),
            }
        };
        check(Some("7"), Some(299), true, None);
        check(Some("7"), Some(300), true, Some("process 7"));
        check(Some("7"), Some(300), true, Some("for 5 min"));
        check(Some("7"), None, true, Some("since the hub was started"));
        // a hub for files only, or one that does not know the machine
        check(Some("7"), None, false, None);
        // a pass from cron was here an hour ago
        check(None, Some(3600), true, None);
    }
}
