//! Rows as compact bytes: one row for each path, integers of variable length, and values that the hub's row and the base
//! share stored once.
//!
//! Pure. Invalid bytes are an error, never a panic: the file may be damaged.

use uuid::Uuid;

use crate::files::engine::traits::{Feed, Intent, OpenKey, Rows, StagedFile};
use crate::files::plan::{BaseRow, Entry, LocalEntry, RemoteRow, Stamp};
use crate::wire::files::{EntryKind, Hash};
use crate::wire::revision::Tag;

/// The bytes were not written by this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;

/// A flag beside the form of a remote row: eight bytes of its tag follow. On a base: it is lost.
const TAG: u8 = 4;
const LOST: u8 = 4;

type Read<T> = Result<T, Damaged>;

/// The record of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateRecord {
    pub rows: Rows,
    /// The number of the last listing that named the path; 0: none.
    pub listed: u64,
}

impl StateRecord {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(128));
        let Rows {
            base,
            remote,
            intent,
            key,
        } = &self.rows;
        out.number(self.listed);
        out.base(base);
        out.remote(remote, base.entry.as_ref());
        out.option(intent.as_ref(), Writer::intent);
        out.option(key.as_ref(), Writer::key);
        out.0
    }

    pub fn decode(bytes: &[u8]) -> Read<StateRecord> {
        let mut from = RowReader(bytes);
        let listed = from.number()?;
        let base = from.base()?;
        let remote = from.remote(base.entry.as_ref())?;
        let intent = from.option(RowReader::intent)?;
        let key = from.option(RowReader::key)?;
        from.end()?;
        Ok(StateRecord {
            rows: Rows {
                base,
                remote,
                intent,
                key,
            },
            listed,
        })
    }
}

pub fn encode_feed(feed: &Feed) -> Vec<u8> {
    let mut out = Writer(Vec::new());
    out.0.extend_from_slice(feed.epoch.as_bytes());
    out.number(feed.generation);
    out.number(feed.cursor);
    out.number(feed.listing.into());
    out.option(feed.began.as_ref(), |out, n| out.number(*n));
    out.0
}

pub fn decode_feed(bytes: &[u8]) -> Read<Feed> {
    let mut from = RowReader(bytes);
    let epoch = from.uuid()?;
    let (generation, cursor, listing) = (from.number()?, from.number()?, from.flag()?);
    let began = from.option(RowReader::number)?;
    from.end()?;
    Ok(Feed {
        epoch,
        generation,
        cursor,
        listing,
        began,
    })
}

struct Writer(Vec<u8>);

impl Writer {
    /// Seven bits in each byte, the lowest first; the highest bit says that more follow (LEB128).
    fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    /// Zigzag, so that small negative numbers are short too.
    fn signed(&mut self, n: i64) {
        self.number(((n << 1) ^ (n >> 63)) as u64);
    }

    fn text(&mut self, text: &String) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn option<T>(&mut self, value: Option<&T>, write: impl Fn(&mut Writer, &T)) {
        self.0.push(value.is_some().into());
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn entry(&mut self, e: &Entry) {
        self.0.push(e.kind as u8);
        self.number(e.mode.into());
        self.number(e.size);
        self.signed(e.mtime);
        self.0.extend_from_slice(&e.hash.0);
    }

    fn stamp(&mut self, s: &Stamp) {
        self.number(s.inode);
        self.number(s.size);
        self.signed(s.mtime);
        self.signed(s.ctime);
        self.number(s.mode.into());
    }

    /// The stamp mostly equals the entry: then only inode and ctime are written.
    fn base(&mut self, base: &BaseRow) {
        self.number(base.rev);
        self.option(base.entry.as_ref(), Writer::entry);
        let lost = if base.lost { LOST } else { 0 };
        match (&base.seen, &base.entry) {
            (None, _) => self.0.push(lost),
            (Some(s), Some(e)) if (s.size, s.mtime, s.mode) == (e.size, e.mtime, e.mode) => {
                self.0.push(2 | lost);
                self.number(s.inode);
                // usually close to the mtime
                self.signed(s.ctime.wrapping_sub(s.mtime));
            }
            (Some(s), _) => {
                self.0.push(1 | lost);
                self.stamp(s);
            }
        }
    }

    fn remote(&mut self, remote: &RemoteRow, base: Option<&Entry>) {
        self.number(remote.rev);
        let form = match &remote.entry {
            None => 0,
            same if same.as_ref() == base => 2,
            Some(_) => 1,
        };
        self.0.push(if remote.tag.is_unknown() {
            form
        } else {
            form | TAG
        });
        if !remote.tag.is_unknown() {
            self.0.extend_from_slice(&remote.tag.0.to_le_bytes());
        }
        if let Some(entry) = remote.entry.as_ref().filter(|_| form == 1) {
            self.entry(entry);
        }
        self.option(Some(&remote.id).filter(|id| !id.is_nil()), |out, id| {
            out.0.extend_from_slice(id.as_bytes())
        });
        self.option(remote.host.as_ref(), Writer::text);
        self.option(remote.renamed_to.as_ref(), Writer::text);
    }

    fn local(&mut self, local: &LocalEntry) {
        self.entry(&local.entry);
        self.stamp(&local.stamp);
    }

    fn intent(&mut self, intent: &Intent) {
        match intent {
            Intent::Place {
                generation,
                row,
                mode,
                over,
                staged,
            } => {
                self.0.push(0);
                self.number(*generation);
                self.remote(row, None);
                self.number((*mode).into());
                self.option(over.as_ref(), Writer::local);
                self.text(&staged.temp);
                self.stamp(&staged.stamp);
            }
            Intent::Leave {
                generation,
                then,
                what,
                to,
                trash,
            } => {
                self.0.push(1);
                self.number(*generation);
                self.base(then);
                self.local(what);
                self.text(to);
                self.0.push((*trash).into());
            }
            Intent::Metadata {
                generation,
                was,
                mode,
                mtime,
                then,
            } => {
                self.0.push(4);
                self.number(*generation);
                self.stamp(was);
                self.number((*mode).into());
                self.signed(*mtime);
                self.base(then);
            }
            Intent::Clear { temp } => {
                self.0.push(3);
                self.number(0);
                self.text(temp);
            }
            Intent::Rename { from, to } => {
                self.0.push(5);
                self.number(0);
                self.text(from);
                self.text(to);
            }
        }
    }

    fn key(&mut self, key: &OpenKey) {
        self.0.extend_from_slice(key.key.as_bytes());
        self.number(key.names.len() as u64);
        key.names.iter().for_each(|name| self.text(name));
        self.0.push(key.ours.into());
        self.option(key.seen.as_ref(), Writer::stamp);
    }
}

struct RowReader<'a>(&'a [u8]);

impl<'a> RowReader<'a> {
    fn take(&mut self, n: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }

    fn flag(&mut self) -> Read<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged),
        }
    }

    fn number(&mut self) -> Read<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(Damaged)
    }

    fn signed(&mut self) -> Read<i64> {
        let n = self.number()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn mode(&mut self) -> Read<u32> {
        self.number()?.try_into().map_err(|_| Damaged)
    }

    fn text(&mut self) -> Read<String> {
        let length = self.number()?.try_into().map_err(|_| Damaged)?;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| Damaged)
    }

    fn uuid(&mut self) -> Read<Uuid> {
        Uuid::from_slice(self.take(16)?).map_err(|_| Damaged)
    }

    fn option<T>(&mut self, read: impl Fn(&mut RowReader<'a>) -> Read<T>) -> Read<Option<T>> {
        if self.flag()? {
            read(self).map(Some)
        } else {
            Ok(None)
        }
    }

    fn end(&self) -> Read<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Damaged)
        }
    }

    fn entry(&mut self) -> Read<Entry> {
        let kind = match self.byte()? {
            0 => EntryKind::File,
            1 => EntryKind::Dir,
            2 => EntryKind::Symlink,
            _ => return Err(Damaged),
        };
        let (mode, size, mtime) = (self.mode()?, self.number()?, self.signed()?);
        let hash = Hash(self.take(32)?.try_into().map_err(|_| Damaged)?);
        Ok(Entry {
            kind,
            hash,
            size,
            mode,
            mtime,
        })
    }

    fn stamp(&mut self) -> Read<Stamp> {
        let (inode, size, mtime) = (self.number()?, self.number()?, self.signed()?);
        Ok(Stamp {
            inode,
            size,
            mtime,
            ctime: self.signed()?,
            mode: self.mode()?,
        })
    }

    fn tag(&mut self) -> Read<Tag> {
        let tag = Tag(u64::from_le_bytes(
            self.take(8)?.try_into().map_err(|_| Damaged)?,
        ));
        if tag.is_unknown() {
            Err(Damaged)
        } else {
            Ok(tag)
        }
    }

    fn base(&mut self) -> Read<BaseRow> {
        let rev = self.number()?;
        let entry = self.option(RowReader::entry)?;
        let form = self.byte()?;
        let seen = match (form & !LOST, &entry) {
            (0, _) => None,
            (1, _) => Some(self.stamp()?),
            (
                2,
                Some(Entry {
                    size, mtime, mode, ..
                }),
            ) => {
                let (inode, age) = (self.number()?, self.signed()?);
                Some(Stamp {
                    inode,
                    size: *size,
                    mtime: *mtime,
                    ctime: mtime.wrapping_add(age),
                    mode: *mode,
                })
            }
            _ => return Err(Damaged),
        };
        Ok(BaseRow {
            rev,
            lost: form & LOST != 0,
            entry,
            seen,
        })
    }

    fn remote(&mut self, base: Option<&Entry>) -> Read<RemoteRow> {
        let rev = self.number()?;
        let form = self.byte()?;
        let tag = if form & TAG != 0 {
            self.tag()?
        } else {
            Tag::default()
        };
        let entry = match (form & !TAG, base) {
            (0, _) => None,
            (1, _) => Some(self.entry()?),
            (2, Some(base)) => Some(*base),
            _ => return Err(Damaged),
        };
        let id = self.option(RowReader::uuid)?.unwrap_or_default();
        Ok(RemoteRow {
            rev,
            tag,
            entry,
            id,
            host: self.option(RowReader::text)?,
            renamed_to: self.option(RowReader::text)?,
        })
    }

    fn local(&mut self) -> Read<LocalEntry> {
        Ok(LocalEntry {
            entry: self.entry()?,
            stamp: self.stamp()?,
        })
    }

    fn intent(&mut self) -> Read<Intent> {
        let (form, generation) = (self.byte()?, self.number()?);
        Ok(match form {
            0 => Intent::Place {
                generation,
                row: self.remote(None)?,
                mode: self.mode()?,
                over: self.option(RowReader::local)?,
                staged: StagedFile {
                    temp: self.text()?,
                    stamp: self.stamp()?,
                },
            },
            1 => Intent::Leave {
                generation,
                then: self.base()?,
                what: self.local()?,
                to: self.text()?,
                trash: self.flag()?,
            },
            3 => Intent::Clear { temp: self.text()? },
            5 => Intent::Rename {
                from: self.text()?,
                to: self.text()?,
            },
            // written before times were synced
            2 => {
                let was = self.stamp()?;
                Intent::Metadata {
                    generation,
                    was,
                    mode: self.mode()?,
                    mtime: was.mtime,
                    then: self.base()?,
                }
            }
            4 => Intent::Metadata {
                generation,
                was: self.stamp()?,
                mode: self.mode()?,
                mtime: self.signed()?,
                then: self.base()?,
            },
            _ => return Err(Damaged),
        })
    }

    fn key(&mut self) -> Read<OpenKey> {
        let (key, count) = (self.uuid()?, self.number()?);
        let names = (0..count).map(|_| self.text()).collect::<Read<_>>()?;
        Ok(OpenKey {
            key,
            names,
            ours: self.flag()?,
            seen: self.option(RowReader::stamp)?,
        })
    }
}
