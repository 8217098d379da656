//! Opens and makes the directories of names that are staged.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode};

use super::DiskTree;
use super::root::{self, fault, show};
use super::stage::tolerate;
use crate::disk::{self, Renamed};
use crate::files::engine::traits::CallResult;
use crate::files::plan::{DIR_MODE, DIR_READABLE};
use crate::relpath;

impl DiskTree {
    /// Opens a directory below the root, and creates it if it is missing. `None`: a component is not
    /// a directory.
    pub(super) fn directory(&self, dir: &str) -> CallResult<Option<OwnedFd>> {
        self.directory_with(
            dir,
            if dir.starts_with(relpath::OWN_DIR) {
                0o700
            } else {
                DIR_MODE
            },
        )
    }

    /// Creates directories, each with its mode.
    pub fn make_directories(&self, all: &[(&str, u32)]) -> CallResult<()> {
        all.iter()
            .try_for_each(|(dir, mode)| self.directory_with(dir, *mode).map(drop))
    }

    /// The same; missing directories get this mode, regardless of the umask.
    fn directory_with(&self, dir: &str, mode: u32) -> CallResult<Option<OwnedFd>> {
        let failed = |e: io::Error| fault("make the directory", dir, &e);
        match self.root.through(dir) {
            Ok(found) => return Ok(Some(found)),
            Err(e) if root::blocked(&e) => return Ok(None),
            Err(e) if root::absent(&e) => {}
            Err(e) => return Err(failed(e)),
        }
        if dir
            .split('/')
            .any(|component| ["", ".", ".."].contains(&component))
        {
            return Ok(None);
        }
        // not in a directory that only looks empty because its disk is not mounted
        self.check()?;
        let mut above = String::new();
        for component in dir.split('/') {
            let parent = match self.root.through(&above) {
                Err(e) if root::blocked(&e) => return Ok(None),
                other => other.map_err(failed)?,
            };
            let here = if above.is_empty() {
                component.to_string()
            } else {
                format!("{above}/{component}")
            };
            let _open = self.open_to_owner(&above, &parent).map_err(failed)?;
            if show(&parent, component).map_err(failed)?.is_none()
                && self.make_in(&parent, component, mode).map_err(failed)?
                && !self.root.lists(&above, component, true).map_err(failed)?
            {
                // the disk gave it another name, which would be synced as an empty directory
                rustix::fs::unlinkat(&parent, component, AtFlags::REMOVEDIR)
                    .map_err(|e| failed(e.into()))?;
                return Err(self.refuse(dir));
            }
            above = here;
        }
        match self.root.through(dir) {
            Err(e) if root::blocked(&e) => Ok(None),
            other => other.map(Some).map_err(failed),
        }
    }

    /// Creates a directory that has its mode before it has its name: so a crash leaves none that seems to have a mode of its
    /// own. `false`: the name exists already.
    fn make_in(&self, parent: &OwnedFd, name: &str, mode: u32) -> io::Result<bool> {
        let temp = relpath::temporary(uuid::Uuid::new_v4().as_u64_pair().0);
        rustix::fs::mkdirat(parent, temp.as_str(), Mode::RWXU)?;
        let moded = tolerate(rustix::fs::chmodat(
            parent,
            temp.as_str(),
            Mode::from_raw_mode(mode | DIR_READABLE),
            AtFlags::empty(),
        ));
        // on filesystems where a rename replaces, it replaces empty directories only
        let made =
            moded.and_then(
                |()| match disk::rename_noreplace_at(parent, &temp, parent, name)? {
                    Renamed::Done => self.sync_open(parent),
                    Renamed::Unsupported => {
                        disk::rename_at(parent, &temp, name).and_then(|()| self.sync_open(parent))
                    }
                    Renamed::Refused => Err(io::ErrorKind::AlreadyExists.into()),
                },
            );
        match made {
            Ok(()) => Ok(true),
            Err(e) => {
                let _ = rustix::fs::unlinkat(parent, temp.as_str(), AtFlags::REMOVEDIR);
                if e.kind() == io::ErrorKind::AlreadyExists {
                    Ok(false)
                } else {
                    Err(e)
                }
            }
        }
    }
}
