//! Sets modes and times.

use std::io;
use std::os::fd::AsRawFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::DiskTree;
use super::root::{self, InodeType, fault, same};
use super::stage::{times, tolerate};
use super::sync_set::SyncSet;
use crate::files::engine::traits::CallResult;
use crate::files::plan::{DIR_READABLE, MODE, Stamp};

impl DiskTree {
    pub(super) fn change_metadata(
        &self,
        path: &str,
        expected: &Stamp,
        mode: u32,
        mtime: Option<i64>,
        synced: &mut SyncSet,
    ) -> CallResult<Option<Stamp>> {
        let failed = |e: io::Error| fault("change the mode or time of", path, &e);
        let Some(at) = self.seen_at(path)? else {
            return Ok(None);
        };
        let open = |flags| {
            rustix::fs::openat(
                &at.parent,
                at.name,
                flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        let (file, readable) = match open(OFlags::RDONLY | OFlags::NONBLOCK) {
            // the owner of a file may change its mode, but perhaps not read it
            Err(Errno::ACCESS | Errno::LOOP | Errno::NXIO) => (open(OFlags::PATH), false),
            other => (other, true),
        };
        let file = match file {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|e| failed(e.into()))?,
        };
        let shown = self
            .opened
            .as_closed(root::show_open(&file).map_err(failed)?);
        let is_dir = shown.what == InodeType::Dir;
        if is_dir {
            self.close_directory(shown.stamp.inode).map_err(failed)?;
        }
        let unchanged = same(expected, &shown.stamp) || is_dir && shown.stamp.same_dir(expected);
        if !unchanged || shown.what == InodeType::Special || at.shown().map_err(failed)?.is_none() {
            return Ok(None);
        }
        let mtime =
            mtime.filter(|mtime| shown.what == InodeType::File && *mtime != shown.stamp.mtime);
        if shown.what == InodeType::Link || shown.stamp.mode == mode && mtime.is_none() {
            return Ok(Some(shown.stamp));
        }
        // a directory keeps its other bits, such as set-group-id for the group of new files; a file
        // must not keep a set-uid bit that others' modes lack
        let keep = if is_dir {
            shown.permissions & 0o7000 | DIR_READABLE
        } else {
            0
        };
        let mode = Mode::from_raw_mode(mode & 0o777 | keep);
        // a descriptor opened with O_PATH is reached by a name that leads nowhere else
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        let apply = || -> io::Result<()> {
            if let Some(mtime) = mtime {
                tolerate(rustix::fs::utimensat(
                    rustix::fs::CWD,
                    name.as_str(),
                    &times(mtime),
                    AtFlags::empty(),
                ))?;
            }
            if shown.stamp.mode != mode.bits() & MODE {
                tolerate(rustix::fs::chmod(name.as_str(), mode))?;
            }
            Ok(())
        };
        apply().map_err(failed)?;
        let now = root::show_open(&file).map_err(failed)?.stamp;
        if readable {
            synced.add(file).map_err(failed)?;
        } else {
            synced.add_all();
        }
        // written to since it was examined: a stamp that equals nothing, so that it is examined
        // again
        let written = now.size != expected.size || mtime.is_none() && now.mtime != expected.mtime;
        let now = match shown.what {
            InodeType::File if written => Stamp {
                ctime: 0,
                ..*expected
            },
            // the new time may hide a write
            InodeType::File if mtime.is_some() => Stamp { ctime: 0, ..now },
            _ => now,
        };
        // any other mode was set by another program meanwhile, and must not look like what the
        // filesystem made of the requested one
        Ok(Some(if self.keeps_modes {
            Stamp {
                mode: mode.bits() & MODE,
                ..now
            }
        } else {
            now
        }))
    }
}
