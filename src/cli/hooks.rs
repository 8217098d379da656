//! Commands about hooks: list those that wait or have failed, run failed ones again, discard them.
//!
//! They are listed from their records, so their messages need not be in the inbox.

use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use serde::Serialize;
use uuid::Uuid;

use super::conclude::conclude;
use super::output::{left, right};
use super::parse::Invocation;
use super::short_ids::ShortIds;
use super::{CommandEnd, Context, counted, fail, note};
use crate::error::{Error, Kind, Result};
use crate::messages::hooks::{self, HookRecord, Programs};
use crate::messages::{parse_file_name, spool};
use crate::wire::{MAX_MESSAGE, Message};
use crate::{clock, disk, logger};

/// One hook as JSON, always with every key.
#[derive(Serialize)]
struct ListedHook {
    queue: &'static str,
    id: Uuid,
    r#type: String,
    source: Option<String>,
    priority: &'static str,
    /// RFC 3339, UTC.
    time: String,
    size: u64,
    /// The path of its record, below the base directory.
    file: String,
    /// The number of runs; `None`: it failed.
    runs: Option<u32>,
    hook_failed: bool,
    /// Why it failed.
    reason: Option<String>,
    #[serde(skip)]
    at: SystemTime,
}

fn look_at(context: &Context, record: &HookRecord, programs: &mut Programs) -> ListedHook {
    let base = &context.settings.base_dir;
    let text = disk::read_at_most(&record.path(base), MAX_MESSAGE).unwrap_or_default();
    let message = if hooks::own::is_own(record) {
        hooks::own::read(&text)
    } else {
        Message::parse(&text).unwrap_or_default()
    };
    let at = parse_file_name(&record.message).map_or(SystemTime::UNIX_EPOCH, |(time, _)| time);
    ListedHook {
        queue: "hooks",
        id: record.id(),
        r#type: record.kind.clone(),
        source: message.source,
        priority: message.priority.name(),
        time: clock::rfc3339(at),
        size: text.len() as u64,
        file: format!("state/hooks/{}", record.file_name()),
        runs: record.runs(),
        hook_failed: record.is_failed(),
        reason: programs.reason(record),
        at,
    }
}

/// `mesync list hooks`
pub fn list(context: &mut Context) -> Result<CommandEnd> {
    let records = hooks::list(&context.settings.base_dir)?;
    let mut programs = Programs::new(&context.settings.base_dir);
    let rows: Vec<ListedHook> = records
        .iter()
        .map(|record| look_at(context, record, &mut programs))
        .collect();
    let out = &mut context.out;
    if out.json {
        rows.iter().for_each(|row| out.object(row));
    } else if rows.is_empty() {
        note("no hook waits, and none has failed");
    } else {
        let state = |row: &ListedHook| match (row.runs, &row.reason) {
            (_, Some(reason)) => format!("failed: {}", logger::one_line(reason)),
            (Some(0), None) => "to run".into(),
            (runs, None) => format!(
                "to run again, {} so far",
                counted(u64::from(runs.unwrap_or(0)), "run")
            ),
        };
        let ids = ShortIds::of(rows.iter().map(|row| row.id));
        let cells = |row: &ListedHook| {
            let source = row.source.as_deref().unwrap_or("-").to_string();
            vec![
                clock::local(row.at),
                row.r#type.clone(),
                source,
                out.size(row.size),
                ids.short(row.id),
                state(row),
            ]
        };
        let cells: Vec<_> = rows.iter().map(cells).collect();
        out.table(
            &[
                left("TIME"),
                left("TYPE"),
                left("FROM"),
                right("SIZE"),
                left("ID"),
                left("STATE"),
            ],
            &cells,
        );
    }
    Ok(CommandEnd::All)
}

/// `mesync retry --hooks [ID…]`
pub fn retry(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let base = context.settings.base_dir.clone();
    let mut errors = Vec::new();
    let meant = failed(context, &invocation.arguments, &mut errors)?;
    let mut programs = Programs::new(&base);
    let results = meant.iter().map(|r| {
        (
            Some(r.id()),
            r.id().to_string(),
            r.message.clone(),
            hooks::retry(&base, r, &mut programs),
        )
    });
    let done = conclude(results, "hook", "to run again", errors, &mut context.out);
    if !meant.is_empty() {
        hooks::sync(&base)?;
    }
    done
}

/// `mesync flush hooks [ID…]`: discards failed hooks.
pub fn flush(context: &mut Context, arguments: &[OsString]) -> Result<CommandEnd> {
    let base = context.settings.base_dir.clone();
    let mut errors = Vec::new();
    let meant = failed(context, arguments, &mut errors)?;
    let mut removed = 0;
    for record in &meant {
        match hooks::give_up(&base, record) {
            Ok(()) => removed += 1,
            Err(e) => errors.push(e),
        }
    }
    if context.out.json {
        context
            .out
            .object(&serde_json::json!({ "queue": "hooks", "removed": removed }))
    } else {
        context
            .out
            .line(&format!("{} given up", counted(removed, "failed hook")))
    }
    fail(errors)
}

/// The failed hooks with these ids, or all.
pub fn failed(
    context: &Context,
    ids: &[OsString],
    errors: &mut Vec<Error>,
) -> Result<Vec<HookRecord>> {
    let mut failed = hooks::list(&context.settings.base_dir)?;
    failed.retain(HookRecord::is_failed);
    if ids.is_empty() {
        return Ok(failed);
    }
    let mut meant: Vec<HookRecord> = Vec::new();
    for id in ids {
        match find_one(&failed, id) {
            Ok(record) if meant.contains(record) => {}
            Ok(record) => meant.push(record.clone()),
            Err(e) => errors.push(e),
        }
    }
    Ok(meant)
}

fn find_one<'a>(failed: &'a [HookRecord], what: &OsStr) -> Result<&'a HookRecord> {
    let typed = what.to_str().unwrap_or_default();
    let is_meant = |r: &&HookRecord| {
        r.message == typed || r.file_name() == typed || spool::matches_id(r.id(), typed)
    };
    let shown = disk::show(what);
    match failed
        .iter()
        .filter(is_meant)
        .collect::<Vec<_>>()
        .as_slice()
    {
        [] => Err(Error::new(
            Kind::Failed,
            format!("no hook of a message {shown} has failed"),
        )
        .hint("see mesync list hooks")),
        [record] => Ok(record),
        several => Err(Error::new(
            Kind::Failed,
            format!("{} messages match {shown}", several.len()),
        )
        .hint("give more characters of the id")),
    }
}
