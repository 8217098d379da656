//! The log of received messages, `state/seen/YYYYMMDD`: one line `epoch seq id` for each. It is
//! both the cursor and the memory of ids.
//!
//! It moves no message; the inbox orders its lines and the files in `inbox/`.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use uuid::Uuid;

use crate::clock;
use crate::config::limits;
use crate::disk;
use crate::error::{Error, Result};
use crate::wire::Cursor;

/// The log, open for appending.
pub struct SeenLog {
    dir: PathBuf,
    ids: HashSet<Uuid>,
    /// The names of the day files, oldest first.
    days: Vec<String>,
    last: Option<Cursor>,
    /// A day file whose end may contain lines that are not durable, and the length up to which it
    /// is.
    unsettled: Option<(String, u64)>,
    /// Some line could not be read, so an id that is not known here may have been logged.
    damaged: bool,
}

impl SeenLog {
    /// Reads the log; truncates what a crash left unfinished and makes the rest durable. Also
    /// returns all lines, oldest first.
    pub fn open(base: &Path) -> Result<(SeenLog, Vec<Cursor>)> {
        let dir = base.join("state/seen");
        disk::create_dir(&dir)?;
        let failed = |e: io::Error| Error::io(format!("read {}", dir.display()), &e);
        let entries = std::fs::read_dir(&dir).map_err(failed)?;
        let mut days: Vec<String> = entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|n| is_day(n))
            .collect();
        days.sort();
        let mut seen = SeenLog {
            dir,
            ids: HashSet::new(),
            days,
            last: None,
            unsettled: None,
            damaged: false,
        };
        let mut lines = Vec::new();
        for (i, day) in seen.days.iter().enumerate() {
            let newest = i + 1 == seen.days.len();
            let whole = seen.read_day(day, newest, &mut lines);
            seen.damaged |= !whole
                .map_err(|e| Error::io(format!("read {}", seen.dir.join(day).display()), &e))?;
        }
        disk::sync_dir(&seen.dir)
            .map_err(|e| Error::io(format!("sync {}", seen.dir.display()), &e))?;
        seen.ids = lines.iter().map(|l| l.id).collect();
        seen.last = lines.last().copied();
        Ok((seen, lines))
    }

    /// `false`: a line is damaged.
    fn read_day(&self, day: &str, newest: bool, lines: &mut Vec<Cursor>) -> io::Result<bool> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(newest)
            .open(self.dir.join(day))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        if newest {
            if whole < text.len() {
                file.set_len(whole as u64)?;
            }
            file.sync_all()?;
        }
        let mut damaged = 0;
        for line in text[..whole]
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
        {
            match std::str::from_utf8(line).ok().and_then(parse) {
                Some(line) => lines.push(line),
                // the other lines are still used
                None => damaged += 1,
            }
        }
        if damaged > 0 {
            let path = self.dir.join(day);
            log::warn!(
                "damaged lines in {}: their messages may arrive again count={damaged}",
                path.display()
            );
        }
        Ok(damaged == 0)
    }

    /// Whether an id that is not known here may have been logged.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    pub fn contains(&self, id: &Uuid) -> bool {
        self.ids.contains(id)
    }

    /// The last line, after which the next pull begins.
    pub fn last(&self) -> Option<Cursor> {
        self.last
    }

    /// Appends lines and makes them durable: one sync, two for the first lines of a day. After an
    /// error none of the lines counts: what was written is truncated, here or in [`SeenLog::settle`].
    pub fn append(&mut self, lines: &[Cursor], now: SystemTime) -> Result<()> {
        self.settle()?;
        self.restore()?;
        // never a file before the newest one, whose last line is the cursor, whatever the clock
        // says
        let today = clock::day(now).max(self.days.last().cloned().unwrap_or_default());
        let path = self.dir.join(&today);
        let failed = |e: io::Error| Error::io(format!("write {}", path.display()), &e);
        let new = self.days.last() != Some(&today);
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let before = file.metadata().map_err(failed)?.len();
        let text: String = lines
            .iter()
            .map(|l| format!("{} {} {}\n", l.epoch, l.seq, l.id))
            .collect();
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_data());
        let written = written.and_then(|()| {
            if new {
                disk::sync_dir(&self.dir)
            } else {
                Ok(())
            }
        });
        if let Err(e) = written {
            self.unsettled = Some((today.clone(), before));
            if let Err(e) = self.settle() {
                log::debug!("{e}");
            }
            return Err(failed(e));
        }
        if new {
            self.days.push(today);
        }
        self.ids.extend(lines.iter().map(|l| l.id));
        self.last = lines.last().copied().or(self.last);
        Ok(())
    }

    /// Truncates the lines of an append that failed, durably: until then they may or may not be on
    /// the disk, and nothing that they name may be removed.
    pub fn settle(&mut self) -> Result<()> {
        let Some((day, length)) = &self.unsettled else {
            return Ok(());
        };
        let path = self.dir.join(day);
        let cut = OpenOptions::new().write(true).open(&path).and_then(|file| {
            file.set_len(*length)?;
            file.sync_all()
        });
        match cut {
            // removed together with the lines
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|e| Error::io(format!("cut {}", path.display()), &e))?,
        }
        self.unsettled = None;
        Ok(())
    }

    /// Writes the ids and the cursor again if the newest file was removed while the client runs.
    pub fn restore(&mut self) -> Result<()> {
        let (Some(day), Some(last)) = (self.days.last().cloned(), self.last) else {
            return Ok(());
        };
        let path = self.dir.join(&day);
        match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            _ => return Ok(()),
        }
        log::warn!("{} was removed; rewriting it", path.display());
        disk::create_dir(&self.dir)?;
        // the last line is the cursor
        let ids = self
            .ids
            .iter()
            .filter(|id| **id != last.id)
            .chain([&last.id]);
        let text: String = ids
            .map(|id| format!("{} {} {id}\n", last.epoch, last.seq))
            .collect();
        disk::write_durably(&path, text.as_bytes(), 0o600)
    }

    /// Removes day files beyond the number that is kept, oldest first, unless `needed` says that
    /// one of its ids is still needed.
    ///
    /// Counted in files, not by the clock: each covers at least a day. `before` runs once before
    /// the first removal.
    pub fn prune(
        &mut self,
        needed: impl Fn(&Uuid) -> bool,
        before: impl FnOnce() -> io::Result<()>,
    ) -> Result<()> {
        let extra = self.days.len().saturating_sub(limits::SEEN_DAYS);
        if extra == 0 {
            return Ok(());
        }
        before().map_err(|e| Error::io("sync the inbox", &e))?;
        let old: Vec<String> = self.days[..extra].to_vec();
        for day in old {
            let mut lines = Vec::new();
            let path = self.dir.join(&day);
            self.read_day(&day, false, &mut lines)
                .map_err(|e| Error::io(format!("read {}", path.display()), &e))?;
            if lines.iter().any(|l| needed(&l.id)) {
                continue;
            }
            std::fs::remove_file(&path)
                .map_err(|e| Error::io(format!("remove {}", path.display()), &e))?;
            for line in &lines {
                self.ids.remove(&line.id);
            }
            self.days.retain(|d| *d != day);
        }
        Ok(())
    }

    /// Handles a day file from a clock that was in the future: all later lines would be appended to
    /// it, so its lines are moved to today's file.
    pub fn come_back(&mut self, now: SystemTime) -> Result<()> {
        let tomorrow = clock::day(now + std::time::Duration::from_secs(86_400));
        let future: Vec<String> = self
            .days
            .iter()
            .filter(|d| **d > tomorrow)
            .cloned()
            .collect();
        if future.is_empty() || !clock::is_plausible(now) {
            return Ok(());
        }
        let today = self.dir.join(clock::day(now));
        let failed = |e: io::Error| Error::io(format!("write {}", today.display()), &e);
        let mut text = Vec::new();
        for path in [&today]
            .into_iter()
            .chain(&future.iter().map(|d| self.dir.join(d)).collect::<Vec<_>>())
        {
            match File::open(path) {
                Ok(mut file) => drop(file.read_to_end(&mut text).map_err(failed)?),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
        }
        // duplicate lines after a crash do no harm: the last one is the same
        disk::write_durably(&today, &text, 0o600)?;
        for day in &future {
            std::fs::remove_file(self.dir.join(day)).map_err(failed)?;
        }
        disk::sync_dir(&self.dir).map_err(failed)?;
        self.days.retain(|d| *d <= tomorrow);
        if self.days.last() != Some(&clock::day(now)) {
            self.days.push(clock::day(now));
            self.days.sort();
        }
        Ok(())
    }
}

fn is_day(name: &str) -> bool {
    name.len() == 8 && name.bytes().all(|b| b.is_ascii_digit())
}

fn parse(line: &str) -> Option<Cursor> {
    let mut parts = line.split(' ');
    let line = Cursor {
        epoch: Uuid::try_parse(parts.next()?).ok()?,
        seq: parts.next()?.parse().ok()?,
        id: Uuid::try_parse(parts.next()?).ok()?,
    };
    parts.next().is_none().then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn line(seq: u64) -> Cursor {
        Cursor {
            epoch: Uuid::from_u128(1),
            seq,
            id: Uuid::from_u128(u128::from(seq) + 100),
        }
    }

    fn at(day: u64) -> SystemTime {
        clock::parse_rfc3339("2026-11-01T00:00:00Z").unwrap() + Duration::from_secs(day * 86_400)
    }

    #[test]
    fn an_unfinished_line_is_cut_off_and_the_last_whole_one_is_the_cursor() {
        let dir = tempfile::tempdir().unwrap();
        let (mut seen, _) = SeenLog::open(dir.path()).unwrap();
        seen.append(&[line(1), line(2)], at(0)).unwrap();
        let path = dir.path().join("state/seen/20261101");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(
            &path,
            [&whole[..], b"00000000-0000-0000-0000-000000000001 3 0000"].concat(),
        )
        .unwrap();
        let (seen, lines) = SeenLog::open(dir.path()).unwrap();
        assert_eq!(
            (seen.last(), lines),
            (Some(line(2)), vec![line(1), line(2)])
        );
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn fifteen_days_are_kept_and_needed_ones_longer() {
        let dir = tempfile::tempdir().unwrap();
        let (mut seen, _) = SeenLog::open(dir.path()).unwrap();
        for day in 0..18 {
            seen.append(&[line(day)], at(day)).unwrap();
            seen.prune(|id| *id == line(1).id, || Ok(())).unwrap();
        }
        let (seen, _) = SeenLog::open(dir.path()).unwrap();
        let kept: Vec<u64> = (0..18)
            .filter(|day| seen.contains(&line(*day).id))
            .collect();
        assert_eq!(kept, [vec![1], (3..18).collect()].concat());
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_move_the_cursor_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut seen, _) = SeenLog::open(dir.path()).unwrap();
        seen.append(&[line(1)], at(30_000)).unwrap();
        seen.append(&[line(2)], at(3)).unwrap();
        let (mut seen, _) = SeenLog::open(dir.path()).unwrap();
        assert_eq!(seen.last(), Some(line(2)));
        seen.come_back(at(3)).unwrap();
        seen.append(&[line(3)], at(3)).unwrap();
        let (seen, lines) = SeenLog::open(dir.path()).unwrap();
        assert_eq!(
            (seen.days.clone(), lines),
            (
                vec!["20261104".to_string()],
                vec![line(1), line(2), line(3)]
            )
        );
    }
}
