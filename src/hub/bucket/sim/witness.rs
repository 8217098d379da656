//! The observer: it sees each entry land, applies it to tables of its own, and knows what every operation came to. So the log is
//! the witness of linearizability: an answer must be the outcome of its operation at its place.

use std::collections::{BTreeMap, BTreeSet};

use tempfile::TempDir;
use uuid::Uuid;

use crate::hub::store::Store;
use crate::hub::store::chunk_name::ChunkName;
use crate::hub::store::ops::files::{FileChange, FileOp};
use crate::hub::store::ops::shared::LogEntry;
use crate::hub::store::ops::{Op, Outcome};

pub struct Witness {
    _dir: TempDir,
    pub store: Store,
    /// The last entry that counts.
    pub n: u64,
    /// The outcomes of each operation, at each of its places.
    pub outcomes: BTreeMap<Uuid, Vec<Outcome>>,
    /// The tables after each entry.
    tables: BTreeMap<u64, Vec<String>>,
    /// What went wrong.
    pub faults: Vec<String>,
}

impl Witness {
    pub fn new(cluster: Uuid, epoch: Uuid) -> Witness {
        let dir = super::scratch();
        Store::create_view(&dir.path().join(Store::FILE), 1 << 20, cluster, epoch).unwrap();
        let store = Store::open(dir.path(), 1 << 20, 0, epoch).unwrap();
        Witness {
            _dir: dir,
            store,
            n: 0,
            outcomes: BTreeMap::new(),
            tables: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    pub fn fault(&mut self, what: String) {
        self.faults.push(what);
    }

    /// An object was written. An entry counts if it is the next one: one that lands at a place which was removed is never read.
    pub fn put(&mut self, name: &str, bytes: &[u8], is_there: &dyn Fn(&str) -> bool) {
        let Some(n) = name
            .strip_prefix("log/")
            .and_then(|n| n.parse::<u64>().ok())
        else {
            return;
        };
        if n <= self.n {
            return;
        }
        if n > self.n + 1 {
            return self.fault(format!("entry {n} was written after {}", self.n));
        }
        let entry = LogEntry::decode(bytes).unwrap();
        self.n = n;
        let outcomes = match self.store.apply_entry(&entry, false) {
            Ok(outcomes) => outcomes,
            Err(e) => return self.fault(format!("entry {n} cannot be applied: {e:?}")),
        };
        for (op, outcome) in entry.ops.iter().zip(outcomes) {
            if let Some(id) = id_of(op) {
                self.outcomes.entry(id).or_default().push(outcome);
            }
        }
        self.tables.insert(n, self.store.dump());
        let lost: Vec<String> = (self.store.chunk_objects().unwrap().iter())
            .map(ChunkName::to_string)
            .filter(|name| !is_there(name))
            .collect();
        if !lost.is_empty() {
            self.fault(format!("entry {n}: these objects are not there: {lost:?}"));
        }
    }

    pub fn deleted(&mut self, name: &str) {
        if name
            .parse::<ChunkName>()
            .is_ok_and(|name| self.store.chunk_objects().unwrap().contains(&name))
        {
            self.fault(format!("{name} was removed, and a chunk has it"));
        }
    }

    /// A hub's tables after entry `n`.
    pub fn compare(&mut self, hub: usize, n: u64, tables: &[String]) {
        let ours = self
            .tables
            .get(&n)
            .cloned()
            .unwrap_or_else(|| tables.to_vec());
        if ours != tables {
            let only = |a: &[String], b: &[String]| {
                let b: BTreeSet<_> = b.iter().cloned().collect();
                a.iter()
                    .filter(|row| !b.contains(*row))
                    .cloned()
                    .collect::<Vec<_>>()
            };
            self.fault(format!(
                "hub {hub} differs after entry {n}: {:?} instead of {:?}",
                only(tables, &ours),
                only(&ours, tables)
            ));
        }
    }

    /// A hub has answered an operation.
    pub fn answered(&mut self, id: Uuid, answer: &Outcome) {
        let stands = self
            .outcomes
            .get(&id)
            .is_some_and(|all| all.contains(answer));
        if !stands {
            self.fault(format!(
                "answered {answer:?}, but the log has {:?}",
                self.outcomes.get(&id)
            ));
        }
    }
}

/// The identity of an operation of a client.
pub fn id_of(op: &Op) -> Option<Uuid> {
    match op {
        Op::Post(messages) => messages.first().map(|message| message.id),
        Op::File(FileOp::Change(changes)) => changes.first().and_then(|change| match change {
            FileChange::Put(put) => Some(put.fresh),
            FileChange::Delete { author, .. } => author.key,
        }),
        _ => None,
    }
}
