//! Commands about files on the hub that transfer no content: show, remove, versions. `ls` has its own file.
//!
//! `transfer::find` interprets paths of the command line; `client` has the routes.

use serde::Serialize;
use uuid::Uuid;

use super::output::{left, right};
use super::parse::Invocation;
use super::{CommandEnd, Context, fail, local_path, note};
use crate::client::{ChangeHeaders, HubClient, HubResult, ListingQuery, UploadOutcome};
use crate::config::{Settings, limits};
use crate::daemon::servers;
use crate::error::{Error, Kind, Result};
use crate::logger::one_line;
use crate::transfer::find;
use crate::wire::files::{self, Name, Record, Restore, Version};
use crate::wire::revision::Condition;
use crate::{clock, wire};

pub fn time(text: Option<&str>) -> String {
    text.and_then(clock::parse_rfc3339)
        .map_or("-".into(), clock::local)
}

/// `mesync info ID`
pub fn info(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let hub = servers::files(&context.settings)?;
    let record = meant_or_deleted(context, invocation, &hub)?;
    let out = &mut context.out;
    if out.json {
        out.object(&record);
        return Ok(CommandEnd::All);
    }
    let kind = match record.kind {
        files::EntryKind::File => "file",
        files::EntryKind::Dir => "directory",
        files::EntryKind::Symlink => "symbolic link",
    };
    let mut lines = vec![
        ("name", one_line(&record.full_name())),
        ("id", record.id.to_string()),
        ("kind", kind.to_string()),
        ("size", out.size(record.size)),
        (
            "sha256",
            record
                .checksum_sha256
                .map_or("-".into(), |sum| sum.to_string()),
        ),
        (
            "mode",
            record
                .mode
                .map_or("-".into(), |mode| format!("{:04o}", mode & 0o7777)),
        ),
        ("modified", time(record.mtime.as_deref())),
        ("type", one_line(&record.content_type)),
        ("uploaded", time(Some(&record.updated_at))),
    ];
    if record.rev > 0 {
        lines.push(("revision", record.rev.to_string()));
    }
    lines.extend(record.host.as_ref().map(|host| ("by", one_line(host))));
    lines.extend(
        record
            .deleted_at
            .as_ref()
            .map(|at| ("deleted", time(Some(at)))),
    );
    lines.extend(
        record
            .renamed_to
            .as_ref()
            .map(|name| ("renamed to", one_line(&name.full()))),
    );
    for (name, text) in lines {
        let name = out.bold(&format!("{name:<10}"));
        out.line(&format!("{name} {text}"));
    }
    Ok(CommandEnd::All)
}

/// The outcome for one file of `rm`.
#[derive(Serialize)]
struct RemovedFile<'a> {
    id: Option<Uuid>,
    path: &'a str,
    removed: bool,
    error: Option<String>,
}

/// `mesync rm ID…`
pub fn rm(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let hub = servers::files(&context.settings)?;
    let (mut errors, out) = (Vec::new(), &mut context.out);
    for what in &invocation.arguments {
        let what = what.to_string_lossy();
        let records = if invocation.has("recursive") {
            path_on_hub(&context.settings, &hub, &what).and_then(|path| below(&hub, &path))
        } else {
            meant(&context.settings, &hub, &what, find::record)
                .map(|record| vec![record])
                .map_err(|failure| {
                    hint_at_directory(&hub, &what, failure.error, "rm -r removes all files in it")
                })
        };
        let records = records.unwrap_or_else(|error| {
            if out.json {
                out.object(&RemovedFile {
                    id: None,
                    path: &what,
                    removed: false,
                    error: Some(error.to_string()),
                });
            }
            errors.push(error);
            Vec::new()
        });
        for record in records {
            let (name, error) = (record.full_name(), remove(&hub, &record).err());
            match (out.json, &error) {
                (true, _) => {
                    let error = error.as_ref().map(Error::to_string);
                    out.object(&RemovedFile {
                        id: Some(record.id),
                        path: &name,
                        removed: error.is_none(),
                        error,
                    });
                }
                (false, None) => out.line(&format!("{} removed", one_line(&name))),
                (false, Some(_)) => {}
            }
            errors.extend(error);
        }
    }
    fail(errors)
}

/// Removes only the listed revision, because another client may have changed the file since.
fn remove(hub: &HubClient, record: &Record) -> Result<()> {
    let condition = if record.rev > 0 {
        Condition::Match(record.revision())
    } else {
        Condition::None
    };
    hub.remove(
        record.id,
        ChangeHeaders {
            condition,
            key: Some(Uuid::now_v7()),
            ..ChangeHeaders::default()
        },
    )
    .map(drop)
    .map_err(|failure| {
        let shown = wire::brief(&record.full_name());
        match failure.status {
            412 => Error::new(
                Kind::Failed,
                format!("cannot remove {shown}: another client has changed it"),
            )
            .hint("list it again, then repeat the command"),
            _ => Error {
                what: format!("cannot remove {shown}: {}", failure.error.what),
                ..failure.error
            },
        }
    })
}

/// The record of a file, or all records below a directory.
fn below(hub: &HubClient, what: &str) -> Result<Vec<Record>> {
    if Uuid::try_parse(what).is_ok() {
        return Ok(vec![find::record(hub, what)?]);
    }
    let name = find::path(what)?;
    let records = find::below(hub, &name)?;
    if records.is_empty() {
        find::record(hub, what)
            .map(|record| vec![record])
            .map_err(Into::into)
    } else {
        Ok(records)
    }
}

/// Adds a hint to an error if the argument is a directory.
pub fn hint_at_directory(hub: &HubClient, what: &str, error: Error, hint: &str) -> Error {
    let inside = |name: &Name| {
        let (own, mut found) = (name.full(), false);
        let query = ListingQuery {
            path: Some(&own),
            search: None,
            all_kinds: true,
        };
        let asked = find::each(hub, &query, 0, u64::MAX, |record| {
            found = record.full_name().starts_with(&format!("{own}/"));
            !found
        });
        asked.is_ok() && found
    };
    match find::path(what) {
        Ok(name) if error.kind == Kind::Failed && inside(&name) => Error::new(
            Kind::Failed,
            format!("{} is a directory on the hub", wire::brief(what)),
        )
        .hint(hint),
        _ => error,
    }
}

/// The record for an argument: an id, a path on the hub, or a local path in a synced directory. A path that begins with "./"
/// or "../" is local; any other is searched on the hub first.
pub fn meant(
    settings: &Settings,
    hub: &HubClient,
    what: &str,
    find: impl Fn(&HubClient, &str) -> HubResult<Record>,
) -> HubResult<Record> {
    if local_path::is_explicit(what) {
        return find(hub, &path_on_hub(settings, hub, what)?);
    }
    match find(hub, what) {
        // status 0: the hub has answered, and has no such file
        Err(failure) if failure.status == 0 && failure.error.kind == Kind::Failed => {
            match local_path::on_hub(settings, hub.server_url(), what) {
                Some(path) if path != what.trim_matches('/') => {
                    find(hub, &path).map_err(|_| failure)
                }
                _ => Err(failure),
            }
        }
        other => other,
    }
}

/// As [`meant`] for the first argument, but also finds deleted records.
fn meant_or_deleted(
    context: &Context,
    invocation: &Invocation,
    hub: &HubClient,
) -> HubResult<Record> {
    let what = invocation.argument(0)?;
    meant(&context.settings, hub, what, find::record_or_deleted)
}

/// The path on the hub for an argument; only an explicitly local path is translated.
pub fn path_on_hub(settings: &Settings, hub: &HubClient, what: &str) -> Result<String> {
    if !local_path::is_explicit(what) {
        return Ok(what.to_string());
    }
    let found = local_path::on_hub(settings, hub.server_url(), what);
    found.filter(|path| !path.is_empty()).ok_or_else(|| {
        Error::new(
            Kind::Failed,
            format!(
                "{} is not a path in a directory that is synced with hub {}",
                wire::brief(what),
                hub.url()
            ),
        )
        .hint("name it by its path on the hub: see mesync ls")
    })
}

/// Fails if the server is no mesync hub, because only that has versions.
fn needs_versions(hub: &HubClient) -> Result<()> {
    if hub.is_ours()? {
        Ok(())
    } else {
        Err(Error::new(
            Kind::Failed,
            format!("the server {} keeps no versions", hub.url()),
        )
        .hint("only \"mesync serve\" does"))
    }
}

/// `mesync versions ID`
pub fn versions(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let hub = servers::files(&context.settings)?;
    needs_versions(&hub)?;
    let record = meant_or_deleted(context, invocation, &hub)?;
    let versions = hub.versions(record.id)?;
    let out = &mut context.out;
    if out.json {
        versions.iter().for_each(|v| out.object(v));
        return Ok(CommandEnd::All);
    }
    if versions.is_empty() {
        note(&format!(
            "{} has no older versions",
            wire::brief(&record.full_name())
        ));
    }
    let row = |v: &Version| {
        let (modified, replaced) = (time(v.mtime.as_deref()), time(Some(&v.replaced_at)));
        vec![
            v.rev.to_string(),
            out.size(v.size),
            modified,
            replaced,
            v.host.as_deref().map_or("-".into(), one_line),
        ]
    };
    let rows: Vec<Vec<String>> = versions.iter().map(row).collect();
    out.table(
        &[
            right("REV"),
            right("SIZE"),
            left("MODIFIED"),
            left("REPLACED"),
            left("BY"),
        ],
        &rows,
    );
    if rows.len() >= limits::FILE_VERSIONS {
        note(&format!(
            "the hub keeps {} versions of a file: older ones are dropped, whatever their age",
            limits::FILE_VERSIONS
        ));
    }
    Ok(CommandEnd::All)
}

/// `mesync restore ID`
pub fn restore(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let bad = |text: &str| {
        invocation.usage(format!(
            "bad value for --rev: not a number: \"{}\"",
            wire::brief(text)
        ))
    };
    let rev = invocation
        .value("rev")?
        .map(|text| text.parse().map_err(|_| bad(text)))
        .transpose()?;
    let hub = servers::files(&context.settings)?;
    needs_versions(&hub)?;
    let record = meant_or_deleted(context, invocation, &hub)?;
    let name = wire::brief(&record.full_name());
    let change = ChangeHeaders {
        key: Some(Uuid::now_v7()),
        ..ChangeHeaders::default()
    };
    let stored =
        hub.restore(record.id, Restore { rev }, change)
            .map_err(|failure| match failure.status {
                404 => Error::new(
                    Kind::Failed,
                    format!("cannot restore {name}: there is no such version"),
                )
                .hint("see mesync versions"),
                _ => failure.error,
            })?;
    let record = stored.record.unwrap_or(record);
    let out = &mut context.out;
    match (out.json, stored.outcome) {
        (true, _) => out.object(&record),
        (false, UploadOutcome::Unchanged) => out.line(&format!("{name} is unchanged")),
        (false, _) => out.line(&format!(
            "{name} is restored, {} from {}",
            out.size(record.size),
            time(record.mtime.as_deref())
        )),
    }
    Ok(CommandEnd::All)
}
