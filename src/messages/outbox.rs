//! The outbox: picks up what was put there, builds requests from it, and files it away after the answer.
//!
//! It does not talk to the hub and keeps no state that a new scan would not find again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use super::aside::move_aside;
use super::plan::{self, Content, Found, Outcome, Step};
use super::{Queue, file_name, is_hidden, parse_file_name};
use crate::backoff::Backoff;
use crate::clock;
use crate::config::limits;
use crate::disk;
use crate::error::{Error, Result, plain};
use crate::wire::{self, Message, NotAMessage, PostResult, Priority};

/// A message in the order in which messages go out; its file name is made of time and id.
pub type Place = (Priority, SystemTime, Uuid);

/// One request's worth of messages.
pub struct Batch {
    pub places: Vec<Place>,
    /// The messages as JSON, in the same order.
    pub texts: Vec<String>,
}

/// What is known of a message that waits.
struct Known {
    priority: Priority,
    /// It is not tried after this time, of the clock that nothing sets.
    until: Instant,
}

/// The outbox of one machine.
pub struct Outbox {
    dir: PathBuf,
    sent: PathBuf,
    failed: PathBuf,
    host: String,
    deadline: Duration,
    sent_ttl: Duration,
    /// What can be sent, in order.
    waiting: BTreeSet<Place>,
    known: HashMap<(SystemTime, Uuid), Known>,
    /// Names to look at again, and when.
    young: HashMap<OsString, Instant>,
    /// What the hub has no room for at the moment.
    held: HashMap<Place, (Instant, Backoff)>,
    batch_bytes: usize,
    batch_messages: usize,
    /// Files that cannot be read or moved, and why: each is named in the log once, and by `mesync status`.
    complained: BTreeMap<OsString, String>,
    /// Files that are done with and could not be moved yet: refused for a reason, or sent. They are not sent again.
    unmoved: BTreeMap<OsString, Option<String>>,
    /// Names were given that are not durable yet.
    unsynced: bool,
    /// The directory has been looked at as a whole: what comes from now on is new.
    scanned: bool,
}

impl Outbox {
    pub fn new(base: &Path, host: &str, deadline: Duration, sent_ttl: Duration) -> Outbox {
        Outbox {
            dir: Queue::Outbox.dir(base),
            sent: Queue::Sent.dir(base),
            failed: Queue::Failed.dir(base),
            host: host.to_string(),
            deadline,
            sent_ttl,
            waiting: BTreeSet::new(),
            known: HashMap::new(),
            young: HashMap::new(),
            held: HashMap::new(),
            batch_bytes: limits::BATCH_BYTES,
            batch_messages: wire::MAX_BATCH,
            complained: BTreeMap::new(),
            unmoved: BTreeMap::new(),
            unsynced: false,
            scanned: false,
        }
    }

    /// Makes durable what a killed process may have left renamed but not synced. Once, before the first scan.
    pub fn recover(&self) -> Result<()> {
        disk::sync_dir(&self.dir).map_err(|e| Error::io(format!("sync {}", self.dir.display()), &e))
    }

    /// Makes names durable after a sync that failed; until then none of them is sent.
    fn settle(&mut self) -> Result<()> {
        if self.unsynced {
            disk::sync_filesystem(&self.dir)
                .map_err(|e| Error::io(format!("sync {}", self.dir.display()), &e))?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Looks at the whole directory.
    pub fn scan(&mut self) -> Result<()> {
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
        // a person took some away
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|key| !present.contains(key))
            .copied()
            .collect();
        gone.into_iter().for_each(|key| self.forget(key));
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

    /// Looks at single names; `true` beside those that came by rename.
    pub fn look(&mut self, names: impl Iterator<Item = (OsString, bool)>) -> Result<()> {
        self.settle()?;
        let mut renames = Vec::new();
        for (name, arrived) in names {
            if is_hidden(name.as_encoded_bytes())
                || self.known.len() >= limits::OUTBOX
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
                // an error is no verdict on the message
                Err(e) => {
                    self.complain(&name, "read", &e);
                    continue;
                }
                Ok(content) => content,
            };
            let priority = if let Content::Message(m) = &content {
                m.priority
            } else {
                Priority::Normal
            };
            let found = Found {
                name: name.to_str(),
                age: now.duration_since(written).ok(),
                arrived,
                content,
            };
            match plan::step(&found, written, now, Uuid::now_v7()) {
                Step::Send => self.learn(&name, priority),
                Step::Rename(to) => renames.push((name, to, priority)),
                Step::Wait(time) => {
                    if self.young.len() < limits::ARRIVALS {
                        self.young.insert(name, clock::monotonic() + time);
                    }
                }
                Step::Refuse(why) => self.refuse(&name, &why),
            }
        }
        self.pick_up(renames)
    }

    /// Looks again at what was too young, and says when that is to be done next.
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
            .chain(self.held.values().map(|(at, _)| at))
            .min()
            .copied())
    }

    /// Gives files their lasting names: durable before the first attempt to send, so that the id never changes.
    fn pick_up(&mut self, renames: Vec<(OsString, String, Priority)>) -> Result<()> {
        if renames.is_empty() {
            return Ok(());
        }
        let many = renames.len() >= limits::SYNCFS_FROM && disk::syncfs_reports_errors();
        let mut learned = Vec::new();
        for (name, to, priority) in renames {
            let (from, to_path) = (self.dir.join(&name), self.dir.join(&to));
            let synced = if many { Ok(()) } else { disk::sync_file(&from) };
            match synced.and_then(|()| disk::rename_noreplace(&from, &to_path)) {
                Ok(()) => learned.push((to, priority)),
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
        for (name, priority) in learned {
            self.learn(OsStr::new(&name), priority);
        }
        Ok(())
    }

    fn learn(&mut self, name: &OsStr, priority: Priority) {
        if let Some((at, id)) = name.to_str().and_then(parse_file_name) {
            // by the name only for what was there before: a clock may be set while it waits
            let left = if self.scanned {
                self.deadline
            } else {
                plan::time_left(at, clock::now(), self.deadline)
            };
            self.known.insert(
                (at, id),
                Known {
                    priority,
                    until: clock::monotonic() + left,
                },
            );
            self.waiting.insert((priority, at, id));
        }
        self.complained.remove(name);
    }

    fn forget(&mut self, key: (SystemTime, Uuid)) {
        if let Some(Known { priority, .. }) = self.known.remove(&key) {
            self.waiting.remove(&(priority, key.0, key.1));
            self.held.remove(&(priority, key.0, key.1));
        }
    }

    /// The next request: high priority first, within one by file name. `None`: nothing to send now.
    pub fn batch(&mut self) -> Result<Option<Batch>> {
        let clock = clock::monotonic();
        let mut batch = Batch {
            places: Vec::new(),
            texts: Vec::new(),
        };
        let (mut bytes, mut overdue, mut changed) = (0, Vec::new(), Vec::new());
        let (mut unread, mut too_long) = (Vec::new(), Vec::new());
        for place in &self.waiting {
            let name = file_name(place.1, place.2);
            if self
                .known
                .get(&(place.1, place.2))
                .is_some_and(|known| known.until <= clock)
            {
                overdue.push((*place, name));
                continue;
            }
            if self
                .held
                .get(place)
                .is_some_and(|(until, _)| *until > clock)
            {
                continue;
            }
            let path = self.dir.join(&name);
            let message = match path.symlink_metadata().and_then(|meta| read(&path, &meta)) {
                Ok(Content::Message(m)) if m.id.is_none_or(|id| id == place.2) => {
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
                break;
            }
            bytes += text.len();
            batch.places.push(*place);
            batch.texts.push(text);
            if batch.texts.len() >= self.batch_messages {
                break;
            }
        }
        for (place, name) in overdue {
            let why = format!(
                "no answer for {}; it may have been delivered",
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

    /// Files away what the hub answered; returns how many messages have left the outbox. `random`: for the back-off.
    pub fn answered(&mut self, batch: &Batch, results: &[PostResult], random: u64) -> usize {
        self.batch_bytes = plan::next_batch_bytes(self.batch_bytes, false, limits::BATCH_BYTES);
        self.batch_messages = (self.batch_messages * 2).min(wire::MAX_BATCH);
        let mut done = 0;
        for (place, result) in batch.places.iter().zip(results) {
            let name = file_name(place.1, place.2);
            if let Some(warning) = &result.warning {
                log::warn!("the hub says of message {}: {warning}", place.2);
            }
            match plan::outcome(result) {
                Outcome::Sent => self.archive(OsStr::new(&name)),
                Outcome::Refused(why) => self.refuse(OsStr::new(&name), &why),
                Outcome::Later(why) => {
                    let (until, backoff) = self.held.entry(*place).or_insert_with(|| {
                        (clock::monotonic(), Backoff::new(Duration::from_secs(60)))
                    });
                    *until = clock::monotonic() + backoff.next(random);
                    log::info!("message {} has to wait: {why}", place.2);
                    continue;
                }
            }
            self.forget((place.1, place.2));
            done += 1;
        }
        done
    }

    /// The request as a whole took too long: the next one is shorter.
    pub fn timed_out(&mut self) {
        self.batch_bytes = plan::next_batch_bytes(self.batch_bytes, true, limits::BATCH_BYTES);
    }

    /// The hub refused the request as a whole: the fault is found by halves, and a single message is to blame for itself.
    pub fn refused(&mut self, batch: &Batch, why: &Error) {
        match batch.places.as_slice() {
            [(_, at, id)] => {
                self.refuse(OsStr::new(&file_name(*at, *id)), &why.what);
                self.forget((*at, *id));
            }
            many => self.batch_messages = (many.len() / 2).max(1),
        }
    }

    /// No sync: the hub has it, and would answer `duplicate`.
    fn archive(&mut self, name: &OsStr) {
        let (from, to) = (self.dir.join(name), self.sent.join(name));
        let moved = if self.sent_ttl.is_zero() {
            std::fs::remove_file(&from)
        } else {
            disk::move_file(&from, &to)
        };
        match moved {
            Err(e) if e.kind() != io::ErrorKind::NotFound || from.symlink_metadata().is_ok() => {
                self.cannot_move(name, None, &e)
            }
            _ => drop(self.complained.remove(name)),
        }
    }

    /// To `failed/`, the reason beside it: written first, and the old name goes last, so a crash leaves it in one place at least.
    fn refuse(&mut self, name: &OsStr, why: &str) {
        let from = self.dir.join(name);
        match move_aside(&from, &self.failed, why) {
            Ok(to) => {
                log::warn!(
                    "message {} was not sent and is now {}: {why}",
                    disk::show(name),
                    disk::show(to.as_os_str())
                );
                self.complained.remove(name);
            }
            Err(_)
                if from
                    .symlink_metadata()
                    .is_err_and(|e| e.kind() == io::ErrorKind::NotFound) => {}
            Err(e) => self.cannot_move(name, Some(why.to_string()), &e),
        }
    }

    /// What is done with stays so, and is moved as soon as that is possible.
    fn cannot_move(&mut self, name: &OsStr, why: Option<String>, e: &io::Error) {
        if self.unmoved.len() < limits::OUTBOX {
            self.unmoved.insert(name.to_os_string(), why);
        }
        self.complain(name, "move", e);
    }

    /// A file that cannot be read or moved must not stop the others.
    fn complain(&mut self, name: &OsStr, doing: &str, e: &io::Error) {
        let error = Error::io(
            format!("{doing} {}", disk::show(self.dir.join(name).as_os_str())),
            e,
        )
        .to_string();
        if self.complained.get(name) != Some(&error) && self.complained.len() < limits::OUTBOX {
            log::warn!("{error}");
            self.complained.insert(name.to_os_string(), error);
        }
    }

    /// The files that cannot be read or moved, in words.
    pub fn trouble(&self) -> Option<String> {
        let first = self.complained.values().next()?;
        match self.complained.len() {
            1 => Some(first.clone()),
            n => Some(format!("{first}, and {} more", n - 1)),
        }
    }

    /// Removes what has been in `sent/` for longer than it is kept.
    pub fn clean_sent(&self, now: SystemTime) -> Result<()> {
        let failed = |e: io::Error| Error::io(format!("clean {}", self.sent.display()), &e);
        for entry in std::fs::read_dir(&self.sent).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(meta) = entry.metadata() else { continue };
            // the rename into sent/ set ctime
            let archived = clock::from_millis((meta.ctime().max(0) as u64).saturating_mul(1000));
            if !meta.is_file() {
                continue;
            }
            if !clock::is_plausible(archived) && clock::is_plausible(now) {
                // of unknown age, since the clock was set later: it ages from now on
                let _ = std::fs::set_permissions(entry.path(), meta.permissions());
            } else if now
                .duration_since(archived)
                .is_ok_and(|age| age > self.sent_ttl)
            {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// Whether anything waits to be sent now or later.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.young.is_empty()
    }
}

fn read(path: &Path, meta: &std::fs::Metadata) -> io::Result<Content> {
    let kind = meta.file_type();
    let unusable = if kind.is_dir() {
        Some("it is a directory; a message is a file (names that begin with a dot are left alone)")
    } else if kind.is_symlink() {
        Some("it is a symbolic link; a message is a file of its own")
    } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device()
    {
        Some("it is not a regular file")
    } else {
        None
    };
    if let Some(why) = unusable {
        return Ok(Content::Unusable(why.into()));
    }
    match disk::read_at_most(path, wire::MAX_MESSAGE) {
        // the true size, since not all of it was read
        Ok(bytes) if bytes.len() > wire::MAX_MESSAGE => Ok(Content::NotAMessage(
            NotAMessage::Content(wire::too_long(meta.len())),
        )),
        Ok(bytes) => Ok(Message::parse(&bytes).map_or_else(Content::NotAMessage, Content::Message)),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(Content::Unusable(format!(
            "it cannot be read: {}",
            plain(&e)
        ))),
        Err(e) => Err(e),
    }
}
