//! The outbox: picks up the files that users put there, builds requests from them, and files them away
//! after the response.
//!
//! It does not call the hub, and keeps no state that a new scan could not rebuild.

mod filing;
mod holds;
pub mod sent;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use super::plan::{self, CheckedFile, Destination, FileContent, OutboxStep};
use super::{Queue, file_name, is_hidden, parse_file_name};
use crate::clock;
use crate::config::limits;
use crate::disk;
use crate::error::{Error, Result};
use crate::steady;
use crate::wire::{self, PostResult, Priority};
use filing::read;
use holds::{Target, TargetHolds};

/// A directory's mtime older than this shows every later change: FAT counts in two seconds, others in milliseconds.
const MTIME_GRANULARITY: Duration = Duration::from_secs(3);
/// How often the outbox is read on a filesystem that does not update the mtime of directories.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(600);

/// The position of a message in the order of sending; its file name is made from time and id.
pub type SendPosition = (Priority, SystemTime, Uuid);

/// The directory's stamp at the last scan.
#[derive(PartialEq, Eq)]
struct DirectoryStamp {
    inode: u64,
    modified: (i64, i64),
}

/// The messages of one request.
pub struct Batch {
    pub places: Vec<SendPosition>,
    /// The messages as JSON, in the same order.
    pub texts: Vec<String>,
}

/// What is known of a waiting message.
struct KnownMessage {
    priority: Priority,
    /// `None`: a broadcast.
    target: Target,
    /// It is not sent after this time of the monotonic clock.
    until: Instant,
}

/// The outbox of one machine.
pub struct Outbox {
    dir: PathBuf,
    sent: PathBuf,
    failed: PathBuf,
    host: String,
    deadline: Duration,
    /// Whether messages that the hub has are kept in `sent/`.
    keeps_sent: bool,
    /// The file with the reading of the clocks, see [`steady`].
    clock: PathBuf,
    /// Whether the time in a name tells how long its message has waited.
    knows_ages: bool,
    /// Messages that can be sent, in order.
    waiting: BTreeSet<SendPosition>,
    known: HashMap<(SystemTime, Uuid), KnownMessage>,
    /// Names to check again, and when.
    young: HashMap<OsString, Instant>,
    /// Targets of messages, each once.
    targets: HashSet<Arc<str>>,
    /// Targets for which the hub has no room at the moment.
    holds: TargetHolds,
    batch_bytes: usize,
    batch_messages: usize,
    /// Files that cannot be read or moved, and why: each is logged once, and named by `mesync status`.
    complained: BTreeMap<OsString, Error>,
    /// Files that were handled and could not be moved yet: refused with a reason, or sent. They are not sent again.
    unmoved: BTreeMap<OsString, Option<String>>,
    /// Some files were renamed and are not durable yet.
    unsynced: bool,
    /// The whole directory has been scanned: later files are new.
    scanned: bool,
    /// The stamp at the last scan, if a later change must change it; and the time of the scan.
    stamp: Option<(DirectoryStamp, Instant)>,
}

impl Outbox {
    pub fn new(base: &Path, host: &str, deadline: Duration, keeps_sent: bool) -> Outbox {
        Outbox {
            dir: Queue::Outbox.dir(base),
            sent: Queue::Sent.dir(base),
            failed: Queue::Failed.dir(base),
            host: host.to_string(),
            deadline,
            keeps_sent,
            clock: base.join("state/clock"),
            knows_ages: false,
            waiting: BTreeSet::new(),
            known: HashMap::new(),
            young: HashMap::new(),
            targets: HashSet::new(),
            holds: TargetHolds::default(),
            batch_bytes: limits::BATCH_BYTES,
            batch_messages: wire::MAX_BATCH,
            complained: BTreeMap::new(),
            unmoved: BTreeMap::new(),
            unsynced: false,
            scanned: false,
            stamp: None,
        }
    }

    /// Makes durable what a killed process may have renamed and not synced. Called once, before the first
    /// scan.
    pub fn recover(&mut self) -> Result<()> {
        self.knows_ages = steady::is_believed(&self.clock, self.deadline);
        disk::sync_dir(&self.dir).map_err(|e| Error::io(format!("sync {}", self.dir.display()), &e))
    }

    /// Makes names durable after a sync that failed; none of them is sent before.
    fn settle(&mut self) -> Result<()> {
        if self.unsynced {
            disk::sync_filesystem(&self.dir)
                .map_err(|e| Error::io(format!("sync {}", self.dir.display()), &e))?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Whether a scan could find a change: the directory was changed, or the last scan left files over.
    ///
    /// Creating, renaming or removing a name changes the mtime of the directory; a change within the same tick of
    /// that clock does not show, so a recent mtime counts as changed.
    pub fn may_have_changed(&self) -> bool {
        let Some((stamp, scanned)) = &self.stamp else {
            return true;
        };
        !self.complained.is_empty()
            || !self.unmoved.is_empty()
            || self.young.len() >= limits::OUTBOX_ARRIVALS
            || self.known.len() >= limits::OUTBOX_MESSAGES
            || scanned.elapsed() >= FULL_SCAN_INTERVAL
            || self.stamp_now().as_ref() != Some(stamp)
    }

    /// The stamp of the directory now; `None` if a change right now might not change it.
    fn stamp_now(&self) -> Option<DirectoryStamp> {
        let meta = std::fs::metadata(&self.dir).ok()?;
        let age = clock::now().duration_since(meta.modified().ok()?).ok()?;
        (age >= MTIME_GRANULARITY).then(|| DirectoryStamp {
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }

    /// Scans the whole directory.
    pub fn scan(&mut self) -> Result<()> {
        let stamp = self.stamp_now().map(|stamp| (stamp, clock::monotonic()));
        self.stamp = None;
        self.scan_names()?;
        self.stamp = stamp;
        Ok(())
    }

    fn scan_names(&mut self) -> Result<()> {
        let failed = |e: &io::Error| Error::io(format!("read {}", self.dir.display()), e);
        let mut names = Vec::new();
        let mut present = HashSet::new();
        for entry in std::fs::read_dir(&self.dir).map_err(|e| failed(&e))? {
            let name = entry.map_err(|e| failed(&e))?.file_name();
            match name.to_str().and_then(parse_file_name) {
                Some(key) if self.known.contains_key(&key) => {
                    present.insert(key);
                }
                _ if !is_hidden(name.as_encoded_bytes()) => names.push(name),
                _ => {}
            }
        }
        // removed by a user
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|key| !present.contains(key))
            .copied()
            .collect();
        gone.into_iter().for_each(|key| self.forget(key));
        self.targets.retain(|target| Arc::strong_count(target) > 1);
        self.young.retain(|name, _| names.contains(name));
        let is_known = |name: &OsString| {
            name.to_str()
                .and_then(parse_file_name)
                .is_some_and(|key| present.contains(&key))
        };
        self.complained
            .retain(|name, _| names.contains(name) || is_known(name));
        for (name, why) in std::mem::take(&mut self.unmoved) {
            match why {
                None => self.archive(&name),
                Some(why) => self.refuse(&name, &why),
            }
        }
        self.look(names.into_iter().map(|name| (name, false)))?;
        self.scanned = true;
        Ok(())
    }

    /// Checks single names; `true` marks those that arrived by rename.
    pub fn look(&mut self, names: impl Iterator<Item = (OsString, bool)>) -> Result<()> {
        self.settle()?;
        let mut renames = Vec::new();
        for (name, arrived) in names {
            if is_hidden(name.as_encoded_bytes())
                || self.known.len() >= limits::OUTBOX_MESSAGES
                || self.unmoved.contains_key(&name)
            {
                continue;
            }
            let path = self.dir.join(&name);
            // whatever happened to it, there is nothing to send
            let Ok(meta) = path.symlink_metadata() else {
                continue;
            };
            let (now, written) = (
                clock::now(),
                meta.modified().unwrap_or(std::time::UNIX_EPOCH),
            );
            let content = match read(&path, &meta) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                // an error does not condemn the message
                Err(e) => {
                    self.complain(&name, "read", &e);
                    continue;
                }
                Ok(content) => content,
            };
            let (priority, target) = match &content {
                FileContent::Message(m) => (m.priority, self.target(m.target.as_deref())),
                _ => (Priority::Normal, None),
            };
            let found = CheckedFile {
                name: name.to_str(),
                age: now.duration_since(written).ok(),
                arrived,
                content,
            };
            match plan::step(&found, written, now, Uuid::now_v7()) {
                OutboxStep::Send => self.learn(&name, priority, target),
                OutboxStep::Rename(to) => renames.push((name, to, priority, target)),
                OutboxStep::Wait(time) => {
                    if self.young.len() < limits::OUTBOX_ARRIVALS {
                        self.young.insert(name, clock::monotonic() + time);
                    }
                }
                OutboxStep::Refuse(why) => self.refuse(&name, &why),
            }
        }
        self.pick_up(renames)
    }

    /// Checks the names that were too recent again, and returns when to do that next.
    pub fn look_again(&mut self) -> Result<Option<Instant>> {
        let now = clock::monotonic();
        let due: Vec<OsString> = self
            .young
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(name, _)| name.clone())
            .collect();
        self.young.retain(|_, at| *at > now);
        self.look(due.into_iter().map(|name| (name, false)))?;
        Ok(self
            .young
            .values()
            .copied()
            .chain(self.holds.next_end(now))
            .min())
    }

    /// Gives files their lasting names, durably before the first attempt to send, so that the id never changes.
    fn pick_up(&mut self, renames: Vec<(OsString, String, Priority, Target)>) -> Result<()> {
        if renames.is_empty() {
            return Ok(());
        }
        let many = renames.len() >= limits::SYNCFS_FROM && disk::syncfs_reports_errors();
        let mut learned = Vec::new();
        for (name, to, priority, target) in renames {
            let (from, to_path) = (self.dir.join(&name), self.dir.join(&to));
            let synced = if many { Ok(()) } else { disk::sync_file(&from) };
            match synced.and_then(|()| disk::rename_noreplace(&from, &to_path)) {
                Ok(()) => learned.push((to, priority, target)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    self.refuse(&name, "another message with its id waits in the outbox")
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => self.complain(&name, "pick up", &e),
            }
        }
        let synced = if many {
            disk::sync_filesystem(&self.dir)
        } else {
            disk::sync_dir(&self.dir)
        };
        self.unsynced = synced.is_err();
        synced.map_err(|e| Error::io(format!("sync {}", self.dir.display()), &e))?;
        for (name, priority, target) in learned {
            self.learn(OsStr::new(&name), priority, target);
        }
        Ok(())
    }

    fn target(&mut self, name: Option<&str>) -> Target {
        let name = name?;
        if let Some(known) = self.targets.get(name) {
            return Some(Arc::clone(known));
        }
        let target: Arc<str> = name.into();
        self.targets.insert(Arc::clone(&target));
        Some(target)
    }

    fn learn(&mut self, name: &OsStr, priority: Priority, target: Target) {
        if let Some((at, id)) = name.to_str().and_then(parse_file_name) {
            // only a message from before the start is aged by its name, because the clock may be
            // set while it waits
            let left = if self.scanned || !self.knows_ages {
                self.deadline
            } else {
                plan::time_left(at, clock::now(), self.deadline)
            };
            self.known.insert(
                (at, id),
                KnownMessage {
                    priority,
                    target,
                    until: clock::monotonic() + left,
                },
            );
            self.waiting.insert((priority, at, id));
        }
        self.complained.remove(name);
    }

    fn forget(&mut self, key: (SystemTime, Uuid)) {
        if let Some(KnownMessage { priority, .. }) = self.known.remove(&key) {
            self.waiting.remove(&(priority, key.0, key.1));
        }
    }

    /// The next request: by priority, then by file name. `None`: there is nothing to send now.
    pub fn batch(&mut self) -> Result<Option<Batch>> {
        let clock = clock::monotonic();
        let mut batch = Batch {
            places: Vec::new(),
            texts: Vec::new(),
        };
        let (mut bytes, mut overdue, mut changed) = (0, Vec::new(), Vec::new());
        let (mut unread, mut too_long) = (Vec::new(), Vec::new());
        let (mut probes, mut all) = (self.holds.probes(clock), true);
        for place in &self.waiting {
            let Some(known) = self.known.get(&(place.1, place.2)) else {
                continue;
            };
            if known.until <= clock {
                overdue.push((*place, file_name(place.1, place.2)));
                continue;
            }
            if !probes.may_send(&known.target) {
                continue;
            }
            let name = file_name(place.1, place.2);
            let path = self.dir.join(&name);
            let message = match path.symlink_metadata().and_then(|meta| read(&path, &meta)) {
                Ok(FileContent::Message(m)) if m.id.is_none_or(|id| id == place.2) => {
                    plan::complete(m, &name, &self.host)
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    unread.push((name, e));
                    continue;
                }
                _ => None,
            };
            let Some(text) = message.map(|m| m.to_json()) else {
                changed.push((*place, name));
                continue;
            };
            self.complained.remove(OsStr::new(&name));
            if text.len() > wire::MAX_MESSAGE {
                too_long.push((*place, name, text.len()));
                continue;
            }
            if !batch.texts.is_empty() && bytes + text.len() > self.batch_bytes {
                all = false;
                break;
            }
            bytes += text.len();
            batch.places.push(*place);
            batch.texts.push(text);
            if batch.texts.len() >= self.batch_messages {
                all = false;
                break;
            }
        }
        let probed = probes.end();
        if all {
            self.holds.forget_others(clock, &probed);
        }
        for (place, name) in overdue {
            let why = format!(
                "no response for {}; it may have been delivered",
                clock::age(self.deadline)
            );
            self.refuse(OsStr::new(&name), &why);
            self.forget((place.1, place.2));
        }
        for (place, name, bytes) in too_long {
            let why = format!(
                "with the id, time and source that mesync fills in {}",
                wire::too_long(bytes as u64)
            );
            self.refuse(OsStr::new(&name), &why);
            self.forget((place.1, place.2));
        }
        for (name, e) in unread {
            self.complain(OsStr::new(&name), "read", &e);
        }
        for (place, name) in changed {
            self.forget((place.1, place.2));
            self.look([(OsString::from(name), false)].into_iter())?;
        }
        Ok((!batch.texts.is_empty()).then_some(batch))
    }

    /// Files messages away as the hub responded; returns how many have left the outbox. `random`: for the backoff.
    pub fn answered(&mut self, batch: &Batch, results: &[PostResult], random: u64) -> usize {
        self.batch_bytes = plan::next_batch_bytes(self.batch_bytes, false, limits::BATCH_BYTES);
        self.batch_messages = (self.batch_messages * 2).min(wire::MAX_BATCH);
        let mut full: HashMap<Target, String> = HashMap::new();
        let mut done = 0;
        for (place, result) in batch.places.iter().zip(results) {
            let name = file_name(place.1, place.2);
            if let Some(warning) = &result.warning {
                log::warn!("hub warns about message {}: {warning}", place.2);
            }
            let known = self.known.get(&(place.1, place.2));
            let target = known.and_then(|known| known.target.clone());
            match plan::outcome(result) {
                Destination::Sent => {
                    self.holds.remove(&target);
                    self.archive(OsStr::new(&name));
                }
                Destination::Refused(why) => self.refuse(OsStr::new(&name), &why),
                Destination::Later(why) => {
                    full.insert(target, why);
                    continue;
                }
            }
            self.forget((place.1, place.2));
            done += 1;
        }
        for (target, why) in full {
            self.holds.add(clock::monotonic(), target, why, random);
        }
        done
    }

    /// The whole request took too long: the next one is shorter.
    pub fn timed_out(&mut self) {
        self.batch_bytes = plan::next_batch_bytes(self.batch_bytes, true, limits::BATCH_BYTES);
    }

    /// The hub refused the whole request: halving finds the message at fault, refused alone.
    pub fn refused(&mut self, batch: &Batch, why: &Error) {
        match batch.places.as_slice() {
            [(_, at, id)] => {
                self.refuse(OsStr::new(&file_name(*at, *id)), &why.what);
                self.forget((*at, *id));
            }
            many => self.batch_messages = (many.len() / 2).max(1),
        }
    }

    /// Whether no message waits to be sent now or later.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.young.is_empty()
    }
}
