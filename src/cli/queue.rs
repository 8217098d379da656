//! Commands about the spool: list, show, retry, flush. `send` has its own file. They need neither hub nor daemon.
//!
//! `messages::spool` changes the files; this file calls it and shows the results.

use std::ffi::OsStr;

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::conclude::conclude;
use super::output::{Output, layout, left, right};
use super::parse::Invocation;
use super::short_ids::ShortIds;
use super::{CommandEnd, Context, counted, fail, hooks, note};
use crate::error::Result;
use crate::messages::Queue;
use crate::messages::spool::{self, QueueEntry};
use crate::wire::MAX_MESSAGE;
use crate::{clock, disk, logger};

/// Not a queue of messages, but listed and flushed like one.
const HOOKS: &str = "hooks";

fn queue(invocation: &Invocation) -> Result<Queue> {
    let name = invocation.argument(0)?;
    Queue::ALL
        .into_iter()
        .find(|q| q.name() == name)
        .ok_or_else(|| invocation.usage(format!("there is no queue {name}")))
}

/// `mesync list QUEUE`
pub fn list(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    if invocation.argument(0)? == HOOKS {
        return hooks::list(context);
    }
    let queue = queue(invocation)?;
    let entries = spool::list(&context.settings.base_dir, queue)?;
    let out = &mut context.out;
    if out.json {
        entries
            .iter()
            .for_each(|e| out.object(&ListedMessage::of(e)));
    } else if entries.is_empty() {
        note(&format!("{} is empty", queue.name()));
    } else {
        table(queue, &entries, out);
    }
    Ok(CommandEnd::All)
}

fn table(queue: Queue, entries: &[QueueEntry], out: &mut Output) {
    let other_side = if queue == Queue::Inbox { "FROM" } else { "TO" };
    let mut titles = vec![
        left("TIME"),
        left("PRIORITY"),
        left("TYPE"),
        left(other_side),
        right("SIZE"),
        left("ID"),
    ];
    let ids = ShortIds::of(entries.iter().filter_map(|e| e.id));
    let label = |e: &QueueEntry| e.id.map_or_else(|| e.label(), |id| ids.short(id));
    let row = |e: &QueueEntry| {
        let (priority, kind, other) = match &e.message {
            Ok(m) if queue == Queue::Inbox => (
                m.priority.name(),
                m.kind.as_str(),
                m.source.as_deref().unwrap_or("-"),
            ),
            Ok(m) => (
                m.priority.name(),
                m.kind.as_str(),
                m.target.as_deref().unwrap_or("*"),
            ),
            Err(_) => ("-", "-", "-"),
        };
        let note = [
            e.hook_failed.then_some("hook failed"),
            e.reason.as_deref(),
            e.message.as_ref().err().map(String::as_str),
        ];
        vec![
            clock::local(e.time),
            priority.to_string(),
            kind.to_string(),
            other.to_string(),
            out.size(e.size),
            label(e),
            note.into_iter()
                .flatten()
                .next()
                .map_or(String::new(), logger::one_line),
        ]
    };
    let mut rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    if queue == Queue::Failed
        || rows
            .iter()
            .any(|r| r.last().is_some_and(|note| !note.is_empty()))
    {
        titles.push(left(if queue == Queue::Failed {
            "REASON"
        } else {
            "NOTE"
        }));
    } else {
        rows.iter_mut().for_each(|r| r.truncate(titles.len()));
    }
    out.table(&titles, &rows);
}

/// One entry as JSON, always with every key.
#[derive(Serialize)]
struct ListedMessage<'a> {
    queue: &'static str,
    id: Option<Uuid>,
    r#type: Option<&'a str>,
    source: Option<&'a str>,
    target: Option<&'a str>,
    priority: Option<&'static str>,
    /// RFC 3339, UTC.
    time: String,
    size: u64,
    /// The file name, with escapes for characters that are not plain text.
    file: String,
    /// Why it failed.
    reason: Option<&'a str>,
    /// Why the file is not a message.
    error: Option<&'a str>,
    hook_failed: bool,
}

impl<'a> ListedMessage<'a> {
    fn of(e: &'a QueueEntry) -> ListedMessage<'a> {
        let message = e.message.as_ref().ok();
        ListedMessage {
            queue: e.queue.name(),
            id: e.id,
            r#type: message.map(|m| m.kind.as_str()),
            source: message.and_then(|m| m.source.as_deref()),
            target: message.and_then(|m| m.target.as_deref()),
            priority: message.map(|m| m.priority.name()),
            time: clock::rfc3339(e.time),
            size: e.size,
            file: disk::show(&e.name),
            reason: e.reason.as_deref(),
            error: e.message.as_ref().err().map(String::as_str),
            hook_failed: e.hook_failed,
        }
    }
}

/// One entry with its content.
#[derive(Serialize)]
struct ShownMessage<'a> {
    #[serde(flatten)]
    listed: ListedMessage<'a>,
    path: String,
    /// The message, as in the file.
    message: Option<&'a RawValue>,
    /// The content if it is not JSON.
    text: Option<&'a str>,
}

/// `mesync show ID`
pub fn show(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let what = invocation
        .arguments
        .first()
        .map_or(OsStr::new(""), |a| a.as_os_str());
    let entries = spool::find(&context.settings.base_dir, what)?;
    for (i, entry) in entries.iter().enumerate() {
        if i > 0 && !context.out.json {
            context.out.line("");
        }
        show_one(entry, &mut context.out);
    }
    Ok(CommandEnd::All)
}

fn show_one(entry: &QueueEntry, out: &mut Output) {
    // entry.message already has the reason for an unreadable file
    let bytes = disk::read_at_most(&entry.path, MAX_MESSAGE).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let json: Option<&RawValue> = serde_json::from_str(&text).ok();
    let path = disk::show(entry.path.as_os_str());
    if out.json {
        let text = json.is_none().then_some(text.as_ref());
        return out.object(&ShownMessage {
            listed: ListedMessage::of(entry),
            path,
            message: json,
            text,
        });
    }
    let mut field = |name: &str, value: &str| {
        let name = out.bold(&format!("{name:8}"));
        out.line(&format!("{name}  {}", logger::one_line(value)));
    };
    if let Some(id) = entry.id {
        field("id", &id.to_string());
    }
    field("queue", entry.queue.name());
    field("file", &path);
    field("time", &clock::local(entry.time));
    if let Some(reason) = &entry.reason {
        field("reason", reason);
    }
    if let Err(why) = &entry.message {
        field("problem", why);
    }
    if entry.hook_failed {
        field(
            "hook",
            &format!(
                "failed; to run it again: mesync retry --hooks {}",
                entry.label()
            ),
        );
    }
    let size = out.size(entry.size);
    let name = out.bold("size    ");
    out.line(&format!("{name}  {size}"));
    out.line("");
    match json {
        Some(json) => out.line(&layout(json.get(), Some(2))),
        None => {
            text.lines().for_each(|line| out.line(&harmless(line)));
            if bytes.len() > MAX_MESSAGE {
                out.line(&format!("… cut after {MAX_MESSAGE} bytes"));
            }
        }
    }
}

/// A line of a file that is not a message, escaped for a terminal but complete, unlike a line of the log.
fn harmless(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        if c != '\t' && logger::disturbs(c) {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
    }
    out
}

/// `mesync retry [ID…]`
pub fn retry(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    if invocation.has("hooks") {
        hooks::retry(context, invocation)
    } else {
        retry_messages(context, invocation)
    }
}

fn retry_messages(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let base = &context.settings.base_dir;
    let mut errors = Vec::new();
    let mut entries = Vec::new();
    if invocation.arguments.is_empty() {
        entries = spool::list(base, Queue::Failed)?;
    }
    for what in &invocation.arguments {
        match spool::find(base, what) {
            Ok(mut found) => {
                // prefer the failed one if a message is in several queues; else any, whose queue the error names
                let at = found
                    .iter()
                    .position(|e| e.queue == Queue::Failed)
                    .unwrap_or(0);
                entries.push(found.swap_remove(at));
            }
            Err(e) => errors.push(e),
        }
    }
    let results = entries.iter().map(|e| {
        (
            e.id,
            e.label(),
            disk::show(&e.name),
            spool::retry(base, e, clock::now()).map(drop),
        )
    });
    conclude(
        results,
        "message",
        "back in the outbox",
        errors,
        &mut context.out,
    )
}

/// `mesync flush QUEUE [ID…]`
pub fn flush(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    if invocation.argument(0)? == HOOKS {
        return hooks::flush(context, &invocation.arguments[1..]);
    }
    if invocation.arguments.len() > 1 {
        return Err(invocation.usage("an ID can be given for hooks only"));
    }
    let queue = queue(invocation)?;
    let flushed = spool::flush(&context.settings.base_dir, queue, clock::now())?;
    if context.out.json {
        context
            .out
            .object(&serde_json::json!({ "queue": queue.name(), "removed": flushed.removed }))
    } else {
        context.out.line(&format!(
            "{} removed from {}",
            counted(flushed.removed, "message"),
            queue.name()
        ))
    }
    fail(flushed.kept)
}
