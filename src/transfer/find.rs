//! Resolves an id or a path that a user typed to a record; and reads listings to their end.
//!
//! It only reads; other modules use the records.

use uuid::Uuid;

use crate::client::{HubClient, HubResult, ListingQuery};
use crate::error::{Error, Kind};
use crate::wire::brief;
use crate::wire::files::{Name, PAGE, Record};

/// Calls `take` with every matching record from `offset` on, until there are no more, `most` were
/// passed, or it returns `false`.
///
/// Reads pages until an empty one: a server may return fewer rows than requested, and not count
/// them.
pub fn each(
    hub: &HubClient,
    query: &ListingQuery<'_>,
    mut offset: u64,
    most: u64,
    mut take: impl FnMut(Record) -> bool,
) -> HubResult<()> {
    let end = offset.saturating_add(most);
    while offset < end {
        let page = hub.list(query, (end - offset).min(PAGE as u64) as usize, offset)?;
        offset += page.records.len() as u64;
        if page.records.is_empty() {
            break;
        }
        for record in page.records {
            if !take(record) {
                return Ok(());
            }
        }
        if page.total.is_some_and(|total| offset >= total) {
            break;
        }
    }
    Ok(())
}

/// The live record under this name.
pub fn named(hub: &HubClient, name: &Name) -> HubResult<Option<Record>> {
    let query = ListingQuery {
        path: Some(&name.path),
        search: Some(&name.name),
        all_kinds: true,
    };
    let mut found = None;
    each(hub, &query, 0, u64::MAX, |record| {
        if record.name == name.name
            && record.path.trim_matches('/') == name.path
            && record.deleted_at.is_none()
        {
            found = Some(record);
        }
        found.is_none()
    })?;
    Ok(found)
}

/// All live records below a directory, and what has its name.
pub fn below(hub: &HubClient, name: &Name) -> HubResult<Vec<Record>> {
    let (own, inside) = (name.full(), format!("{}/", name.full()));
    let mut records = Vec::new();
    let query = ListingQuery {
        path: Some(&own),
        search: None,
        all_kinds: true,
    };
    each(hub, &query, 0, u64::MAX, |record| {
        if record.full_name().starts_with(&inside) {
            records.push(record);
        }
        true
    })?;
    records.extend(named(hub, name)?);
    Ok(records)
}

/// The record of an id, or of a path.
pub fn record(hub: &HubClient, what: &str) -> HubResult<Record> {
    if let Ok(id) = Uuid::try_parse(what) {
        match hub.info(id) {
            // a file may have such a name
            Err(failure) if failure.status == 404 => {}
            other => return other,
        }
    }
    named(hub, &path(what)?)?.ok_or_else(|| nothing(hub, what).into())
}

/// Like [`record`], but also finds a deleted file in the hub's history.
pub fn record_or_deleted(hub: &HubClient, what: &str) -> HubResult<Record> {
    match record(hub, what) {
        Err(failure) if failure.status == 0 && failure.error.kind == Kind::Failed => {
            let (id, name) = (Uuid::try_parse(what).ok(), path(what)?);
            let fits =
                |r: &Record| id.map_or(r.name == name.name && r.path == name.path, |id| r.id == id);
            deleted(hub, fits)?.ok_or(failure)
        }
        other => other,
    }
}

/// The newest event of a deleted file.
fn deleted(hub: &HubClient, fits: impl Fn(&Record) -> bool) -> HubResult<Option<Record>> {
    let (mut offset, mut found) = (0, None);
    loop {
        let (events, rows) = hub.history(None, PAGE, offset)?;
        if rows == 0 {
            return Ok(found);
        }
        offset += rows as u64;
        found = events
            .into_iter()
            .rfind(|e| fits(&e.payload))
            .map(|e| e.payload)
            .or(found);
    }
}

/// Parses a typed path on the hub.
pub fn path(what: &str) -> Result<Name, Error> {
    Name::parse(what.trim_matches('/')).map_err(|why| {
        Error::new(
            Kind::Usage,
            format!("cannot look for \"{}\": {why}", brief(what)),
        )
    })
}

fn nothing(hub: &HubClient, what: &str) -> Error {
    let hint = match what.rsplit_once('/') {
        Some((dir, _)) if !dir.is_empty() => format!("see mesync ls --path {}", brief(dir)),
        _ => "see mesync ls".into(),
    };
    Error::new(
        Kind::Failed,
        format!("there is no file \"{}\" on hub {}", brief(what), hub.url()),
    )
    .hint(hint)
}
