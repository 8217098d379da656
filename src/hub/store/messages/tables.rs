//! The tables of messages and hosts, and the few operations that keep them consistent: add, remove, change a host.
//!
//! `apply` decides which messages are accepted and when they are removed.

use std::collections::BTreeMap;

use redb::{ReadTransaction, TableDefinition, WriteTransaction};
use uuid::Uuid;

use crate::database::DbResult;
use crate::database::table::{OpenTable, ReadableTable, Table};
use crate::hub::store::meta::{META, copy_table};
use crate::hub::store::ops::{Group, Incoming};

/// seq -> id, accepted, expires (hub time, ms), source, target ("": broadcast), JSON.
pub const MESSAGES: TableDefinition<u64, MessageValue> = TableDefinition::new("messages");
/// (expires, seq), to find expired messages.
pub const EXPIRIES: TableDefinition<(u64, u64), ()> = TableDefinition::new("expiries");
/// seq -> source: once, for any number of hosts. The source is repeated here so that a host's own are skipped cheaply.
pub const BROADCASTS: TableDefinition<u64, &str> = TableDefinition::new("broadcasts");
/// (host, seq).
pub const TARGETED: TableDefinition<(&str, u64), ()> = TableDefinition::new("targeted");
/// name -> row.
pub const HOSTS: TableDefinition<&str, HostValue> = TableDefinition::new("hosts");
/// id -> seq, digest: kept for `wire::ID_MEMORY`, longer than the message itself.
pub const IDS: TableDefinition<u128, (u64, [u8; 32])> = TableDefinition::new("ids");
/// seq -> id, accepted: the ids in order of age.
pub const ID_AGES: TableDefinition<u64, (u128, u64)> = TableDefinition::new("id_ages");

pub type MessageValue = (u128, u64, u64, &'static str, &'static str, &'static str);
pub type HostValue = (Option<u64>, Option<u128>, u64, Option<u64>, u64, u64, u64);

/// Copies all tables without the epoch, for a backup: a restored hub must differ from the one that was backed up.
pub fn copy(from: &ReadTransaction, to: &WriteTransaction) -> DbResult<()> {
    copy_table(from, to, META)?;
    to.table(META)?.remove("epoch")?;
    copy_table(from, to, MESSAGES)?;
    copy_table(from, to, EXPIRIES)?;
    copy_table(from, to, BROADCASTS)?;
    copy_table(from, to, TARGETED)?;
    copy_table(from, to, HOSTS)?;
    copy_table(from, to, IDS)?;
    copy_table(from, to, ID_AGES)
}

/// The row of a host. Times are hub time in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostRow {
    /// The last seq at registration: broadcasts after it are for this host. `None`: so far only a target.
    pub registered: Option<u64>,
    pub instance: Option<Uuid>,
    /// The host has acknowledged everything through this seq.
    pub cursor: u64,
    /// Time of the first pull.
    pub first_seen: Option<u64>,
    /// Time of the last pull, or of the registration.
    pub last_seen: u64,
    /// Targeted messages that wait, and their bytes of JSON.
    pub queued: u64,
    pub queued_bytes: u64,
}

impl HostRow {
    pub fn read(
        table: &impl ReadableTable<&'static str, HostValue>,
        name: &str,
    ) -> DbResult<Option<HostRow>> {
        Ok(table.get(name)?.map(|row| HostRow::from_value(row.value())))
    }

    pub fn from_value(v: (Option<u64>, Option<u128>, u64, Option<u64>, u64, u64, u64)) -> HostRow {
        HostRow {
            registered: v.0,
            instance: v.1.map(Uuid::from_u128),
            cursor: v.2,
            first_seen: v.3,
            last_seen: v.4,
            queued: v.5,
            queued_bytes: v.6,
        }
    }

    pub fn value(&self) -> (Option<u64>, Option<u128>, u64, Option<u64>, u64, u64, u64) {
        let instance = self.instance.map(|i| i.as_u128());
        (
            self.registered,
            instance,
            self.cursor,
            self.first_seen,
            self.last_seen,
            self.queued,
            self.queued_bytes,
        )
    }

    /// Broadcasts after this seq are for the host and not acknowledged. `None`: no broadcast is for it.
    pub fn broadcasts_from(&self) -> Option<u64> {
        self.registered.map(|at| at.max(self.cursor))
    }

    /// Seen recently enough to delay the removal of broadcasts.
    pub fn is_live(&self, now: u64) -> bool {
        self.registered.is_some() && now.saturating_sub(self.last_seen) <= super::STALE_HOST_MILLIS
    }
}

/// Counters that every group reads and most change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// The last used seq.
    pub seq: u64,
    pub messages: u64,
    /// Bytes of all JSON.
    pub bytes: u64,
}

impl Totals {
    pub fn read(meta: &impl ReadableTable<&'static str, u128>) -> DbResult<Totals> {
        let get = |name| Ok::<u64, redb::Error>(meta.get(name)?.map_or(0, |v| v.value() as u64));
        Ok(Totals {
            seq: get("seq")?,
            messages: get("messages")?,
            bytes: get("bytes")?,
        })
    }
}

/// The tables of messages and hosts, open for one transaction. Dropped without [`Tables::finish`], it changes nothing.
pub struct Tables<'t> {
    pub meta: Table<'t, &'static str, u128>,
    messages: Table<'t, u64, MessageValue>,
    pub expiries: Table<'t, (u64, u64), ()>,
    pub broadcasts: Table<'t, u64, &'static str>,
    pub targeted: Table<'t, (&'static str, u64), ()>,
    pub hosts: Table<'t, &'static str, HostValue>,
    pub ids: Table<'t, u128, (u64, [u8; 32])>,
    pub id_ages: Table<'t, u64, (u128, u64)>,
    pub totals: Totals,
    /// The last seq before this transaction.
    pub began: u64,
    /// Rows read or changed in this transaction, so that the target of 256 posts is written once.
    rows: BTreeMap<String, (Option<HostRow>, bool)>,
    new_hosts: u64,
    pub changed: bool,
}

impl<'t> Tables<'t> {
    pub fn open(tx: &'t WriteTransaction) -> DbResult<Tables<'t>> {
        let meta = tx.table(META)?;
        let totals = Totals::read(&meta)?;
        Ok(Tables {
            meta,
            messages: tx.table(MESSAGES)?,
            expiries: tx.table(EXPIRIES)?,
            broadcasts: tx.table(BROADCASTS)?,
            targeted: tx.table(TARGETED)?,
            hosts: tx.table(HOSTS)?,
            ids: tx.table(IDS)?,
            id_ages: tx.table(ID_AGES)?,
            totals,
            began: totals.seq,
            rows: BTreeMap::new(),
            new_hosts: 0,
            changed: false,
        })
    }

    pub fn host(&mut self, name: &str) -> DbResult<Option<HostRow>> {
        if let Some((row, _)) = self.rows.get(name) {
            return Ok(row.clone());
        }
        let row = HostRow::read(&self.hosts, name)?;
        self.rows.insert(name.to_string(), (row.clone(), false));
        Ok(row)
    }

    pub fn set_host(&mut self, name: &str, row: Option<HostRow>) {
        self.changed = true;
        self.rows.insert(name.to_string(), (row, true));
    }

    /// Whether a row may be added for a new name, with `most` rows in total.
    pub fn room_for_host(&mut self, most: u64) -> DbResult<bool> {
        // overestimates while a group adds and removes: the bound holds, and the next group counts exactly
        let room = self.hosts.len()? + self.new_hosts < most;
        self.new_hosts += u64::from(room);
        Ok(room)
    }

    /// Stores a message under the next seq; the caller has admitted it.
    pub fn add(&mut self, m: &Incoming, now: u64, expires: u64) -> DbResult<()> {
        self.changed = true;
        self.totals.seq += 1;
        self.totals.messages += 1;
        self.totals.bytes += m.json.len() as u64;
        let (seq, id) = (self.totals.seq, m.id.as_u128());
        match &m.target {
            None => drop(self.broadcasts.insert(seq, m.source.as_str())?),
            Some(host) => {
                self.targeted.insert((host.as_str(), seq), ())?;
                let mut row = self.host(host)?.unwrap_or_default();
                row.queued += 1;
                row.queued_bytes += m.json.len() as u64;
                self.set_host(host, Some(row));
            }
        }
        let target = m.target.as_deref().unwrap_or("");
        self.messages.insert(
            seq,
            (id, now, expires, m.source.as_str(), target, m.json.as_str()),
        )?;
        self.expiries.insert((expires, seq), ())?;
        self.ids.insert(id, (seq, m.digest))?;
        self.id_ages.insert(seq, (id, now))?;
        Ok(())
    }

    /// Removes a message from all tables except those of ids.
    pub fn remove(&mut self, seq: u64) -> DbResult<()> {
        self.changed = true;
        let Some((expires, target, bytes)) = self.messages.remove(seq)?.map(|row| {
            let (_, _, expires, _, target, json) = row.value();
            (expires, target.to_string(), json.len() as u64)
        }) else {
            return Ok(());
        };
        self.totals.messages -= 1;
        self.totals.bytes -= bytes;
        self.expiries.remove((expires, seq))?;
        if target.is_empty() {
            self.broadcasts.remove(seq)?;
            return Ok(());
        }
        self.targeted.remove((target.as_str(), seq))?;
        if let Some(mut row) = self.host(&target)? {
            row.queued -= 1;
            row.queued_bytes -= bytes;
            // the row says nothing any more
            let gone = row.registered.is_none() && row.queued == 0;
            self.set_host(&target, (!gone).then_some(row));
        }
        Ok(())
    }

    /// The targeted messages of a host through `through`.
    pub fn targeted_through(&self, host: &str, through: u64) -> DbResult<Vec<u64>> {
        self.targeted
            .range((host, 0)..=(host, through))?
            .map(|row| Ok(row?.0.value().1))
            .collect()
    }

    /// Writes the buffered rows, so that the table of hosts is complete.
    pub fn write_hosts(&mut self) -> DbResult<()> {
        for (name, (row, changed)) in &mut self.rows {
            match row {
                _ if !std::mem::take(changed) => {}
                Some(row) => drop(self.hosts.insert(name.as_str(), row.value())?),
                None => drop(self.hosts.remove(name.as_str())?),
            }
        }
        self.new_hosts = 0;
        Ok(())
    }

    /// Writes the buffered rows. True if anything has changed.
    pub fn finish(mut self, group: &Group) -> DbResult<bool> {
        let (now, wall) = (group.now, group.wall);
        self.write_hosts()?;
        let Totals {
            seq,
            messages,
            bytes,
        } = self.totals;
        if self.changed {
            for (name, value) in [
                ("seq", seq),
                ("messages", messages),
                ("bytes", bytes),
                ("age", now),
                ("wall", wall),
            ] {
                self.meta.insert(name, u128::from(value))?;
            }
        }
        Ok(self.changed)
    }
}
