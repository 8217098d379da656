//! The inbox: receives a page of messages from the hub so that each message appears once, whatever
//! crashes in between.
//!
//! It does not call the hub and runs no hook; it records which hooks are to run.
//!
//! The promise depends on the order: contents and hook records under hidden names, synced; then the
//! lines in the log, synced; then the renames. At a start after a crash, a logged and still hidden
//! message is renamed; a hidden and unlogged one is removed and received again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use uuid::Uuid;

use super::seen::SeenLog;
use super::{Queue, file_name, hooks, parse_file_name, spool};
use crate::clock;
use crate::config::limits;
use crate::disk;
use crate::error::{Error, Result};
use crate::wire::{self, Cursor, Message, PullAnswer};

/// The inbox of one machine.
pub struct Inbox {
    base: PathBuf,
    dir: PathBuf,
    seen: SeenLog,
    /// Everything up to this cursor was received.
    cursor: Option<Cursor>,
    /// The order of the next hook record.
    order: u64,
    /// Messages that are logged and still hidden, in the order of the log.
    logged: VecDeque<LoggedMessage>,
    /// A call has failed: hidden files and records of messages that were not accepted may remain.
    unsettled: bool,
}

/// The result of receiving a page.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReceivedPage {
    /// New files in `inbox/`.
    pub messages: usize,
    /// Hooks that are to run.
    pub hooks: usize,
}

struct NewMessage {
    logged: LoggedMessage,
    line: Cursor,
    hook: Option<hooks::HookRecord>,
}

/// A message that has a line in the log and is to get its name in `inbox/`.
struct LoggedMessage {
    name: String,
    /// Its content, in case the hidden file is removed; `None`: it was logged by an earlier
    /// process.
    text: Option<String>,
}

impl Inbox {
    /// Opens the inbox and finishes what a crash interrupted.
    pub fn open(base: &Path, now: SystemTime) -> Result<Inbox> {
        let (mut seen, lines) = SeenLog::open(base)?;
        seen.come_back(now)?;
        let (dir, cursor) = (Queue::Inbox.dir(base), seen.last());
        let order = hooks::next_order(base)
            .map_err(|e| Error::io(format!("read {}", hooks::records_dir(base).display()), &e))?;
        let mut inbox = Inbox {
            base: base.to_path_buf(),
            dir,
            seen,
            cursor,
            order,
            logged: VecDeque::new(),
            unsettled: true,
        };
        inbox.find_logged(&lines, now)?;
        inbox.settle()?;
        Ok(inbox)
    }

    /// Finds messages that an earlier process logged and did not rename.
    fn find_logged(&mut self, lines: &[Cursor], now: SystemTime) -> Result<()> {
        let failed = |e: io::Error| Error::io(format!("recover {}", self.dir.display()), &e);
        let mut hidden: HashMap<Uuid, String> = HashMap::new();
        let mut found_again = Vec::new();
        for (name, id) in hidden_names(&self.dir).map_err(failed)? {
            if self.seen.is_damaged() && !self.seen.contains(&id) && self.is_whole(&name) {
                // the damaged line may have been that of this message: then the hub does not send
                // it again
                found_again.push((id, name));
            } else {
                hidden.insert(id, name);
            }
        }
        let logged = lines.iter().filter_map(|l| hidden.remove(&l.id));
        self.logged
            .extend(logged.map(|name| LoggedMessage { name, text: None }));
        found_again.sort_by(|a, b| a.1.cmp(&b.1));
        if !found_again.is_empty() {
            let last = self.seen.last().unwrap_or(Cursor {
                epoch: Uuid::nil(),
                seq: 0,
                id: Uuid::nil(),
            });
            let lines: Vec<Cursor> = found_again
                .iter()
                .map(|(id, _)| Cursor { id: *id, ..last })
                .collect();
            self.seen.append(&lines, now)?;
            self.logged.extend(
                found_again
                    .into_iter()
                    .map(|(_, name)| LoggedMessage { name, text: None }),
            );
        }
        Ok(())
    }

    fn is_whole(&self, name: &str) -> bool {
        let bytes = disk::read_at_most(&disk::temporary(&self.dir.join(name)), wire::MAX_MESSAGE);
        bytes.is_ok_and(|bytes| Message::parse(&bytes).is_ok())
    }

    /// Finishes interrupted work after an error or a crash: every logged message gets its name, all
    /// others are removed and received again. Nothing is received until it succeeds. Returns how
    /// many messages have appeared.
    pub fn settle(&mut self) -> Result<usize> {
        if !self.unsettled {
            return Ok(0);
        }
        spool::create(&self.base)?;
        // before any removal: a truncated line may name the message
        self.seen.settle()?;
        self.seen.restore()?;
        let placed = self.place()?;
        let failed = |e: io::Error| Error::io(format!("recover {}", self.dir.display()), &e);
        // records first: a record without its file would run a hook for a message that never
        // arrived
        let (seen, damaged) = (&self.seen, self.seen.is_damaged());
        hooks::keep_only(&self.base, |id| damaged || seen.contains(id)).map_err(failed)?;
        for (name, _) in hidden_names(&self.dir).map_err(failed)? {
            std::fs::remove_file(disk::temporary(&self.dir.join(name))).map_err(failed)?;
        }
        self.unsettled = false;
        Ok(placed)
    }

    /// Renames the logged messages in the order of the log; the first failure ends it, so that no
    /// message overtakes another.
    fn place(&mut self) -> Result<usize> {
        let mut placed = 0;
        while let Some(next) = self.logged.front() {
            let path = self.dir.join(&next.name);
            match (disk::rename(&disk::temporary(&path), &path), &next.text) {
                (Ok(()), _) => {}
                // the directory was removed meanwhile
                (Err(e), Some(text)) if e.kind() == io::ErrorKind::NotFound && !path.exists() => {
                    spool::create(&self.base)?;
                    disk::write_durably(&path, text.as_bytes(), 0o600)?;
                }
                (Err(e), _) if e.kind() == io::ErrorKind::NotFound => {}
                (Err(e), _) => return Err(Error::io(format!("rename to {}", path.display()), &e)),
            }
            self.logged.pop_front();
            placed += 1;
        }
        Ok(placed)
    }

    /// Where the next pull begins; `None`: at the hub's cursor for this machine.
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// Forgets the cursor of another epoch, whose numbers mean nothing now. Ids are still
    /// remembered.
    pub fn forget_cursor(&mut self) {
        self.cursor = None;
    }

    /// Receives a page. If one message cannot be written, the messages before it are accepted, and
    /// the error says so.
    ///
    /// After an error no message is half accepted, or [`Inbox::settle`] completes it before the
    /// next page.
    pub fn receive(&mut self, page: &PullAnswer, now: SystemTime) -> Result<ReceivedPage> {
        self.settle()?;
        let received = self.take(page, now);
        if self.unsettled
            && let Err(e) = self.settle()
        {
            log::debug!("{e}");
        }
        received
    }

    fn take(&mut self, page: &PullAnswer, now: SystemTime) -> Result<ReceivedPage> {
        let mut fresh: Vec<NewMessage> = Vec::new();
        let mut in_page = HashSet::new();
        let mut cursor = self.cursor;
        let mut trouble = None;
        for numbered in &page.messages {
            let mut line = Cursor {
                epoch: page.epoch,
                seq: numbered.seq,
                id: Uuid::nil(),
            };
            match Message::parse(numbered.message.get().as_bytes()) {
                Ok(message) if message.id.is_some() => {
                    line.id = message.id.unwrap_or_default();
                    if !self.seen.contains(&line.id) && in_page.insert(line.id) {
                        match self.write(&message, numbered.message.get(), line, now) {
                            Ok(written) => fresh.push(written),
                            Err(e) => {
                                self.unsettled = true;
                                trouble = Some(e);
                                break;
                            }
                        }
                    }
                }
                // the hub would send it again forever: skip it with a warning
                Ok(_) => log::warn!(
                    "ignored a message of the hub: it has no id seq={}",
                    numbered.seq
                ),
                Err(why) => log::warn!("ignored a message of the hub: {why} seq={}", numbered.seq),
            }
            cursor = Some(line);
        }
        let received = ReceivedPage {
            messages: fresh.len(),
            hooks: fresh.iter().filter(|f| f.hook.is_some()).count(),
        };
        if !fresh.is_empty() {
            let was_unsettled = std::mem::replace(&mut self.unsettled, true);
            let lines: Vec<Cursor> = fresh.iter().map(|f| f.line).collect();
            self.sync(&fresh)?;
            self.seen.append(&lines, now)?;
            self.cursor = cursor;
            self.logged.extend(fresh.into_iter().map(|f| f.logged));
            self.place()?;
            self.unsettled = was_unsettled;
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

    /// Writes the message under its hidden name, and the record of its hook.
    fn write(
        &mut self,
        message: &Message,
        text: &str,
        line: Cursor,
        now: SystemTime,
    ) -> Result<NewMessage> {
        let created = message
            .created_at
            .as_deref()
            .and_then(clock::parse_rfc3339)
            .unwrap_or(now);
        let name = file_name(created, line.id);
        let temporary = disk::temporary(&self.dir.join(&name));
        let failed = |e: io::Error| Error::io(format!("write {}", temporary.display()), &e);
        disk::write_temporary(&temporary, text.as_bytes(), 0o600).map_err(failed)?;
        let hook = hooks::record(
            &self.base,
            self.order,
            &message.kind,
            text.as_bytes(),
            &name,
        )
        .map_err(failed)?;
        self.order = self.order.saturating_add(u64::from(hook.is_some()));
        Ok(NewMessage {
            logged: LoggedMessage {
                name,
                text: Some(text.to_string()),
            },
            line,
            hook,
        })
    }

    fn sync(&self, fresh: &[NewMessage]) -> Result<()> {
        let failed = |e: io::Error| Error::io(format!("sync {}", self.dir.display()), &e);
        let records = hooks::records_dir(&self.base);
        let has_hooks = fresh.iter().any(|f| f.hook.is_some());
        if fresh.len() >= limits::SYNCFS_FROM && disk::syncfs_reports_errors() {
            disk::sync_filesystem(&self.dir).map_err(failed)?;
            // the hook may be on another filesystem
            return if has_hooks {
                disk::sync_filesystem(&records).map_err(failed)
            } else {
                Ok(())
            };
        }
        for f in fresh {
            disk::sync_file(&disk::temporary(&self.dir.join(&f.logged.name))).map_err(failed)?;
            if let Some(record) = &f.hook {
                disk::sync_file(&record.path(&self.base)).map_err(failed)?;
            }
        }
        disk::sync_dir(&self.dir).map_err(failed)?;
        if has_hooks {
            disk::sync_dir(&records).map_err(failed)
        } else {
            Ok(())
        }
    }

    /// Writes the log again if it was removed while the client runs.
    pub fn restore(&mut self) -> Result<()> {
        self.seen.restore()
    }

    /// Forgets ids that are older than any hub remembers.
    pub fn prune(&mut self) -> Result<()> {
        let needed: HashSet<Uuid> = hooks::recorded(&self.base)?.into_iter().collect();
        let dir = self.dir.clone();
        self.seen
            .prune(|id| needed.contains(id), || disk::sync_dir(&dir))
    }
}

/// The hidden messages in a directory: their names without dot and suffix, and their ids.
fn hidden_names(dir: &Path) -> io::Result<Vec<(String, Uuid)>> {
    let message = |name: &String| {
        let message = name.strip_prefix('.')?.strip_suffix(".tmp")?;
        Some((message.to_string(), parse_file_name(message)?.1))
    };
    Ok(names(dir)?.iter().filter_map(message).collect())
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    std::fs::read_dir(dir)?
        .filter_map(|e| e.map(|e| e.file_name().into_string().ok()).transpose())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "20261121T101112_01933b5e-0000-7000-8000-00000000000a.json";
    const B: &str = "20261121T101112_01933b5e-0000-7000-8000-00000000000b.json";

    /// Both messages are hidden in the inbox with a record each; only the first is in the log.
    /// `after`: the result of a start.
    #[test]
    fn logged_messages_are_finished_and_others_received_again() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        super::super::spool::create(base).unwrap();
        for name in [A, B] {
            std::fs::write(base.join("inbox").join(format!(".{name}.tmp")), "{}").unwrap();
            std::fs::write(base.join("state/hooks").join(format!("{name}.x.0")), "{}").unwrap();
        }
        let line = Cursor {
            epoch: Uuid::from_u128(1),
            seq: 7,
            id: parse_file_name(A).unwrap().1,
        };
        SeenLog::open(base)
            .unwrap()
            .0
            .append(&[line], clock::now())
            .unwrap();
        let inbox = Inbox::open(base, clock::now()).unwrap();
        assert_eq!(names(&base.join("inbox")).unwrap(), [A]);
        assert_eq!(
            names(&base.join("state/hooks")).unwrap(),
            [format!("{A}.x.0")]
        );
        assert_eq!(inbox.cursor(), Some(line));
    }

    fn page(seqs: &[u64]) -> PullAnswer {
        let message = |seq: &u64| {
            let text = format!(
                r#"{{"seq":{seq},"message":{{"type":"x","id":"{}","source":"a"}}}}"#,
                Uuid::from_u128(u128::from(*seq))
            );
            serde_json::from_str(&text).unwrap()
        };
        PullAnswer {
            epoch: Uuid::from_u128(1),
            messages: seqs.iter().map(message).collect(),
            more: false,
            doubt: None,
        }
    }

    #[test]
    fn known_ids_are_refused_also_within_a_page_and_rubbish_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        super::super::spool::create(dir.path()).unwrap();
        let mut inbox = Inbox::open(dir.path(), clock::now()).unwrap();
        let count = |inbox: &mut Inbox, page: &PullAnswer| {
            inbox.receive(page, clock::now()).unwrap().messages
        };
        let place = |inbox: &Inbox| inbox.cursor().map(|c| (c.epoch.as_u128(), c.seq));
        assert_eq!(count(&mut inbox, &page(&[1, 2, 2])), 2);
        // another epoch, other numbers, the same messages
        inbox.forget_cursor();
        let mut again = page(&[2, 1, 3]);
        again.epoch = Uuid::from_u128(2);
        assert_eq!(
            (count(&mut inbox, &again), place(&inbox)),
            (1, Some((2, 3)))
        );
        let mut rubbish = page(&[4, 5]);
        rubbish.messages[0].message = serde_json::value::to_raw_value(&"hello").unwrap();
        assert_eq!(
            (count(&mut inbox, &rubbish), place(&inbox)),
            (1, Some((1, 5)))
        );
        let mut inbox = Inbox::open(dir.path(), clock::now()).unwrap();
        assert_eq!(count(&mut inbox, &page(&[1, 2, 3, 5, 6])), 1);
    }
}
