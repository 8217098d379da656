//! A disk that takes several names for one, mounted until the test ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::tree::Synced;
use crate::support::world::World;

/// A disk in a file, mounted until the test ends.
pub(super) struct FoldingDisk {
    pub(super) device: String,
    pub(super) at: PathBuf,
}

fn tool(name: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(name)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    out.status
        .success()
        .then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl FoldingDisk {
    /// An exFAT.
    pub(super) fn mount(world: &World) -> Option<FoldingDisk> {
        FoldingDisk::mount_as(world, &["mkfs.exfat"], &["mount.exfat-fuse"])
    }

    /// An NTFS that lists all names in lower case.
    pub(super) fn mount_lowering(world: &World) -> Option<FoldingDisk> {
        FoldingDisk::mount_as(
            world,
            &["mkfs.ntfs", "-F", "-q"],
            &["lowntfs-3g", "-o", "ignore_case"],
        )
    }

    /// `None`, with a word, if this user or system may not mount one.
    pub(super) fn mount_as(world: &World, make: &[&str], mount: &[&str]) -> Option<FoldingDisk> {
        let (image, at) = (
            world.dir.path().join("image"),
            world.dir.path().join("disk"),
        );
        fs::create_dir(&at).unwrap();
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let mounted = || {
            tool(make[0], &[&make[1..], &[text(&image)]].concat())?;
            let disk = FoldingDisk {
                device: tool("losetup", &["-f", "--show", text(&image)])?,
                at: at.clone(),
            };
            tool(
                mount[0],
                &[&mount[1..], &[&disk.device, text(&at)]].concat(),
            )?;
            Some(disk)
        };
        let disk = mounted();
        if disk.is_none() {
            assert!(
                std::env::var_os("CI").is_none() || !Path::new("/dev/fuse").exists(),
                "cannot mount a disk with {}",
                mount[0]
            );
            println!(
                "SKIPPED: this takes root, /dev/fuse, {} and {}",
                make[0], mount[0]
            );
        }
        disk
    }

    pub(super) fn machine(&self, world: &World, name: &str) -> Synced {
        let dir = self.at.join(format!("{name}-files"));
        fs::create_dir(&dir).unwrap();
        Synced {
            machine: world.machine(name),
            dir,
            flags: Vec::new(),
        }
    }
}

impl Drop for FoldingDisk {
    fn drop(&mut self) {
        let _ = tool("umount", &["-l", text(&self.at)]);
        let _ = tool("losetup", &["-d", &self.device]);
    }
}
