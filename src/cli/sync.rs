//! Commands about synced directories. `daemon` and `files` do the work.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::output::{left, right};
use super::parse::Invocation;
use super::progress::PathProgress;
use super::watches::watches;
use super::{CommandEnd, Context, all_of, counted, note};
use crate::client::HubClient;
use crate::clock;
use crate::config::Settings;
use crate::config::watch::WatchSettings;
use crate::daemon::once::PassProgress;
use crate::daemon::{ClientHalves, Daemon, once, servers};
use crate::error::{Error, Kind, Result};
use crate::files::delete_guard::DeleteLimits;
use crate::files::directory::{Directory, ProcessWide};
use crate::files::engine::Preview;
use crate::files::overview::real;
use crate::files::plan::Action;
use crate::files::stats::{Facts, NAMED};
use crate::files::status::StatusFiles;
use crate::files::tree::marker;
use crate::logger::one_line;
use crate::service::{self, Signals};

fn some(settings: &Settings, invocation: &Invocation) -> Result<Vec<WatchSettings>> {
    let watches = watches(settings, invocation)?;
    if watches.is_empty() {
        Err(invocation.usage("which directory? name it here, or under [[watch]] in config.toml"))
    } else {
        Ok(watches)
    }
}

/// `mesync daemon [-w DIR]`
pub fn daemon(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let watches = some(&context.settings, invocation)?;
    // after the start, the daemon waits until another process, such as a pass of cron, has ended
    if let Some((watch, holder)) = watches
        .iter()
        .find_map(|watch| Some((watch, marker::holder(&watch.path)?)))
    {
        return Err(marker::busy(&watch.path, &holder));
    }
    let settings = Arc::new(Settings {
        watches,
        ..(*context.settings).clone()
    });
    let signals = Signals::start()?;
    let client = Daemon::start(&settings, ClientHalves::Files)?;
    let read = || {
        let settings = super::read_settings(invocation)?;
        Ok(Settings {
            watches: some(&settings, invocation)?,
            ..settings
        })
    };
    let parts = super::parts::of(client, &settings)?;
    service::run(&signals, parts, &read).map(|()| CommandEnd::All)
}

/// `mesync sync [-w DIR]`
pub fn sync(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    if super::join::ask_if_refused(&context.settings)? {
        context.settings = Arc::new(super::read_settings(invocation)?);
    }
    let watches = some(&context.settings, invocation)?;
    let hub = Arc::new(servers::files(&context.settings)?);
    let allow_deletes = invocation.has("allow-deletes");
    if invocation.has("dry-run") {
        let each = watches.iter();
        return all_of(each.map(|watch| dry_run(context, watch, &hub, allow_deletes)));
    }
    let line = PathProgress::new(invocation.has("quiet"));
    let settings = context.settings.clone();
    let passes = DirectoryPasses {
        settings: &settings,
        hub: &hub,
        allow_deletes,
        show: &|p| line.show(p.done, p.due, p.bytes),
    };
    passes.pass_all(&watches, &mut |watch, passed| {
        line.clear();
        tell(context, passed, watch);
    })
}

fn done(passed: &once::PassResult) -> CommandEnd {
    passed.failure().map_or(CommandEnd::All, CommandEnd::NotAll)
}

/// Runs one pass over all directories of the settings, silent except for problems.
pub fn all_once(settings: &Arc<Settings>) -> Result<CommandEnd> {
    if settings.watches.is_empty() {
        return Ok(CommandEnd::All);
    }
    let hub = Arc::new(servers::files(settings)?);
    DirectoryPasses {
        settings,
        hub: &hub,
        allow_deletes: false,
        show: &|_| (),
    }
    .pass_all(&settings.watches, &mut |_, _| ())
}

/// The passes over several directories.
struct DirectoryPasses<'a> {
    settings: &'a Settings,
    hub: &'a Arc<HubClient>,
    allow_deletes: bool,
    show: &'a dyn Fn(PassProgress),
}

impl DirectoryPasses<'_> {
    /// Passes over each directory, then again over those with held deletes if another directory has received files since: the
    /// deleted ones may have been moved there.
    fn pass_all(
        &self,
        watches: &[WatchSettings],
        tell: &mut dyn FnMut(&WatchSettings, &once::PassResult),
    ) -> Result<CommandEnd> {
        let process = Arc::<ProcessWide>::default();
        // directories stay open for the question about moves
        let (mut open, mut held) = (Vec::new(), Vec::new());
        let first = watches.iter().map(|watch| {
            let (directory, passed) = self.pass(watch, &process)?;
            if passed.held > 0 && watches.len() > 1 {
                held.push((
                    watch,
                    directory.engine.arrivals_elsewhere(),
                    directory,
                    passed,
                ));
                return Ok(CommandEnd::All);
            }
            open.push(directory);
            tell(watch, &passed);
            Ok(done(&passed))
        });
        let first = all_of(first);
        let second = held
            .into_iter()
            .map(|(watch, arrivals, directory, mut passed)| {
                if directory.engine.arrivals_elsewhere() != arrivals {
                    drop(directory);
                    let (directory, second) = self.pass(watch, &process)?;
                    open.push(directory);
                    passed = second.after(&passed);
                }
                tell(watch, &passed);
                Ok(done(&passed))
            });
        let second = all_of(second);
        all_of([first, second])
    }

    fn pass(
        &self,
        watch: &WatchSettings,
        process: &Arc<ProcessWide>,
    ) -> Result<(Box<Directory>, once::PassResult)> {
        let (directory, files) = once::open(
            self.settings,
            watch,
            (self.hub, process),
            self.allow_deletes,
        )?;
        let passed = once::run(&directory, files, self.hub.server_url(), self.show)?;
        Ok((directory, passed))
    }
}

/// The outcome of a pass in the output of `--json`.
#[derive(Serialize)]
struct SyncResult<'a> {
    dir: &'a str,
    in_sync: bool,
    sent: u64,
    deleted: u64,
    received: u64,
    removed: u64,
    conflicts: u64,
    bytes_sent: u64,
    bytes_received: u64,
    held_deletes: usize,
    remaining: usize,
    unsyncable: Vec<NamedReason<'a>>,
    /// Some of the remaining paths, with the reason.
    waiting: Vec<NamedReason<'a>>,
    skipped_special: u64,
    skipped_names: u64,
    first_skipped: Vec<&'a str>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct NamedReason<'a> {
    path: &'a str,
    why: String,
}

impl<'a> NamedReason<'a> {
    fn of((path, why): (&'a String, &Error)) -> NamedReason<'a> {
        let why = why.to_string();
        NamedReason { path, why }
    }
}

fn tell(context: &mut Context, passed: &once::PassResult, watch: &WatchSettings) {
    let dir = &*watch.path.to_string_lossy();
    let (facts, counts) = (&passed.facts, passed.facts.counts);
    if context.out.json {
        let skipped = [
            &facts.skipped.special,
            &facts.skipped.names,
            &facts.skipped.unknown,
        ];
        context.out.object(&SyncResult {
            dir,
            in_sync: passed.failure().is_none(),
            sent: counts.sent,
            deleted: counts.deleted,
            received: counts.placed,
            removed: counts.removed,
            conflicts: counts.set_aside,
            bytes_sent: passed.sent,
            bytes_received: passed.received,
            held_deletes: passed.held,
            remaining: passed.remaining,
            unsyncable: facts.refused.iter().map(NamedReason::of).collect(),
            waiting: waiting(facts).map(NamedReason::of).collect(),
            skipped_special: facts.skipped.special.count,
            skipped_names: facts.skipped.names.count,
            first_skipped: skipped.iter().filter_map(|e| e.first.as_deref()).collect(),
            problem: passed.trouble.as_ref().map(ToString::to_string),
        });
    } else {
        tell_people(context, passed, (dir, DeleteLimits::of(watch)));
    }
}

fn tell_people(
    context: &mut Context,
    passed: &once::PassResult,
    (dir, limits): (&str, DeleteLimits),
) {
    let (facts, counts, out) = (&passed.facts, passed.facts.counts, &mut context.out);
    let dir = one_line(dir);
    let mut did = Vec::new();
    for (n, what) in [
        (counts.sent, "sent"),
        (counts.deleted, "deleted on the hub"),
        (counts.placed, "received"),
        (counts.removed, "moved to the trash"),
        (counts.set_aside, "set aside"),
    ] {
        if n > 0 {
            did.push(format!("{n} {what}"));
        }
    }
    let bytes = passed.sent + passed.received;
    if bytes > 0 {
        did.push(out.size(bytes));
    }
    let (end, nothing) = if passed.failure().is_none() {
        ("in sync", "nothing to do")
    } else {
        ("not in sync", "nothing was done")
    };
    let did = if did.is_empty() {
        nothing.to_string()
    } else {
        did.join(", ")
    };
    out.line(&format!("{dir}: {end}: {did}"));
    for (path, why) in facts.refused.iter().take(crate::files::stats::NAMED) {
        out.line(&format!(
            "cannot sync {}: {}",
            one_line(path),
            one_line(&why.to_string())
        ));
    }
    for why in [&facts.rules, &facts.rescan].into_iter().flatten() {
        out.line(&one_line(&why.to_string()));
    }
    if passed.held > 0 {
        let deletes = counted(passed.held as u64, "delete");
        let words = limits.words();
        out.line(&format!(
            "{deletes} held ({words}): \"mesync approve {dir}\" allows them, or --allow-deletes"
        ));
    }
    for (e, noun, what) in [
        (
            &facts.skipped.special,
            "special file",
            "skipped (socket, FIFO or device)",
        ),
        (
            &facts.skipped.names,
            "name",
            "skipped (not UTF-8, or too long)",
        ),
        (
            &facts.skipped.unknown,
            "directory",
            "unreadable and left untouched",
        ),
    ] {
        if let Some(first) = &e.first {
            out.line(&format!("{} {what}: {first}", counted(e.count, noun)));
        }
    }
    let remaining = passed.remaining.saturating_sub(passed.held);
    if remaining > 0 {
        let why = passed
            .trouble
            .as_ref()
            .map(|e| format!(": {e}"))
            .or(facts.no_space.as_ref().map(|why| format!(": {why}")));
        out.line(&format!(
            "{} remaining{}",
            counted(remaining as u64, "path"),
            why.unwrap_or_default()
        ));
        waiting(facts).for_each(|(path, why)| {
            out.line(&format!(
                "{} waits: {}",
                one_line(path),
                one_line(&why.to_string())
            ))
        });
    }
}

/// The paths that wait at the end of a pass.
fn waiting(facts: &Facts) -> impl Iterator<Item = (&String, &Error)> {
    facts
        .waiting(clock::monotonic(), Duration::ZERO)
        .take(NAMED)
}

/// One action of a dry run in the output of `--json`.
#[derive(Serialize)]
struct PlannedAction<'a> {
    dir: &'a str,
    path: &'a str,
    action: &'static str,
    why: &'static str,
    size: Option<u64>,
}

fn action(p: &Preview) -> &'static str {
    match p.plan.action {
        Action::Upload => "send",
        Action::Download => "receive",
        Action::Conflict => "keep both",
        Action::Delete => "delete there",
        Action::Trash => "to the trash",
        Action::Adopt | Action::Forget | Action::Nothing => "take note",
    }
}

fn dry_run(
    context: &mut Context,
    watch: &WatchSettings,
    hub: &Arc<HubClient>,
    allow_deletes: bool,
) -> Result<CommandEnd> {
    let directory = once::open_to_look(&context.settings, watch, hub)?;
    let plans = directory.preview(allow_deletes)?;
    let done = if plans.all.is_empty() && plans.skipped.unknown.count == 0 {
        CommandEnd::All
    } else {
        CommandEnd::NotAll(plans.skipped.failure.unwrap_or(Kind::Failed))
    };
    let out = &mut context.out;
    let dir = watch.path.to_string_lossy();
    let size = |p: &Preview| p.entry.filter(|e| !e.is_dir()).map(|e| e.size);
    if out.json {
        for (path, p) in &plans.all {
            out.object(&PlannedAction {
                dir: &dir,
                path,
                action: action(p),
                why: p.plan.why,
                size: size(p),
            });
        }
        return Ok(done);
    }
    let row = |(path, p): &(String, Preview)| {
        let size = size(p).map_or("-".into(), |bytes| out.size(bytes));
        vec![
            action(p).to_string(),
            size,
            one_line(path),
            p.plan.why.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = plans.all.iter().map(row).collect();
    out.table(
        &[left("ACTION"), right("SIZE"), left("PATH"), left("WHY")],
        &rows,
    );
    if plans.holds {
        out.line(&format!(
            "the deletes would be held ({}): see approve, or --allow-deletes",
            DeleteLimits::of(watch).words()
        ));
    }
    if let Some(first) = &plans.skipped.unknown.first {
        out.line(&format!(
            "{} directories are left alone: {first}",
            plans.skipped.unknown.count
        ));
    }
    if done == CommandEnd::All {
        note(&format!("{} is in sync", one_line(&dir)));
    }
    Ok(done)
}

/// The state of a directory; there is one for each server that it was synced with.
pub fn known(settings: &Settings, dir: &str) -> Result<Vec<StatusFiles>> {
    let path = std::path::absolute(dir).map_err(|e| Error::io(format!("find {dir}"), &e))?;
    let path = real(&path).to_string_lossy().into_owned();
    let all: Vec<StatusFiles> = StatusFiles::all(&settings.base_dir)
        .into_iter()
        .filter(|f| f.read().is_some_and(|s| s.dir == path))
        .collect();
    if all.is_empty() {
        let what = format!("{} is not synced by this client", one_line(&path));
        Err(Error::new(Kind::Failed, what).hint("\"mesync status\" lists the directories that are"))
    } else {
        Ok(all)
    }
}

/// `mesync adopt DIR`
pub fn adopt(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let dir = invocation.argument(0)?;
    for files in known(&context.settings, dir)? {
        files.ask_adoption()?;
    }
    if !context.out.json {
        context.out.line(&format!(
            "{} is accepted: nothing is deleted, and both sides are compared",
            one_line(dir)
        ));
    }
    Ok(CommandEnd::All)
}
