//! Commands of the spool: send, list, show, retry, flush. They need neither hub nor daemon.
//!
//! What happens to the files is in `messages::spool`; here it is asked for and shown.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::output::{Output, layout, left, right};
use super::parse::Invocation;
use super::{Context, Done, counted, fail, hooks, note};
use crate::error::{Error, Kind, Result};
use crate::messages::Queue;
use crate::messages::spool::{self, Entry};
use crate::wire::{self, MAX_MESSAGE, Message, Priority};
use crate::{clock, disk, logger};

/// What is no queue of messages, and is listed and flushed as one.
const HOOKS: &str = "hooks";

/// `mesync send TYPE`
pub fn send(context: &mut Context, invocation: &Invocation) -> Result<Done> {
    let bad = |flag: &str, why: String| invocation.usage(format!("bad value for --{flag}: {why}"));
    let kind = invocation.argument(0)?;
    wire::check_type(kind)
        .map_err(|e| invocation.usage(format!("cannot send the message: {e}")))?;
    let number = |text: &str| {
        text.parse().map_err(|_| {
            bad(
                "ttl",
                format!("not a number of seconds: \"{}\"", wire::brief(text)),
            )
        })
    };
    let message = Message {
        kind: kind.to_string(),
        source: Some(context.settings.host_id.clone()),
        target: invocation
            .value("target")?
            .map(wire::check_host)
            .transpose()
            .map_err(|e| bad("target", e))?,
        priority: invocation
            .value("priority")?
            .and_then(Priority::parse)
            .unwrap_or_default(),
        ttl: invocation.value("ttl")?.map(number).transpose()?,
        payload: payload(invocation)?,
        extra: hops(std::env::var_os(wire::HOPS_VARIABLE))?,
        ..Message::default()
    };
    let (id, path) = spool::send(&context.settings.base_dir, message, clock::now())?;
    if context.out.json {
        context
            .out
            .object(&serde_json::json!({ "id": id, "path": disk::show(path.as_os_str()) }))
    } else {
        context.out.line(&id.to_string())
    }
    Ok(Done::All)
}

/// What a message of a hook carries: one hop more than the message that the hook runs for.
fn hops(variable: Option<OsString>) -> Result<BTreeMap<String, Box<RawValue>>> {
    let Some(text) = variable.filter(|text| !text.is_empty()) else {
        return Ok(BTreeMap::new());
    };
    let refused = |why: String| {
        let hint = format!(
            "hooks that answer each other make a loop; if this is none, send it without {}",
            wire::HOPS_VARIABLE
        );
        Error::new(Kind::Failed, format!("cannot send the message: {why}")).hint(hint)
    };
    let hops = text.to_str().and_then(|text| text.parse::<u64>().ok());
    let hops = hops.ok_or_else(|| {
        refused(format!(
            "{} is no number: \"{}\"",
            wire::HOPS_VARIABLE,
            wire::brief(&disk::show(&text))
        ))
    })?;
    if hops >= wire::MAX_HOPS {
        return Err(refused(format!(
            "a hook has sent it, and {hops} hooks before that; {} in a row may",
            wire::MAX_HOPS
        )));
    }
    let raw = RawValue::from_string((hops + 1).to_string()).map_err(|e| refused(e.to_string()))?;
    Ok(BTreeMap::from([(wire::HOPS_FIELD.to_string(), raw)]))
}

/// The payload, letter for letter; `None` is null.
fn payload(invocation: &Invocation) -> Result<Option<Box<RawValue>>> {
    let (text, origin) = match (
        invocation.value("payload")?,
        invocation.os_value("payload-file"),
    ) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(invocation.usage("--payload and --payload-file exclude each other"));
        }
        (Some(text), None) => (text.to_string(), "--payload".to_string()),
        (None, Some(name)) if name == "-" => (
            read_payload(std::io::stdin(), "standard input")?,
            "standard input".into(),
        ),
        (None, Some(name)) => {
            let shown = disk::show(name);
            let file = File::open(name).map_err(|e| Error {
                kind: Kind::Io,
                ..Error::io(format!("read {shown}"), &e)
            })?;
            (read_payload(file, &shown)?, shown)
        }
    };
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|e| {
        let error = Error::new(
            Kind::Usage,
            format!("cannot send the payload: {origin} is not JSON: {e}"),
        );
        if text.trim_start().starts_with(['{', '[', '"']) {
            error
        } else {
            error.hint("a text needs double quotes of its own: '\"text\"'")
        }
    })
}

fn read_payload(from: impl Read, origin: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let read = from.take(MAX_MESSAGE as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error {
        kind: Kind::Io,
        ..Error::io(format!("read {origin}"), &e)
    })?;
    if bytes.len() > MAX_MESSAGE {
        return Err(Error::new(
            Kind::Usage,
            format!("cannot send the payload: {origin} has more than {MAX_MESSAGE} bytes"),
        )
        .hint("send a reference to the data instead"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
        Error::new(
            Kind::Usage,
            format!(
                "cannot send the payload: {origin} is not UTF-8 at line {line} column {column}"
            ),
        )
    })
}

fn queue(invocation: &Invocation) -> Result<Queue> {
    let name = invocation.argument(0)?;
    Queue::ALL
        .into_iter()
        .find(|q| q.name() == name)
        .ok_or_else(|| invocation.usage(format!("there is no queue {name}")))
}

/// `mesync list QUEUE`
pub fn list(context: &mut Context, invocation: &Invocation) -> Result<Done> {
    if invocation.argument(0)? == HOOKS {
        return hooks::list(context);
    }
    let queue = queue(invocation)?;
    let entries = spool::list(&context.settings.base_dir, queue)?;
    let out = &mut context.out;
    if out.json {
        entries.iter().for_each(|e| out.object(&Listed::of(e)));
    } else if entries.is_empty() {
        note(&format!("{} is empty", queue.name()));
    } else {
        table(queue, &entries, out);
    }
    Ok(Done::All)
}

fn table(queue: Queue, entries: &[Entry], out: &mut Output) {
    let other_side = if queue == Queue::Inbox { "FROM" } else { "TO" };
    let mut titles = vec![
        left("TIME"),
        left("PRIORITY"),
        left("TYPE"),
        left(other_side),
        right("SIZE"),
        left("ID"),
    ];
    let row = |e: &Entry| {
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
            e.label(),
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

/// One entry as JSON: every key is always there.
#[derive(Serialize)]
struct Listed<'a> {
    queue: &'static str,
    id: Option<Uuid>,
    r#type: Option<&'a str>,
    source: Option<&'a str>,
    target: Option<&'a str>,
    priority: Option<&'static str>,
    /// RFC 3339, UTC.
    time: String,
    size: u64,
    /// File name, escaped where it is not plain text.
    file: String,
    /// Why it failed.
    reason: Option<&'a str>,
    /// Why it is no message.
    error: Option<&'a str>,
    hook_failed: bool,
}

impl<'a> Listed<'a> {
    fn of(e: &'a Entry) -> Listed<'a> {
        let message = e.message.as_ref().ok();
        Listed {
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
struct Shown<'a> {
    #[serde(flatten)]
    listed: Listed<'a>,
    path: String,
    /// As it stands in the file.
    message: Option<&'a RawValue>,
    /// The content if it is not JSON.
    text: Option<&'a str>,
}

/// `mesync show ID`
pub fn show(context: &mut Context, invocation: &Invocation) -> Result<Done> {
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
    Ok(Done::All)
}

fn show_one(entry: &Entry, out: &mut Output) {
    // what cannot be read has its reason in entry.message already
    let bytes = disk::read_at_most(&entry.path, MAX_MESSAGE).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let json: Option<&RawValue> = serde_json::from_str(&text).ok();
    let path = disk::show(entry.path.as_os_str());
    if out.json {
        let text = json.is_none().then_some(text.as_ref());
        return out.object(&Shown {
            listed: Listed::of(entry),
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
            &format!("failed; again with: mesync retry --hooks {}", entry.label()),
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

/// A line of a file that is no message, as a terminal may see it: whole, unlike a line of the log.
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

/// What became of one message of a retry.
#[derive(Serialize)]
struct Retried<'a> {
    id: Option<Uuid>,
    file: &'a str,
    done: bool,
    error: Option<String>,
}

/// `mesync retry [ID…]`
pub fn retry(context: &mut Context, invocation: &Invocation) -> Result<Done> {
    if invocation.has("hooks") {
        hooks::retry(context, invocation)
    } else {
        retry_messages(context, invocation)
    }
}

fn retry_messages(context: &mut Context, invocation: &Invocation) -> Result<Done> {
    let base = &context.settings.base_dir;
    let mut errors = Vec::new();
    let mut entries = Vec::new();
    if invocation.arguments.is_empty() {
        entries = spool::list(base, Queue::Failed)?;
    }
    for what in &invocation.arguments {
        match spool::find(base, what) {
            Ok(mut found) => {
                // of a message in several queues the failed one is meant; without one, any says where it is instead
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

/// Does one after the other, says a line about each, and how many at the end. The last error is the command's own, the
/// others are reported on the way.
pub(super) fn conclude(
    results: impl Iterator<Item = (Option<Uuid>, String, String, Result<()>)>,
    noun: &str,
    outcome: &str,
    mut errors: Vec<Error>,
    out: &mut Output,
) -> Result<Done> {
    let mut done = 0;
    for (id, label, file, result) in results {
        let error = result.err();
        done += u64::from(error.is_none());
        match (out.json, &error) {
            (true, _) => out.object(&Retried {
                id,
                file: &file,
                done: error.is_none(),
                error: error.as_ref().map(Error::to_string),
            }),
            (false, None) => out.line(&format!("{label} {outcome}")),
            (false, Some(_)) => {}
        }
        errors.extend(error);
    }
    if !out.json {
        match (done, errors.is_empty()) {
            (0, true) => note(&format!("no failed {noun}s")),
            _ => out.line(&format!("{} {outcome}", counted(done, noun))),
        }
    }
    fail(errors)
}

/// `mesync flush QUEUE [ID…]`
pub fn flush(context: &mut Context, invocation: &Invocation) -> Result<Done> {
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
