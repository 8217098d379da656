//! What the rows of a path become when the hub tells of it, leaves it out of a full listing, or was set back.

use crate::files::plan::{BaseRow, Entry, RemoteRow, Stamp};

use super::traits::Rows;

/// The rule for [`Remote`](super::traits::Write::Remote): answers overtake each other, the later revision is the truth. And a
/// base that is lost learns what the hub has instead.
pub fn hear(rows: &mut Rows, row: &RemoteRow) {
    if row.rev >= rows.remote.rev {
        rows.remote = row.clone();
    }
    if rows.base.lost {
        rows.base = instead(&rows.base, &rows.remote);
    }
}

/// The rule for [`Unlisted`](super::traits::Write::Unlisted): the remote row becomes the default (deleted) if something was live
/// there, and none of the rows is from after the listing.
pub fn hear_of_none(rows: &mut Rows, through: u64) {
    let known = rows.base.entry.is_some() || rows.remote.entry.is_some() || rows.base.lost;
    if known && rows.base.rev.max(rows.remote.rev) <= through {
        rows.remote = RemoteRow::default();
        if rows.base.lost {
            rows.base = instead(&rows.base, &rows.remote);
        }
    }
}

/// The rule for [`SetBack`](super::traits::Write::SetBack): no row is from after `through` any more.
pub fn set_back(rows: &mut Rows, through: u64) {
    if rows.base.rev > through {
        rows.base = BaseRow {
            rev: through,
            lost: true,
            ..rows.base.clone()
        };
    }
    if rows.remote.rev > through {
        // nothing new, as far as is known
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

/// What a lost base becomes. Where the hub has an older row than what was in sync, that row is where the lost history began: what
/// is here is an edit of it, or a delete, and goes up on that condition. Where it has a later one, both have changed, unless it is
/// what was in sync: another machine has sent it again.
fn instead(base: &BaseRow, row: &RemoteRow) -> BaseRow {
    let same = base
        .entry
        .zip(row.entry)
        .is_some_and(|(was, now)| was.same_body(&now));
    if row.rev > base.rev && !same {
        return BaseRow::default();
    }
    let kept = |seen: Stamp, was: Entry, now: Entry| {
        // a mode that the filesystem has made up is no edit now either
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
