//! Allows held deletes: all that are held now, or those of an earlier list, here or on all machines.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::parse::Invocation;
use super::sync::known;
use super::{CommandEnd, Context, counted, note};
use crate::client::Failure;
use crate::daemon::servers;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::files::engine::traits::DeleteToken;
use crate::files::status::{MAX_TOKENS_BYTES, StatusFiles};
use crate::logger::one_line;
use crate::wire::approvals::FileDelete;

/// A held delete in the output of `--json`, and in a list that is approved.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct HeldDelete {
    path: String,
    /// Which delete of this path it is: the revisions of base and hub.
    version: String,
}

impl HeldDelete {
    fn of(token: &DeleteToken) -> HeldDelete {
        HeldDelete {
            path: token.path.clone(),
            version: format!("{}-{}", token.base, token.remote),
        }
    }

    fn base(&self) -> Option<u64> {
        self.version.split_once('-')?.0.parse().ok()
    }
}

/// `mesync approve DIR`
pub fn approve(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let (settings, out) = (&context.settings, &mut context.out);
    let listed = invocation.os_value("listed").map(read_list).transpose()?;
    let everywhere = invocation.has("everywhere") && !invocation.has("dry-run");
    let (mut count, mut remaining, mut shared) = (0, 0, 0);
    for files in known(settings, invocation.argument(0)?)? {
        let mut held = files.held();
        remaining += held.len() as u64;
        if let Some(listed) = &listed {
            held.retain(|token| listed.contains(&HeldDelete::of(token)));
        }
        remaining -= held.len() as u64;
        count += held.len() as u64;
        if everywhere {
            let deletes = on_hub(&files, &held, listed.as_ref());
            shared += deletes.len() as u64;
            let hub = servers::files(settings)?;
            hub.approve_deletes(&deletes).map_err(refused)?;
        }
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
        _ if everywhere && shared > 0 => {
            let deletes = counted(shared, "delete");
            out.line(&format!("{deletes} approved for all machines"));
        }
        (0, _) if listed.is_some() => note("no deletes of the list are held"),
        (0, _) => note("no deletes are held"),
        (_, true) => {}
        (n, false) => out.line(&format!("{} approved", counted(n, "delete"))),
    }
    Ok(CommandEnd::All)
}

/// The deletes to approve on all machines: those that are held here, or all of the list.
fn on_hub(
    files: &StatusFiles,
    held: &[DeleteToken],
    listed: Option<&BTreeSet<HeldDelete>>,
) -> Vec<FileDelete> {
    let status = files.read().unwrap_or_default();
    let held = held.iter().map(|token| (token.path.as_str(), token.base));
    let listed = listed
        .into_iter()
        .flatten()
        .filter_map(|delete| Some((delete.path.as_str(), delete.base()?)));
    let all: BTreeSet<(&str, u64)> = held.chain(listed).collect();
    all.into_iter()
        .map(|(path, base)| status.on_hub(path, base))
        .collect()
}

/// An older hub, or another server, has no such route.
fn refused(failure: Failure) -> Error {
    if matches!(failure.status, 404 | 405) {
        let what = "the hub keeps no approvals for all machines";
        return Error::new(Kind::Refused, what)
            .hint("update mesync on the hub, or run \"mesync approve DIR\" on each machine");
    }
    failure.error
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
