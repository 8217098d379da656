//! Allows held deletes: all that are held now, or those of an earlier list.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::parse::Invocation;
use super::sync::known;
use super::{CommandEnd, Context, counted, note};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::files::engine::traits::Token;
use crate::files::status::MAX_TOKENS_BYTES;
use crate::logger::one_line;

/// A held delete in the output of `--json`, and in a list that is approved.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct HeldDelete {
    path: String,
    /// Which delete of this path it is: the revisions of base and hub.
    version: String,
}

impl HeldDelete {
    fn of(token: &Token) -> HeldDelete {
        HeldDelete {
            path: token.path.clone(),
            version: format!("{}-{}", token.base, token.remote),
        }
    }
}

/// `mesync approve DIR`
pub fn approve(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let (settings, out) = (&context.settings, &mut context.out);
    let listed = invocation.os_value("listed").map(read_list).transpose()?;
    let (mut count, mut remaining) = (0, 0);
    for files in known(settings, invocation.argument(0)?)? {
        let mut held = files.held();
        remaining += held.len() as u64;
        if let Some(listed) = &listed {
            held.retain(|token| listed.contains(&HeldDelete::of(token)));
        }
        remaining -= held.len() as u64;
        count += held.len() as u64;
        for token in &held {
            match out.json {
                true => out.object(&HeldDelete::of(token)),
                false if invocation.has("dry-run") => out.line(&one_line(&token.path)),
                false => {}
            }
        }
        if !held.is_empty() && !invocation.has("dry-run") {
            files.ask_approval(&held)?;
        }
    }
    if remaining > 0 {
        log::warn!("not in the list: {} held", counted(remaining, "delete"));
    }
    match (count, invocation.has("dry-run")) {
        _ if out.json => {}
        (0, _) if listed.is_some() => note("no deletes of the list are held"),
        (0, _) => note("no deletes are held"),
        (_, true) => {}
        (n, false) => out.line(&format!("{} approved", counted(n, "delete"))),
    }
    Ok(CommandEnd::All)
}

/// Reads a list of held deletes; `-` is standard input.
fn read_list(file: &OsStr) -> Result<BTreeSet<HeldDelete>> {
    let name = if file == "-" {
        "standard input".into()
    } else {
        disk::show(file)
    };
    let bytes = if file == "-" {
        let mut bytes = Vec::new();
        let most = MAX_TOKENS_BYTES as u64 + 1;
        let read = std::io::stdin().take(most).read_to_end(&mut bytes);
        read.map(|_| bytes)
    } else {
        disk::read_at_most(Path::new(file), MAX_TOKENS_BYTES)
    };
    let bytes = bytes.map_err(|e| Error::io(format!("read {name}"), &e))?;
    let wrong = |line: usize| {
        let what = format!("{name}, line {line}: not a held delete");
        Error::new(Kind::Usage, what).hint("make the list with \"approve DIR --dry-run --json\"")
    };
    if bytes.len() > MAX_TOKENS_BYTES {
        return Err(Error::new(Kind::Usage, format!("{name} is too long")));
    }
    bytes
        .split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(n, line)| serde_json::from_slice(line).map_err(|_| wrong(n + 1)))
        .collect()
}
