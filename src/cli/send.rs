//! `mesync send`: sends one message from the command line, or a batch from standard input.
//!
//! It needs neither hub nor daemon. `messages::spool` writes messages durably to the outbox.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::output::Output;
use super::parse::Invocation;
use super::{CommandEnd, Context};
use crate::config::environment;
use crate::error::{Error, Kind, Result};
use crate::messages::spool::{self, IdGenerator, Outgoing};
use crate::wire::{self, MAX_MESSAGE, Message, Priority};
use crate::{clock, disk, wait};

/// Messages that share their syncs at most.
const MAX_GROUP_MESSAGES: usize = 1000;
/// Bytes of messages after which a group is full.
const FULL_GROUP_BYTES: usize = 4 * 1024 * 1024;
/// Bytes read from standard input at a time.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// `mesync send`
pub fn send(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    if invocation.has("batch") {
        return batch(context, invocation);
    }
    if invocation.arguments.is_empty() {
        return Err(invocation.usage("send needs TYPE"));
    }
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
        extra: hops(environment::variable(wire::HOPS_VARIABLE))?
            .into_iter()
            .collect(),
        ..Message::default()
    };
    let (id, path) = spool::send(&context.settings.base_dir, message, clock::now())?;
    show(&mut context.out, id, &path);
    Ok(CommandEnd::All)
}

fn show(out: &mut Output, id: Uuid, path: &Path) {
    if out.json {
        out.object(&serde_json::json!({ "id": id, "path": disk::show(path.as_os_str()) }))
    } else {
        out.line(&id.to_string())
    }
}

/// `mesync send --batch`: each line of standard input is a message, in the form of a file in the outbox.
///
/// Lines that can be read without waiting share their syncs. The first line that is not a message ends the batch; the messages
/// before it have been sent.
fn batch(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    for other in ["payload", "payload-file", "target", "priority", "ttl"] {
        if invocation.has(other) {
            let what = format!("--batch and --{other} exclude each other");
            let error = invocation.usage(what);
            return Err(
                error.hint("each line has its own, as in {\"type\": \"x\", \"target\": \"web-1\"}")
            );
        }
    }
    if let Some(more) = invocation.arguments.first() {
        let what = format!("--batch does not take \"{}\"", disk::show(more));
        return Err(invocation
            .usage(what)
            .hint("each line has its own \"type\""));
    }
    let stdin = std::io::stdin();
    let mut lines = BufReader::with_capacity(
        READ_BUFFER_BYTES,
        File::from(
            stdin
                .as_fd()
                .try_clone_to_owned()
                .map_err(|e| Error::io("read standard input", &e))?,
        ),
    );
    let mut batch = SendProgress {
        hops: hops(environment::variable(wire::HOPS_VARIABLE))?,
        ids: IdGenerator::default(),
        line: 0,
        sent: 0,
    };
    loop {
        let (group, end) = batch.group(&mut lines, &context.settings.host_id);
        if !group.is_empty() {
            spool::send_all(&context.settings.base_dir, &group).map_err(|e| batch.after(e))?;
        }
        for message in &group {
            show(
                &mut context.out,
                message.id,
                &message.path(&context.settings.base_dir),
            );
        }
        context.out.flush();
        batch.sent += group.len();
        match end {
            GroupEnd::MoreInput => {}
            GroupEnd::EndOfInput => return Ok(CommandEnd::All),
            GroupEnd::Failed(e) => return Err(batch.after(e)),
        }
    }
}

/// The progress of a batch.
struct SendProgress {
    hops: Option<(String, Box<RawValue>)>,
    ids: IdGenerator,
    /// The number of lines read.
    line: u64,
    /// The number of messages written to the outbox.
    sent: usize,
}

/// Why a group ended.
enum GroupEnd {
    MoreInput,
    EndOfInput,
    Failed(Error),
}

impl SendProgress {
    /// Reads the messages of the next lines, as many as are available without waiting and fit in a group.
    fn group(&mut self, input: &mut BufReader<File>, host: &str) -> (Vec<Outgoing>, GroupEnd) {
        let (mut group, mut bytes, mut known) = (Vec::new(), 0, HashSet::new());
        let end = loop {
            if group.len() == MAX_GROUP_MESSAGES || bytes >= FULL_GROUP_BYTES {
                break GroupEnd::MoreInput;
            }
            if !group.is_empty() && !has_more(input) {
                break GroupEnd::MoreInput;
            }
            let text = match next_line(input) {
                Ok(Some(text)) => text,
                Ok(None) => break GroupEnd::EndOfInput,
                Err(e) => break GroupEnd::Failed(Error::io("read standard input", &e)),
            };
            self.line += 1;
            if text.trim_ascii().is_empty() {
                continue;
            }
            match self.message(&text, host) {
                Ok(message) if !known.insert(message.id) => {
                    let what = format!(
                        "cannot send line {}: id {} is there twice",
                        self.line, message.id
                    );
                    break GroupEnd::Failed(Error::new(Kind::Usage, what));
                }
                Ok(message) => {
                    bytes += message.size();
                    group.push(message);
                }
                Err(e) => break GroupEnd::Failed(e),
            }
        };
        (group, end)
    }

    fn message(&self, text: &[u8], host: &str) -> Result<Outgoing> {
        let refused = |why: String| {
            Error::new(
                Kind::Usage,
                format!("cannot send line {}: {why}", self.line),
            )
        };
        if text.len() > MAX_MESSAGE {
            let why = format!("it has more than {MAX_MESSAGE} bytes");
            return Err(refused(why).hint("send a reference to the data instead"));
        }
        let mut message = Message::parse(text).map_err(|e| refused(e.to_string()))?;
        message.source.get_or_insert_with(|| host.to_string());
        message.extra.extend(self.hops.clone());
        Outgoing::new(message, &self.ids, clock::now()).map_err(|e| refused(e.what))
    }

    /// Adds the progress of the batch to an error.
    fn after(&self, error: Error) -> Error {
        let there = match self.sent {
            0 => return error,
            1 => "the message before it is in the outbox, and its id was printed".to_string(),
            n => {
                format!("the {n} messages before it are in the outbox, and their ids were printed")
            }
        };
        let hint = match &error.hint {
            Some(hint) => format!("{hint}; {there}"),
            None => there,
        };
        error.hint(hint)
    }
}

/// Whether the next line, or the end of the input, can be read without waiting.
fn has_more(input: &BufReader<File>) -> bool {
    let ready = || {
        wait::ready(
            [wait::readable(input.get_ref().as_fd())],
            Some(Duration::ZERO),
        )
    };
    input.buffer().contains(&b'\n') || ready().is_ok_and(|[ready]| ready)
}

/// Reads a line without its end, at most [`MAX_MESSAGE`] bytes and one more. `None`: the end of the input.
fn next_line(input: &mut BufReader<File>) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut limited = input.take(MAX_MESSAGE as u64 + 1);
    let read = limited.read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok((read > 0).then_some(line))
}

/// The hop count for a message that a hook sends: one more than that of the message that the hook runs for.
fn hops(variable: Option<OsString>) -> Result<Option<(String, Box<RawValue>)>> {
    let Some(text) = variable.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let refused = |why: String| {
        let hint = format!(
            "hooks that answer each other make a loop; if this is not one, unset {}",
            wire::HOPS_VARIABLE
        );
        Error::new(Kind::Failed, format!("cannot send the message: {why}")).hint(hint)
    };
    let hops = text.to_str().and_then(|text| text.parse::<u64>().ok());
    let hops = hops.ok_or_else(|| {
        refused(format!(
            "{} is not a number: \"{}\"",
            wire::HOPS_VARIABLE,
            wire::brief(&disk::show(&text))
        ))
    })?;
    if hops >= wire::MAX_HOPS {
        return Err(refused(format!(
            "{hops} hooks in a row led to this one; the limit is {}",
            wire::MAX_HOPS
        )));
    }
    let raw = RawValue::from_string((hops + 1).to_string()).map_err(|e| refused(e.to_string()))?;
    Ok(Some((wire::HOPS_FIELD.to_string(), raw)))
}

/// The payload, byte for byte; `None` is null.
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
