//! The inbox: takes a page of messages from the hub so that each appears once, whatever crashes in between.
//!
//! It does not talk to the hub and runs no hook; it records which hooks are to run.
//!
//! The order is what keeps the promise: contents and hook records under hidden names, synced; then the lines in the log,
//! synced; then the renames. What is logged and still hidden after a crash is renamed at start, what is hidden and not
//! logged is removed and comes again.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use uuid::Uuid;

use super::seen::Seen;
use super::{Queue, file_name, hooks, parse_file_name};
use crate::clock;
use crate::config::limits;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::wire::{Cursor, Message, PullAnswer};

/// The inbox of one machine.
pub struct Inbox {
    base: PathBuf,
    dir: PathBuf,
    seen: Seen,
    /// Everything up to here is done with.
    cursor: Option<Cursor>,
    /// Of the next record of a hook.
    order: u64,
}

/// What a page brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// New files in `inbox/`.
    pub messages: usize,
    /// Hooks that are to run.
    pub hooks: usize,
}

struct Fresh {
    name: String,
    line: Cursor,
    hook: Option<hooks::Record>,
}

impl Inbox {
    /// Opens it and finishes what a crash interrupted.
    pub fn open(base: &Path, now: SystemTime) -> Result<Inbox> {
        let (mut seen, lines) = Seen::open(base)?;
        seen.come_back(now)?;
        let dir = Queue::Inbox.dir(base);
        let cursor = seen.last();
        let order = hooks::next_order(base).map_err(|e| Error::io(format!("read {}", hooks::records_dir(base).display()), &e))?;
        let inbox = Inbox { base: base.to_path_buf(), dir, seen, cursor, order };
        inbox.recover(&lines)?;
        Ok(inbox)
    }

    fn recover(&self, lines: &[Cursor]) -> Result<()> {
        let failed = |e: io::Error| Error::io(format!("recover {}", self.dir.display()), &e);
        // records first: one without its file would run a hook for a message that never came
        hooks::keep_only(&self.base, |id| self.seen.contains(id)).map_err(failed)?;
        let mut logged: HashMap<Uuid, String> = HashMap::new();
        for name in names(&self.dir).map_err(failed)? {
            let Some(message) = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp")) else { continue };
            match parse_file_name(message) {
                Some((_, id)) if self.seen.contains(&id) => drop(logged.insert(id, message.to_string())),
                Some(_) => std::fs::remove_file(self.dir.join(&name)).map_err(failed)?,
                None => {}
            }
        }
        for name in lines.iter().filter_map(|l| logged.remove(&l.id)) {
            let path = self.dir.join(&name);
            disk::rename(&disk::temporary(&path), &path).map_err(failed)?;
        }
        Ok(())
    }

    /// Where the next pull begins; `None`: at the hub's own cursor.
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// The hub has another epoch: its numbers mean nothing here. Ids are remembered all the same.
    pub fn forget_cursor(&mut self) {
        self.cursor = None;
    }

    /// Takes a page. If one message cannot be written, its predecessors are taken, and the error says so.
    pub fn receive(&mut self, page: &PullAnswer, now: SystemTime) -> Result<Received> {
        let mut fresh: Vec<Fresh> = Vec::new();
        let mut in_page = HashSet::new();
        let mut cursor = self.cursor;
        let mut trouble = None;
        for numbered in &page.messages {
            let mut line = Cursor { epoch: page.epoch, seq: numbered.seq, id: Uuid::nil() };
            match Message::parse(numbered.message.get().as_bytes()) {
                Ok(message) if message.id.is_some() => {
                    line.id = message.id.unwrap_or_default();
                    if !self.seen.contains(&line.id) && in_page.insert(line.id) {
                        match self.write(&message, numbered.message.get(), line, now) {
                            Ok(written) => fresh.push(written),
                            Err(e) => {
                                trouble = Some(e);
                                break;
                            }
                        }
                    }
                }
                // it would come again for ever: pass over it, with a word
                Ok(_) => log::warn!("the hub sent message {} without an id; it is passed over", numbered.seq),
                Err(why) => log::warn!("the hub sent message {} that is none: {why}; it is passed over", numbered.seq),
            }
            cursor = Some(line);
        }
        let received = Received { messages: fresh.len(), hooks: fresh.iter().filter(|f| f.hook.is_some()).count() };
        if !fresh.is_empty() {
            let lines: Vec<Cursor> = fresh.iter().map(|f| f.line).collect();
            if let Err(e) = self.sync(&fresh).and_then(|()| self.seen.append(&lines, now)) {
                // after a failed sync nobody knows what is on the disk, so nothing may be taken back: stop, and recover at start
                if e.kind != Kind::Io {
                    fresh.iter().for_each(|f| self.take_back(&f.name));
                }
                return Err(e);
            }
            for f in &fresh {
                let path = self.dir.join(&f.name);
                disk::rename(&disk::temporary(&path), &path).map_err(|e| Error::io(format!("rename to {}", path.display()), &e))?;
            }
        }
        self.cursor = cursor;
        match trouble {
            Some(e) if received.messages == 0 => Err(e),
            Some(e) => {
                log::warn!("{e}; the other messages wait on the hub");
                Ok(received)
            }
            None => Ok(received),
        }
    }

    /// The message under its hidden name, and the record of its hook.
    fn write(&mut self, message: &Message, text: &str, line: Cursor, now: SystemTime) -> Result<Fresh> {
        let created = message.created_at.as_deref().and_then(clock::parse_rfc3339).unwrap_or(now);
        let name = file_name(created, line.id);
        let temporary = disk::temporary(&self.dir.join(&name));
        let failed = |e: io::Error| Error::io(format!("write {}", temporary.display()), &e);
        disk::write_temporary(&temporary, text.as_bytes(), 0o600).map_err(failed)?;
        match hooks::record(&self.base, self.order, &message.kind, text.as_bytes(), &name) {
            Ok(hook) => {
                self.order = self.order.saturating_add(u64::from(hook.is_some()));
                Ok(Fresh { name, line, hook })
            }
            Err(e) => {
                self.take_back(&name);
                Err(failed(e))
            }
        }
    }

    fn take_back(&self, name: &str) {
        let _ = hooks::forget(&self.base, name);
        let _ = std::fs::remove_file(disk::temporary(&self.dir.join(name)));
    }

    fn sync(&self, fresh: &[Fresh]) -> Result<()> {
        let failed = |e: io::Error| Error::io(format!("sync {}", self.dir.display()), &e);
        let records = hooks::records_dir(&self.base);
        let has_hooks = fresh.iter().any(|f| f.hook.is_some());
        if fresh.len() >= limits::SYNCFS_FROM && disk::syncfs_reports_errors() {
            disk::sync_filesystem(&self.dir).map_err(failed)?;
            // it may be on another one
            return if has_hooks { disk::sync_filesystem(&records).map_err(failed) } else { Ok(()) };
        }
        for f in fresh {
            disk::sync_file(&disk::temporary(&self.dir.join(&f.name))).map_err(failed)?;
            if let Some(record) = &f.hook {
                disk::sync_file(&record.path(&self.base)).map_err(failed)?;
            }
        }
        disk::sync_dir(&self.dir).map_err(failed)?;
        if has_hooks { disk::sync_dir(&records).map_err(failed) } else { Ok(()) }
    }

    /// Forgets ids that are older than anybody remembers.
    pub fn prune(&mut self) -> Result<()> {
        let needed: HashSet<Uuid> = hooks::recorded(&self.base)?.into_iter().collect();
        let dir = self.dir.clone();
        self.seen.prune(|id| needed.contains(id), || disk::sync_dir(&dir))
    }
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    std::fs::read_dir(dir)?.filter_map(|e| e.map(|e| e.file_name().into_string().ok()).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "20261121T101112_01933b5e-0000-7000-8000-00000000000a.json";
    const B: &str = "20261121T101112_01933b5e-0000-7000-8000-00000000000b.json";

    /// Both messages lie hidden in the inbox with a record each; only the first is in the log. `after`: what a start makes of it.
    #[test]
    fn what_is_logged_is_finished_and_what_is_not_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        super::super::spool::create(base).unwrap();
        for name in [A, B] {
            std::fs::write(base.join("inbox").join(format!(".{name}.tmp")), "{}").unwrap();
            std::fs::write(base.join("state/hooks").join(format!("{name}.x.0")), "{}").unwrap();
        }
        let line = Cursor { epoch: Uuid::from_u128(1), seq: 7, id: parse_file_name(A).unwrap().1 };
        Seen::open(base).unwrap().0.append(&[line], clock::now()).unwrap();
        let inbox = Inbox::open(base, clock::now()).unwrap();
        assert_eq!(names(&base.join("inbox")).unwrap(), [A]);
        assert_eq!(names(&base.join("state/hooks")).unwrap(), [format!("{A}.x.0")]);
        assert_eq!(inbox.cursor(), Some(line));
    }

    fn page(seqs: &[u64]) -> PullAnswer {
        let message = |seq: &u64| {
            let text = format!(r#"{{"seq":{seq},"message":{{"type":"x","id":"{}","source":"a"}}}}"#, Uuid::from_u128(u128::from(*seq)));
            serde_json::from_str(&text).unwrap()
        };
        PullAnswer { epoch: Uuid::from_u128(1), messages: seqs.iter().map(message).collect(), more: false, doubt: None }
    }

    #[test]
    fn known_ids_are_refused_also_within_a_page_and_rubbish_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        super::super::spool::create(dir.path()).unwrap();
        let mut inbox = Inbox::open(dir.path(), clock::now()).unwrap();
        let count = |inbox: &mut Inbox, page: &PullAnswer| inbox.receive(page, clock::now()).unwrap().messages;
        let place = |inbox: &Inbox| inbox.cursor().map(|c| (c.epoch.as_u128(), c.seq));
        assert_eq!(count(&mut inbox, &page(&[1, 2, 2])), 2);
        // another epoch, other numbers, the same messages
        inbox.forget_cursor();
        let mut again = page(&[2, 1, 3]);
        again.epoch = Uuid::from_u128(2);
        assert_eq!((count(&mut inbox, &again), place(&inbox)), (1, Some((2, 3))));
        let mut rubbish = page(&[4, 5]);
        rubbish.messages[0].message = serde_json::value::to_raw_value(&"hello").unwrap();
        assert_eq!((count(&mut inbox, &rubbish), place(&inbox)), (1, Some((1, 5))));
        let mut inbox = Inbox::open(dir.path(), clock::now()).unwrap();
        assert_eq!(count(&mut inbox, &page(&[1, 2, 3, 5, 6])), 1);
    }
}
