//! `mesync key`: edits the keys of the hub on this machine, and their rights, in the hub's file, which a running hub rereads.

use std::time::Duration;

use serde::Serialize;

use super::hub::{find_hub, running_hub, wait_for_hub};
use super::output::left;
use super::parse::Invocation;
use super::{CommandEnd, Context};
use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::hub::rights::{self, Administration, FileAccess, FileScope, InboxRight, SendScope};
use crate::hub::{self, Key, Rights};
use crate::wire::KeyUse;
use crate::wire::rights::RightsRow;
use crate::{clock, wire};

/// The longest wait for a running hub to report the uses of keys.
const MAX_USES_WAIT: Duration = Duration::from_secs(5);

/// A key in the output of `--json`.
#[derive(Serialize)]
struct ListedKey {
    name: String,
    /// Present only when the key was made: the hub stores its hash alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    created: Option<String>,
    /// The last use since the hub was started; `null`: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    used_at: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_from: Option<Option<String>>,
    /// The time until which the replaced key is accepted, unless this one is used before.
    #[serde(skip_serializing_if = "Option::is_none")]
    old_key_until: Option<String>,
    rights: RightsRow,
}

/// `mesync key add NAME`
pub fn add(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let name = wire::check_host(invocation.argument(0)?).map_err(|e| invocation.usage(e))?;
    let rights = named(invocation)?.unwrap_or_default();
    let dir = &context.settings.hub.data_dir;
    wait_for_hub(dir)?;
    let key = hub::add_key_with(dir, &name, rights.clone())?;
    show_key(context, &name, key, &rights);
    if context.out.is_over() {
        // the key is shown only once: remove it if it could not be printed, because it would prevent the next one
        hub::remove_key(&context.settings.hub.data_dir, &name)?;
        return Err(not_shown(&name, "the key is removed"));
    }
    Ok(CommandEnd::All)
}

/// `mesync key rotate NAME`
pub fn rotate(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let name = wire::check_host(invocation.argument(0)?).map_err(|e| invocation.usage(e))?;
    let dir = context.settings.hub.data_dir.clone();
    find_hub(&dir)?;
    let key = hub::rotate_key(&dir, &name)?;
    let rights = hub::list_keys(&dir)?.into_iter().find(|k| k.name == name);
    show_key(
        context,
        &name,
        key,
        &rights.map(|k| k.rights).unwrap_or_default(),
    );
    if context.out.is_over() {
        return Err(not_shown(
            &name,
            "the old key works for a day: run it again",
        ));
    }
    Ok(CommandEnd::All)
}

fn show_key(context: &mut Context, name: &str, key: String, rights: &Rights) {
    if context.out.json {
        context.out.object(&ListedKey {
            name: name.to_string(),
            key: Some(key),
            created: Some(clock::rfc3339(clock::now())),
            used_at: None,
            used_from: None,
            old_key_until: None,
            rights: rights.row(),
        })
    } else {
        context.out.line(&key)
    }
    context.out.flush();
}

fn not_shown(name: &str, then: &str) -> Error {
    Error::new(
        Kind::Io,
        format!("cannot show the key of {name}: standard output is closed; {then}"),
    )
}

/// `mesync key set NAME`
pub fn set(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let name = wire::check_host(invocation.argument(0)?).map_err(|e| invocation.usage(e))?;
    if named(invocation)?.is_none() {
        return Err(invocation.usage("which right is to change? name at least one flag"));
    }
    let dir = &context.settings.hub.data_dir;
    find_hub(dir)?;
    let now = hub::set_rights(dir, &name, |rights| change(rights, invocation).map(drop))?;
    if context.out.json {
        context
            .out
            .object(&serde_json::json!({ "name": name, "rights": now.row() }))
    } else {
        let [files, sends, receives, admin] = now.words();
        context.out.line(&format!(
            "{name}: files {files}, sends to {sends}, receives {receives}, admin {admin}"
        ))
    }
    Ok(CommandEnd::All)
}

/// The rights from flags; `None`: no flag names one.
pub fn named(invocation: &Invocation) -> Result<Option<Rights>> {
    let mut rights = Rights::default();
    Ok((change(&mut rights, invocation)? > 0).then_some(rights))
}

/// Changes only the rights that flags name; returns their number.
fn change(rights: &mut Rights, invocation: &Invocation) -> Result<usize> {
    for (a, b) in [
        ("files", "no-files"),
        ("read-only", "read-write"),
        ("messages", "no-messages"),
        ("admin", "no-admin"),
    ] {
        if invocation.has(a) && invocation.has(b) {
            return Err(invocation.usage(format!("--{a} and --{b} contradict each other")));
        }
    }
    let mut changed = 0;
    let mut given = |flag: &str| {
        changed += usize::from(invocation.has(flag));
        invocation.has(flag)
    };
    if given("files") {
        let dirs: Vec<String> = invocation
            .values("files")?
            .into_iter()
            .map(str::to_string)
            .collect();
        rights.files = rights::scope(&dirs).map_err(|e| invocation.usage(e))?;
    }
    if given("no-files") {
        rights.files = FileScope::None;
    }
    if given("read-only") {
        rights.access = FileAccess::ReadOnly;
    }
    if given("read-write") {
        rights.access = FileAccess::ReadWrite;
    }
    if given("send") {
        rights.send = match invocation.value("send")?.unwrap_or_default() {
            "all" => SendScope::All,
            "none" => SendScope::None,
            list => {
                let hosts: Vec<String> = list.split(',').map(|host| host.trim().into()).collect();
                rights::targets(&hosts).map_err(|e| invocation.usage(e))?
            }
        };
    }
    if given("messages") {
        rights.inbox = InboxRight::Open;
    }
    if given("no-messages") {
        rights.inbox = InboxRight::Closed;
    }
    if given("admin") {
        rights.administration = Administration::Yes;
    }
    if given("no-admin") {
        rights.administration = Administration::No;
    }
    Ok(changed)
}

/// `mesync key list`
pub fn list(context: &mut Context, _: &Invocation) -> Result<CommandEnd> {
    find_hub(&context.settings.hub.data_dir)?;
    let keys = hub::list_keys(&context.settings.hub.data_dir)?;
    let uses = uses(&context.settings);
    let find = |key: &Key| uses.as_ref()?.iter().find(|used| used.name == key.name);
    if context.out.json {
        for key in &keys {
            let used = find(key);
            context.out.object(&ListedKey {
                name: key.name.clone(),
                key: None,
                created: key.created.map(clock::rfc3339),
                used_at: Some(used.map(|used| used.used_at.clone())),
                used_from: Some(used.map(|used| used.from.clone())),
                old_key_until: key.replaces.map(|(_, until)| clock::rfc3339(until)),
                rights: key.rights.row(),
            });
        }
        return Ok(CommandEnd::All);
    }
    let columns = [
        "NAME",
        "CREATED",
        "FILES",
        "SENDS TO",
        "RECEIVES",
        "ADMIN",
        "LAST USED",
        "FROM",
    ];
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            let used = find(key);
            let at = used.and_then(|used| clock::parse_rfc3339(&used.used_at));
            let never = if uses.is_some() {
                "not since the hub started"
            } else {
                "unknown"
            };
            let mut row = vec![
                key.name.clone(),
                key.created.map_or("-".into(), clock::local),
            ];
            row.extend(key.rights.words());
            row.push(at.map_or(never.into(), clock::local));
            row.push(used.map_or("-".into(), |used| used.from.clone()));
            row
        })
        .collect();
    context.out.table(&columns.map(left), &rows);
    Ok(CommandEnd::All)
}

/// The keys that were used since the hub was started; `None`: no running hub answered.
fn uses(settings: &Settings) -> Option<Vec<KeyUse>> {
    let hub = running_hub(settings, MAX_USES_WAIT).ok()??;
    hub.key_uses().ok()
}

/// `mesync key remove NAME`
pub fn remove(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let name = wire::check_host(invocation.argument(0)?).map_err(|e| invocation.usage(e))?;
    find_hub(&context.settings.hub.data_dir)?;
    hub::remove_key(&context.settings.hub.data_dir, &name)?;
    if context.out.json {
        context
            .out
            .object(&serde_json::json!({ "name": name, "removed": true }))
    } else {
        context.out.line(&format!("{name}: key removed"))
    }
    Ok(CommandEnd::All)
}
