//! Applies operations on messages and hosts to the tables. The operation, the group's inputs and the tables decide everything.
//!
//! It opens no transaction and commits none, reads no clock, and does not know the state in memory.

use uuid::Uuid;

use super::tables::{HostRow, HostValue, Tables};
use crate::database::DbResult;
use crate::database::table::ReadableTable;
use crate::hub::store::ops::{Group, Incoming, Op, Outcome, Wake};
use crate::wire::{self, PostResult, Status};

/// Messages and ids that one sweep removes at most, of each kind; and twice the number that its group adds, so that it keeps up.
pub const SWEEP: usize = 500;
/// Milliseconds by which the time of the last pull may be stale on the disk, so that idle pulls write nothing.
pub const SEEN_STEP: u64 = 600_000;

/// Applies one operation. After an error the tables are half changed: the transaction must be dropped.
pub fn apply(t: &mut Tables<'_>, group: &Group, op: &Op) -> DbResult<Outcome> {
    match op {
        Op::Post(_) if group.full => Ok(Outcome::DiskFull),
        Op::Post(messages) => {
            let (mut results, mut wakes) = (Vec::with_capacity(messages.len()), Vec::new());
            for m in messages {
                let result = post(t, group, m)?;
                if result.status == Status::Queued {
                    wakes.push(
                        m.target
                            .clone()
                            .map_or_else(|| Wake::AllBut(m.source.clone()), Wake::Host),
                    );
                }
                results.push(result);
            }
            wakes.sort();
            wakes.dedup();
            Ok(Outcome::Posted { results, wakes })
        }
        Op::Pull {
            host,
            instance,
            through,
        } => pull(t, group, host, *instance, *through),
        Op::Seen {
            host,
            instance,
            through,
            seen,
        } => {
            if let Some(row) = t
                .host(host)?
                .filter(|row| row.registered.is_some() && row.instance == *instance)
            {
                acknowledge(t, host, row, *through, *seen)?;
            }
            Ok(Outcome::Done)
        }
        Op::PutHost { host } => {
            let row = t.host(host)?;
            match row {
                Some(row) if row.registered.is_some() => {}
                None if !t.room_for_host(group.limits.hosts)? => return Ok(Outcome::TooManyHosts),
                row => {
                    let row = HostRow {
                        registered: Some(t.totals.seq),
                        last_seen: group.now,
                        ..row.unwrap_or_default()
                    };
                    t.set_host(host, Some(row));
                }
            }
            Ok(Outcome::Done)
        }
        Op::Mute { host } => {
            if let Some(row) = t.host(host)?.filter(|row| row.registered.is_some()) {
                let row = HostRow {
                    registered: None,
                    ..row
                };
                t.set_host(host, Some(row));
            }
            Ok(Outcome::Done)
        }
        Op::Rebind { host, instance } => match t.host(host)?.filter(|row| row.registered.is_some())
        {
            None => Ok(Outcome::NoSuchHost),
            Some(row) => {
                if row.instance != *instance {
                    t.set_host(
                        host,
                        Some(HostRow {
                            instance: *instance,
                            ..row
                        }),
                    );
                }
                Ok(Outcome::Done)
            }
        },
        Op::DeleteHost { host } => {
            if t.host(host)?.is_none() {
                return Ok(Outcome::NoSuchHost);
            }
            for seq in t.targeted_through(host, u64::MAX)? {
                t.remove(seq)?;
            }
            t.set_host(host, None);
            Ok(Outcome::Done)
        }
        Op::Sweep => sweep(t, group.now),
        Op::File(_) | Op::Log(_) => Err(redb::Error::DatabaseClosed),
    }
}

fn post(t: &mut Tables<'_>, group: &Group, m: &Incoming) -> DbResult<PostResult> {
    let plain = PostResult {
        id: Some(m.id),
        status: Status::Queued,
        error: None,
        warning: None,
        retry: false,
    };
    let rejected = |why: String, retry| {
        Ok(PostResult {
            status: Status::Rejected,
            error: Some(why),
            retry,
            ..plain.clone()
        })
    };
    let known = t.ids.get(m.id.as_u128())?.map(|row| row.value().1);
    match known {
        Some(digest) if digest == m.digest => {
            return Ok(PostResult {
                status: Status::Duplicate,
                ..plain
            });
        }
        Some(_) => {
            return rejected(
                format!(
                    "the id {} was used for another message: give this one an id of its own",
                    m.id
                ),
                false,
            );
        }
        None => {}
    }
    let bytes = m.json.len() as u64;
    if t.totals.bytes + bytes > group.limits.space {
        return rejected(
            format!(
                "the hub's space for messages is full ({} bytes)",
                group.limits.space
            ),
            true,
        );
    }
    let mut warning = None;
    if let Some(host) = &m.target {
        let row = t.host(host)?;
        // names that no client has pulled under may take at most half of the table
        if row.is_none() && !t.room_for_host(group.limits.hosts / 2)? {
            return rejected(
                format!(
                    "no host is called \"{host}\", and the hub keeps messages for too many such names already"
                ),
                true,
            );
        }
        let row = row.unwrap_or_default();
        if row.queued >= group.limits.queue_messages
            || row.queued_bytes + bytes > group.limits.queue_bytes
        {
            let why = format!(
                "the queue of \"{host}\" is full: {} messages, {} bytes wait for it",
                row.queued, row.queued_bytes
            );
            return rejected(why, true);
        }
        warning = row.registered.is_none().then(|| {
            format!("no host \"{host}\" has pulled yet: kept for it until the message expires")
        });
    }
    t.add(
        m,
        group.now,
        group.now.saturating_add(m.ttl.unwrap_or(group.limits.ttl)),
    )?;
    Ok(PostResult { warning, ..plain })
}

fn pull(
    t: &mut Tables<'_>,
    group: &Group,
    host: &str,
    instance: Option<Uuid>,
    through: u64,
) -> DbResult<Outcome> {
    let row = t.host(host)?;
    if row.is_none() && !t.room_for_host(group.limits.hosts)? {
        return Ok(Outcome::TooManyHosts);
    }
    let mut row = row.unwrap_or_default();
    if row.instance.is_some() && row.instance != instance {
        return Ok(Outcome::OtherInstance);
    }
    if row.registered.is_none() || row.instance != instance || row.first_seen.is_none() {
        row.registered = row.registered.or(Some(t.totals.seq));
        row.first_seen = row.first_seen.or(Some(group.now));
        row.instance = instance;
        t.set_host(host, Some(row.clone()));
    }
    acknowledge(t, host, row, through, group.now)?;
    Ok(Outcome::Pulled)
}

/// Advances a host's cursor, at most to the last seq, and removes the messages targeted at it up to there.
fn acknowledge(
    t: &mut Tables<'_>,
    host: &str,
    row: HostRow,
    through: u64,
    seen: u64,
) -> DbResult<()> {
    let through = through.min(t.totals.seq);
    let moves = through > row.cursor;
    if !moves && seen < row.last_seen.saturating_add(SEEN_STEP) {
        return Ok(());
    }
    let last_seen = row.last_seen.max(seen);
    t.set_host(
        host,
        Some(HostRow {
            cursor: row.cursor.max(through),
            last_seen,
            ..row
        }),
    );
    if moves {
        for seq in t.targeted_through(host, through)? {
            t.remove(seq)?;
        }
    }
    Ok(())
}

/// Removes broadcasts that every live host has acknowledged, then expired messages, then ids that need not be remembered.
fn sweep(t: &mut Tables<'_>, now: u64) -> DbResult<Outcome> {
    t.write_hosts()?;
    let most = SWEEP + 2 * (t.totals.seq - t.began) as usize;
    let floor = floor(&t.hosts, t.totals.seq, now)?;
    let done: Vec<u64> = t
        .broadcasts
        .range(..=floor)?
        .take(most)
        .map(|row| Ok(row?.0.value()))
        .collect::<DbResult<_>>()?;
    for seq in &done {
        t.remove(*seq)?;
    }
    let over: Vec<u64> = t
        .expiries
        .range(..=(now, u64::MAX))?
        .take(most)
        .map(|row| Ok(row?.0.value().1))
        .collect::<DbResult<_>>()?;
    for seq in &over {
        t.remove(*seq)?;
    }
    let mut forgotten = 0;
    while forgotten < most && forgettable(&t.id_ages, now)? {
        let Some(id) = t.id_ages.pop_first()?.map(|(_, row)| row.value().0) else {
            break;
        };
        t.ids.remove(id)?;
        forgotten += 1;
    }
    t.changed |= forgotten > 0;
    Ok(Outcome::Swept {
        more: [done.len(), over.len(), forgotten].contains(&most),
    })
}

/// The last seq through which all live hosts have acknowledged broadcasts; without hosts, the last seq.
pub fn floor(
    hosts: &impl ReadableTable<&'static str, HostValue>,
    seq: u64,
    now: u64,
) -> DbResult<u64> {
    let mut floor = seq;
    for row in hosts.iter()? {
        let row = HostRow::from_value(row?.1.value());
        if let Some(from) = row.broadcasts_from().filter(|_| row.is_live(now)) {
            floor = floor.min(from);
        }
    }
    Ok(floor)
}

/// The oldest id need not be remembered: it has expired, or there are too many (receivers still refuse messages that they have
/// seen; only the sender does not learn of the duplicate).
pub fn forgettable(ages: &impl ReadableTable<u64, (u128, u64)>, now: u64) -> DbResult<bool> {
    let oldest = ages.first()?.map(|(_, row)| row.value().1);
    Ok(
        oldest.is_some_and(|at| now.saturating_sub(at) > wire::ID_MEMORY * 1000)
            || ages.len()? > super::MAX_IDS,
    )
}
