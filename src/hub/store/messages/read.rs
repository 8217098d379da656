//! Reads the messages for a host, page by page, and the known hosts.
//!
//! It writes nothing to the tables: a pull leaves its ack in memory, or returns an operation that must be committed first.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::tables::{BROADCASTS, HOSTS, HostRow, ID_AGES, MESSAGES, TARGETED, Totals};
use crate::database::DbResult;
use crate::database::table::{OpenTable, ReadableTable};
use crate::error::Result;
use crate::hub::store::Store;
use crate::hub::store::meta::META;
use crate::hub::store::ops::Op;

/// Bytes of JSON in one page, unless a single message is longer.
pub const PAGE_BYTES: usize = 256 * 1024;

/// A pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    pub host: String,
    pub instance: Option<Uuid>,
    pub epoch: Option<Uuid>,
    /// The client has processed everything through this seq. `None`: continue after the host's cursor.
    pub after: Option<u64>,
    /// The id of the message with the number `after`, if the client knows it.
    pub id: Option<Uuid>,
    /// Messages in the page at most.
    pub limit: usize,
    /// Hub time in milliseconds.
    pub now: u64,
    /// The host may be restored from an older state: the kept messages after `after` are sent again, even if acknowledged.
    pub again: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessagePage {
    /// seq and JSON, in order of seq.
    pub messages: Vec<(u64, String)>,
    /// More messages follow.
    pub more: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulled {
    /// May be sent at once.
    Now(MessagePage),
    /// May be sent only after this was committed with the outcome `Outcome::Pulled`.
    Once(Op, MessagePage),
    /// `epoch` is that of another hub.
    OtherEpoch,
    /// This hub has not used the number `after` yet, or has used it for another message: its disk was restored to an earlier
    /// state, so the client may be ahead of it.
    OtherHistory,
    /// Another instance acts under this name.
    OtherInstance,
}

/// A host as it is listed. Times are hub time in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    pub name: String,
    pub row: HostRow,
    /// Messages that wait, including broadcasts.
    pub queued: u64,
    pub oldest: Option<u64>,
    pub stale: bool,
}

impl Store {
    /// Answers a pull, or returns the operation that must be on the disk before the answer may be sent.
    ///
    /// An ack is kept in memory until the next commit, so idle pulls write nothing; it must be durable first only if the answer
    /// has further messages.
    pub fn pull(&self, ask: &PullRequest) -> Result<Pulled> {
        self.read(|tx| {
            if ask.epoch.is_some_and(|epoch| epoch != self.epoch) {
                return Ok(Pulled::OtherEpoch);
            }
            let host = ask.host.as_str();
            let row = HostRow::read(&tx.table(HOSTS)?, host)?.unwrap_or_default();
            if row.instance.is_some() && row.instance != ask.instance {
                return Ok(Pulled::OtherInstance);
            }
            let seq = Totals::read(&tx.table(META)?)?.seq;
            let given = ask.after.and_then(|after| {
                tx.table(ID_AGES)
                    .ok()?
                    .get(after)
                    .ok()?
                    .map(|row| row.value().0)
            });
            let is_other = ask
                .id
                .zip(given)
                .is_some_and(|(id, given)| id.as_u128() != given);
            if is_other || ask.after.is_some_and(|after| after > seq) {
                return Ok(Pulled::OtherHistory);
            }
            let (known, written) = (
                row.first_seen.is_some() && row.instance == ask.instance,
                row.cursor,
            );
            let mut through = ask.after.unwrap_or(0).max(written);
            if known {
                let mut live = self.live();
                through = through.max(live.through(host, ask.instance));
                live.note(
                    host,
                    ask.instance,
                    through,
                    ask.now,
                    (written, row.last_seen),
                );
            }
            let from = if ask.again {
                ask.after.unwrap_or(0)
            } else {
                through
            };
            let (page, only_own) = self.page(tx, ask, &row, from, seq)?;
            // only own broadcasts follow: advance the cursor without a commit, so that they can be removed
            if known && only_own {
                self.live()
                    .note(host, ask.instance, seq, ask.now, (written, row.last_seen));
            }
            Ok(
                if known && (page.messages.is_empty() || through <= written) {
                    Pulled::Now(page)
                } else {
                    Pulled::Once(
                        Op::Pull {
                            host: ask.host.clone(),
                            instance: ask.instance,
                            through,
                        },
                        page,
                    )
                },
            )
        })
    }

    /// The messages for a host after `through`, and whether only broadcasts of its own follow.
    fn page(
        &self,
        tx: &redb::ReadTransaction,
        ask: &PullRequest,
        row: &HostRow,
        through: u64,
        seq: u64,
    ) -> DbResult<(MessagePage, bool)> {
        let host = ask.host.as_str();
        let (broadcasts, targeted, messages) = (
            tx.table(BROADCASTS)?,
            tx.table(TARGETED)?,
            tx.table(MESSAGES)?,
        );
        // an unregistered host gets no broadcasts
        let from = row.registered.map_or(seq, |at| at.max(through));
        let from_other = self.live().skip(host, from);
        let mut others = broadcasts
            .range(from_other + 1..)?
            .map(|r| Ok::<_, redb::Error>(r.map(|(seq, src)| (seq.value(), src))?));
        let mut next_other = || loop {
            match others.next().transpose()? {
                Some((_, source)) if source.value() == host => {}
                other => return DbResult::Ok(other.map(|(seq, _)| seq)),
            }
        };
        let mut mine = targeted
            .range((host, through + 1)..=(host, u64::MAX))?
            .map(|r| Ok::<_, redb::Error>(r?.0.value().1));
        let (mut other, mut own) = (next_other()?, mine.next().transpose()?);
        // a host's own broadcasts are few enough to be read once
        let end = other.map_or(seq, |first| first - 1);
        self.live().own(host, from, end);
        let only_own =
            other.is_none() && own.is_none() && broadcasts.range(from + 1..)?.next().is_some();

        let (mut page, mut bytes) = (MessagePage::default(), 0);
        while let Some(seq) = [other, own].into_iter().flatten().min() {
            if Some(seq) == other {
                other = next_other()?
            } else {
                own = mine.next().transpose()?
            }
            let Some(message) = messages.get(seq)? else {
                continue;
            };
            let (_, _, expires, _, _, json) = message.value();
            if expires <= ask.now {
                continue;
            }
            if page.messages.len() == ask.limit.max(1)
                || (bytes > 0 && bytes + json.len() > PAGE_BYTES)
            {
                page.more = true;
                break;
            }
            bytes += json.len();
            page.messages.push((seq, json.to_string()));
        }
        Ok((page, only_own))
    }

    /// All hosts that are registered or have messages waiting, by name; or one of them.
    ///
    /// To count, each broadcast that some host has not acknowledged is read once, for any number of hosts.
    pub fn hosts(&self, only: Option<&str>, now: u64) -> Result<Vec<HostView>> {
        self.read(|tx| {
            let (table, targeted, messages) =
                (tx.table(HOSTS)?, tx.table(TARGETED)?, tx.table(MESSAGES)?);
            let mut rows = BTreeMap::new();
            match only {
                Some(name) => {
                    rows.extend(HostRow::read(&table, name)?.map(|row| (name.to_string(), row)))
                }
                None => {
                    for row in table.iter()? {
                        let (name, row) = row?;
                        rows.insert(name.value().to_string(), HostRow::from_value(row.value()));
                    }
                }
            }
            for (name, row) in &mut rows {
                let live = self.live();
                row.cursor = row.cursor.max(live.through(name, row.instance));
                row.last_seen = row.last_seen.max(live.seen(name));
            }
            let waiting = count(&tx.table(BROADCASTS)?, &rows, now)?;
            let mut views = Vec::with_capacity(rows.len());
            for (name, row) in &rows {
                let (broadcasts, first) = waiting.get(name.as_str()).copied().unwrap_or((0, None));
                // targeted messages through a cursor that is only in memory are still in the table
                let mut first_targeted = None;
                let mut done = 0;
                for key in targeted.range((name.as_str(), 0)..=(name.as_str(), u64::MAX))? {
                    let seq = key?.0.value().1;
                    if seq > row.cursor {
                        first_targeted = Some(seq);
                        break;
                    }
                    done += 1;
                }
                let oldest = match [first, first_targeted].into_iter().flatten().min() {
                    Some(seq) => messages.get(seq)?.map(|m| m.value().1),
                    None => None,
                };
                let stale = row.registered.is_some() && !row.is_live(now);
                let queued = broadcasts + row.queued.saturating_sub(done);
                views.push(HostView {
                    name: name.clone(),
                    row: row.clone(),
                    queued,
                    oldest,
                    stale,
                });
            }
            Ok(views)
        })
    }

    /// The number of stored messages, and their bytes of JSON.
    pub fn totals(&self) -> Result<Totals> {
        self.read(|tx| Totals::read(&tx.table(META)?))
    }
}

/// The number of broadcasts that wait for each live host, and the first of them: one pass from the newest down to the lowest
/// cursor, which records the state at each cursor.
fn count<'a>(
    broadcasts: &impl ReadableTable<u64, &'static str>,
    rows: &'a BTreeMap<String, HostRow>,
    now: u64,
) -> DbResult<HashMap<&'a str, (u64, Option<u64>)>> {
    let mut hosts: Vec<(u64, &str)> = (rows.iter().filter(|(_, row)| row.is_live(now)))
        .filter_map(|(name, row)| Some((row.broadcasts_from()?, name.as_str())))
        .collect();
    hosts.sort_unstable();
    let Some((lowest, _)) = hosts.first().copied() else {
        return Ok(HashMap::new());
    };
    let (mut counts, mut passed) = (HashMap::with_capacity(hosts.len()), Passed::default());
    for row in broadcasts.range(lowest + 1..)?.rev() {
        let (seq, source) = row?;
        while let Some((_, name)) = hosts.pop_if(|(from, _)| *from >= seq.value()) {
            counts.insert(name, passed.for_host(name));
        }
        passed.add(seq.value(), source.value());
    }
    counts.extend(
        hosts
            .into_iter()
            .map(|(_, name)| (name, passed.for_host(name))),
    );
    Ok(counts)
}

/// The broadcasts that the pass has read, from the newest down.
#[derive(Default)]
struct Passed {
    all: u64,
    by_source: HashMap<String, u64>,
    /// The oldest, and the oldest of any other source.
    oldest: Option<(u64, String)>,
    of_another: Option<u64>,
}

impl Passed {
    fn add(&mut self, seq: u64, source: &str) {
        self.all += 1;
        match self.by_source.get_mut(source) {
            Some(n) => *n += 1,
            None => drop(self.by_source.insert(source.to_string(), 1)),
        }
        match &mut self.oldest {
            Some(oldest) if oldest.1 == source => oldest.0 = seq,
            oldest => {
                self.of_another = oldest
                    .replace((seq, source.to_string()))
                    .map(|(seq, _)| seq)
            }
        }
    }

    /// Broadcasts that are not the host's own: their number, and the oldest.
    fn for_host(&self, host: &str) -> (u64, Option<u64>) {
        let own = self.by_source.get(host).copied().unwrap_or(0);
        let oldest = self.oldest.as_ref().and_then(|(seq, source)| {
            if source == host {
                self.of_another
            } else {
                Some(*seq)
            }
        });
        (self.all - own, oldest)
    }
}
