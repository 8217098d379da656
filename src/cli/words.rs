//! `mesync words`: the names that a shell completes, one a line. It reads, and changes nothing.
//!
//! Which command takes which kind is in the table; the scripts of `completions` call this command.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::parse::Invocation;
use super::{CommandEnd, Context, hooks, trash};
use crate::client::ListingQuery;
use crate::config::Settings;
use crate::daemon::servers;
use crate::error::Result;
use crate::hub;
use crate::logger::disturbs;
use crate::messages::Queue;
use crate::messages::spool;
use crate::transfer::find;

/// A person waits at the prompt.
const MAX_PROMPT_WAIT: Duration = Duration::from_secs(2);
/// Files that are read for the names in one directory.
const MAX_FILES_READ: u64 = 5000;

/// `mesync words KIND [BEGINNING]`
pub fn words(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let beginning = match invocation.arguments.len() {
        1 => "",
        _ => invocation.argument(1)?,
    };
    let mut settings = Settings::clone(&context.settings);
    settings.http_timeout = settings.http_timeout.min(MAX_PROMPT_WAIT);
    context.settings = Arc::new(settings);
    let settings = &context.settings;
    let all: BTreeSet<String> = match invocation.argument(0)? {
        "hosts" => {
            let hosts = servers::messages(settings)?.hosts();
            let hosts = hosts.map_err(|failure| failure.error)?;
            hosts.into_iter().map(|host| host.name).collect()
        }
        "keys" => {
            let keys = hub::list_keys(&settings.hub.data_dir)?;
            keys.into_iter().map(|key| key.name).collect()
        }
        "failed" => {
            let failed = spool::list(&settings.base_dir, Queue::Failed)?;
            let hooks = hooks::failed(context, &[], &mut Vec::new())?;
            let hooks = hooks.iter().map(|hook| hook.id().to_string());
            failed.iter().map(|m| m.label()).chain(hooks).collect()
        }
        "messages" => {
            let mut all = BTreeSet::new();
            for queue in Queue::ALL {
                let messages = spool::list(&settings.base_dir, queue)?;
                all.extend(messages.iter().map(|message| message.label()));
            }
            all
        }
        "trash" => trash::old_paths(settings)?.into_iter().collect(),
        _ => in_directory(context, beginning)?,
    };
    // what would disturb a terminal cannot be typed either
    let fits = |word: &&String| word.starts_with(beginning) && !word.chars().any(disturbs);
    let out = &mut context.out;
    for word in all.iter().filter(fits) {
        if out.json {
            out.object(word);
        } else {
            out.line(word);
        }
    }
    Ok(CommandEnd::All)
}

/// The files and directories on the hub in the directory of a path that is being typed; directories end with a slash.
fn in_directory(context: &Context, typed: &str) -> Result<BTreeSet<String>> {
    let hub = servers::files(&context.settings)?;
    let dir = typed.rsplit_once('/').map_or("", |(dir, _)| dir);
    let inside = if dir.is_empty() {
        String::new()
    } else {
        format!("{dir}/")
    };
    let query = ListingQuery {
        path: Some(dir).filter(|dir| !dir.is_empty()),
        search: None,
        all_kinds: true,
    };
    let mut names = BTreeSet::new();
    find::each(&hub, &query, 0, MAX_FILES_READ, |record| {
        let name = record.full_name();
        if let Some(rest) = name.strip_prefix(&inside) {
            match rest.split_once('/') {
                Some((below, _)) => names.insert(format!("{inside}{below}/")),
                None => names.insert(name),
            };
        }
        true
    })?;
    Ok(names)
}
