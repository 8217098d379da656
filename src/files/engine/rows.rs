//! How the rows of a path change when the hub reports it, omits it from a full listing, or was set
//! back.

use crate::files::plan::{BaseRow, Entry, RemoteRow, Stamp};

use super::traits::Rows;

/// The rule for [`Remote`](super::traits::Write::Remote): responses may overtake each other, so the
/// later revision wins. A lost base learns what the hub has instead.
pub fn hear(rows: &mut Rows, row: &RemoteRow) {
    if row.rev >= rows.remote.rev {
        rows.remote = row.clone();
    }
    if rows.base.lost {
        rows.base = instead(&rows.base, &rows.remote);
    }
}

/// The rule for [`Unlisted`](super::traits::Write::Unlisted): the remote row becomes the default
/// (deleted) if it was live and no row is newer than the listing.
pub fn hear_of_none(rows: &mut Rows, through: u64) {
    let known = rows.base.entry.is_some() || rows.remote.entry.is_some() || rows.base.lost;
    if known && rows.base.rev.max(rows.remote.rev) <= through {
        rows.remote = RemoteRow::default();
        if rows.base.lost {
            rows.base = instead(&rows.base, &rows.remote);
        }
    }
}

/// The rule for [`SetBack`](super::traits::Write::SetBack): no row keeps a revision after
/// `through`.
pub fn set_back(rows: &mut Rows, through: u64) {
    if rows.base.rev > through {
        rows.base = BaseRow {
            rev: through,
            lost: true,
            ..rows.base.clone()
        };
    }
    if rows.remote.rev > through {
        // nothing new is known
        let BaseRow { rev, entry, .. } = if rows.base.lost {
            BaseRow::default()
        } else {
            rows.base.clone()
        };
        rows.remote = RemoteRow {
            rev,
            entry,
            id: rows.remote.id,
            ..RemoteRow::default()
        };
    }
}

/// What a lost base becomes. If the hub has an older row than the one in sync, the lost history
/// began at that row: the local version is an edit of it, or a delete, and is sent on that
/// condition. If the hub has a later row, both sides have changed, unless that row equals the one
/// in sync: another machine has sent it again. A file that made way for a directory is not known: its
/// new name is of the lost history, and nothing else may have its content.
fn instead(base: &BaseRow, row: &RemoteRow) -> BaseRow {
    let same = base
        .entry
        .zip(row.entry)
        .is_some_and(|(was, now)| was.same_body(&now));
    let is_dir = |entry: Option<Entry>| entry.map(|entry| entry.is_dir());
    let made_way = is_dir(base.entry) == Some(true) && is_dir(row.entry) == Some(false);
    if row.rev > base.rev && !same || made_way {
        return BaseRow::default();
    }
    let kept = |seen: Stamp, was: Entry, now: Entry| {
        // a mode that the filesystem made up is not an edit now either
        let mode = if seen.mode == was.mode {
            now.mode
        } else {
            seen.mode
        };
        Stamp {
            ctime: 0,
            mode,
            ..seen
        }
    };
    let seen = match (base.seen, base.entry, row.entry) {
        (Some(seen), Some(was), Some(now)) if was.kind == now.kind => Some(kept(seen, was, now)),
        _ => None,
    };
    BaseRow {
        rev: row.rev,
        lost: false,
        entry: row.entry,
        seen,
    }
}
