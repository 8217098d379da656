//! `mesync ls`: lists the files on the hub.

use super::files::time;
use super::output::Output;
use super::parse::Invocation;
use super::{CommandEnd, Context, local_path, note};
use crate::client::{HubClient, ListingQuery};
use crate::daemon::servers;
use crate::error::{Error, Kind, Result};
use crate::logger::one_line;
use crate::transfer::find;
use crate::wire;
use crate::wire::files::{self, PAGE_DEFAULT, Record};

/// `mesync ls`
pub fn ls(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let number = |flag: &str| -> Result<Option<u64>> {
        let bad = |text: &str| {
            invocation.usage(format!(
                "bad value for --{flag}: not a whole number: \"{}\"",
                wire::brief(text)
            ))
        };
        invocation
            .value(flag)?
            .map(|text| text.parse().map_err(|_| bad(text)))
            .transpose()
    };
    if invocation.has("all") && invocation.value("limit")?.is_some() {
        return Err(invocation.usage("--all and --limit exclude each other"));
    }
    let most = if invocation.has("all") {
        u64::MAX
    } else {
        number("limit")?.unwrap_or(PAGE_DEFAULT as u64)
    };
    let offset = number("offset")?.unwrap_or(0);
    let path = invocation.value("path")?.map(|p| p.trim_matches('/'));
    let dir = match invocation.arguments.first() {
        Some(_) if path.is_some() => {
            return Err(invocation.usage("DIR and --path exclude each other"));
        }
        Some(_) => Some(invocation.argument(0)?),
        None => None,
    };
    let query = ListingQuery {
        path,
        search: invocation.value("search")?,
        all_kinds: true,
    };
    let is_narrowed = dir.is_some() || path.is_some() || query.search.is_some() || offset > 0;
    let hub = servers::files(&context.settings)?;
    let on_hub = |dir: &str| local_path::on_hub(&context.settings, hub.server_url(), dir);
    let mut listing = HubListing {
        hub: &hub,
        query,
        offset,
        most,
        ids: invocation.has("ids"),
        out: &mut context.out,
    };
    let listed = match dir {
        None => listing.below("")?,
        Some(dir) if local_path::is_explicit(dir) => {
            let dir = on_hub(dir).ok_or_else(|| {
                let what = format!("{} is in no synced directory", wire::brief(dir));
                Error::new(Kind::Failed, what).hint("name the directory by its path on the hub")
            })?;
            listing.below(&dir)?
        }
        Some(dir) => match (listing.below(dir.trim_matches('/'))?, on_hub(dir)) {
            // the hub has no such directory, but this machine has one that is synced with it
            (ListEnd::Nothing, Some(synced)) => listing.below(&synced)?,
            (listed, _) => listed,
        },
    };
    let out = &mut context.out;
    match listed {
        ListEnd::Nothing if !out.json && is_narrowed => note("no such files"),
        ListEnd::Nothing if !out.json => note("there are no files on the hub"),
        ListEnd::Cut { next } => {
            out.flush();
            note(&format!(
                "there are more: --offset {next} shows the next, --all shows all"
            ));
        }
        ListEnd::Nothing | ListEnd::All => {}
    }
    Ok(CommandEnd::All)
}

/// What a listing shows, and where.
struct HubListing<'a> {
    hub: &'a HubClient,
    query: ListingQuery<'a>,
    offset: u64,
    most: u64,
    ids: bool,
    out: &'a mut Output,
}

enum ListEnd {
    Nothing,
    All,
    /// There are more, from this offset on.
    Cut {
        next: u64,
    },
}

impl HubListing<'_> {
    /// Lists all below a directory, or the file of this path; "": all of the hub.
    fn below(&mut self, dir: &str) -> Result<ListEnd> {
        let (mut shown, mut more, mut skip) = (0, false, 0);
        let (query, first, read) = if dir.is_empty() {
            (self.query, self.offset, self.most.saturating_add(1))
        } else {
            // the server's prefix "docs" also matches "docs2", so rows are counted here
            skip = self.offset;
            let path = Some(dir);
            (ListingQuery { path, ..self.query }, 0, u64::MAX)
        };
        let inside = format!("{dir}/");
        find::each(self.hub, &query, first, read, |record| {
            if !dir.is_empty() {
                if !record.full_name().starts_with(&inside) {
                    return true;
                }
                if skip > 0 {
                    skip -= 1;
                    return true;
                }
            }
            more = shown == self.most;
            if !more {
                list_one(&record, shown == 0, self.ids, self.out);
                shown += 1;
            }
            !more && !self.out.is_over()
        })?;
        if shown == 0
            && self.offset == 0
            && !more
            && let Ok(name) = find::path(dir)
            && let Some(record) = find::named(self.hub, &name)?
        {
            list_one(&record, true, self.ids, self.out);
            shown = 1;
        }
        Ok(match (more, shown) {
            (true, _) => ListEnd::Cut {
                next: self.offset + shown,
            },
            (false, 0) => ListEnd::Nothing,
            (false, _) => ListEnd::All,
        })
    }
}

/// Before an id, names up to this width are aligned.
const NAME_WIDTH: usize = 40;

/// Writes each line at once, because there can be many; so columns have fixed widths.
fn list_one(record: &Record, first: bool, ids: bool, out: &mut Output) {
    if out.json {
        return out.object(record);
    }
    if first {
        let name = if ids {
            format!("{:NAME_WIDTH$}  ID", "NAME")
        } else {
            "NAME".into()
        };
        let title = out.bold(&format!("{:>10}  {:19}  {name}", "SIZE", "MODIFIED"));
        out.line(&title);
    }
    let mark = match record.kind {
        files::EntryKind::File => "",
        files::EntryKind::Dir => "/",
        files::EntryKind::Symlink => "@",
    };
    let mut name = one_line(&record.full_name()) + mark;
    if ids {
        name = format!("{name:NAME_WIDTH$}  {}", record.id);
    }
    let (size, modified) = (out.size(record.size), time(record.mtime.as_deref()));
    out.line(&format!("{size:>10}  {modified:19}  {name}"));
}
