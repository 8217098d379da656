//! The end of a history: what the tables must have, and that the same groups give the same tables.

use super::*;

impl World {
    /// Compares the tables with the model, with each other and with the disk.
    pub fn end(&mut self) {
        self.sweep();
        let store = &self.hub.store;
        let changes = store
            .changes(0, 0.into(), None, 1000, (&|_| true, usize::MAX))
            .unwrap()
            .page()
            .unwrap();
        let listed: BTreeMap<String, (u64, bool)> = changes
            .changes
            .iter()
            .map(|r| (r.full_name(), (r.rev, r.deleted_at.is_none())))
            .collect();
        let wanted: BTreeMap<String, (u64, bool)> = self
            .names
            .iter()
            .map(|(n, state)| (NAMES[*n].to_string(), (state.rev, state.live.is_some())))
            .collect();
        assert_eq!((listed, changes.rev), (wanted, self.rev));
        let live = self
            .names
            .values()
            .filter(|state| state.live.is_some())
            .count();
        assert_eq!(self.hub.names("", "", 0, 100).1, live as u64);
        for (n, state) in &self.names {
            let id = id_of(NAMES[*n]);
            let read = |rev| self.hub.read_file(id, rev);
            assert!(
                read(None) == state.live.map(|content| bytes(content.bytes)),
                "{n}"
            );
            let versions: Vec<u64> = store
                .versions(id)
                .unwrap()
                .iter()
                .map(|v| v.rev)
                .rev()
                .collect();
            assert_eq!(versions, state.versions.keys().copied().collect::<Vec<_>>());
            state.versions.iter().for_each(|(rev, (content, _))| {
                assert!(read(Some(*rev)) == Some(bytes(content.bytes)))
            });
        }
        let findings = store.examine();
        assert_eq!(
            (&findings.damage[..], &findings.orphans[..]),
            (&[][..], &[][..])
        );
        self.hub.now += 2 * DAY;
        self.sweep();
        let in_use = self.names.values().flat_map(|s| {
            s.live
                .into_iter()
                .chain(s.versions.values().map(|(c, _)| *c))
        });
        let in_use: std::collections::BTreeSet<usize> =
            in_use.map(|c| c.bytes).filter(|bytes| *bytes > 0).collect();
        assert_eq!(
            self.hub.store.file_counts().unwrap().chunks,
            in_use.len() as u64,
            "nothing else is kept"
        );
        assert_eq!(
            self.hub.on_disk().0,
            in_use
                .iter()
                .filter(|bytes| SIZES[**bytes] > 16_384)
                .count()
        );
    }

    /// Applies the same groups again, with bodies that are received again.
    pub fn replay(&self) -> TestStore {
        let (hub, hashes) = (scratch(), [0, 1, 2, 3, 4, 5].map(|n| Hash::of(&bytes(n))));
        for group in &self.groups {
            let mut group = group.clone();
            let changes = group.ops.iter_mut().filter_map(|op| match op {
                Op::File(FileOp::Change(changes)) => Some(changes),
                _ => None,
            });
            let puts = changes.flatten().filter_map(|change| match change {
                FileChange::Put(put) => Some(put),
                FileChange::Delete { .. } => None,
            });
            for put in puts {
                for (chunk, from) in &mut put.chunks {
                    let content = hashes
                        .iter()
                        .position(|hash| *hash == chunk.sha256)
                        .unwrap();
                    *from = feed(hub.store.intake().unwrap(), &bytes(content))
                        .bytes
                        .remove(0);
                }
            }
            hub.store.apply(&group).unwrap();
        }
        hub
    }
}
