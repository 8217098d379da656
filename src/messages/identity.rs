//! What distinguishes this machine from another one of its name, and from a copy of itself: an id that is drawn once, and the
//! number of starts. Both are files in the state directory.
//!
//! It compares nothing: the hub does, and doubts.

use std::path::Path;

use uuid::Uuid;

use crate::disk;
use crate::error::{Error, Result};
use crate::wire::ClientRun;
use crate::wire::revision::Tag;

const INSTANCE: &str = "state/instance";
const RUN: &str = "state/run";
/// Bytes of either file that are read, at most.
const MAX_BYTES: usize = 100;

/// The identity of a running client.
pub struct Identity {
    pub instance: Uuid,
    pub run: ClientRun,
}

impl Identity {
    /// Counts a start on the disk before the hub is called: a disk that was copied or set back repeats a count.
    pub fn begin(base: &Path) -> Result<Identity> {
        let instance = instance(base)?;
        let last = read(base, RUN)?.and_then(|text| text.parse::<u64>().ok());
        let number = last.unwrap_or(0).saturating_add(1);
        write(base, RUN, &number.to_string())?;
        let draw = Tag(Uuid::new_v4().as_u64_pair().0);
        Ok(Identity {
            instance,
            run: ClientRun { number, draw },
        })
    }

    /// Writes the files that were removed while the client runs.
    pub fn restore(&self, base: &Path) -> Result<()> {
        for (name, content) in [
            (INSTANCE, self.instance.to_string()),
            (RUN, self.run.number.to_string()),
        ] {
            let there = base.join(name).symlink_metadata();
            if there.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
                write(base, name, &content)?;
            }
        }
        Ok(())
    }
}

/// The id of this machine, drawn if there is none.
pub fn instance(base: &Path) -> Result<Uuid> {
    if let Some(text) = read(base, INSTANCE)? {
        match Uuid::try_parse(&text) {
            Ok(id) => return Ok(id),
            Err(_) => log::warn!(
                "{} is damaged; generating a new one",
                base.join(INSTANCE).display()
            ),
        }
    }
    let id = Uuid::new_v4();
    write(base, INSTANCE, &id.to_string())?;
    Ok(id)
}

/// `None`: there is no such file.
fn read(base: &Path, name: &str) -> Result<Option<String>> {
    let path = base.join(name);
    match disk::read_at_most(&path, MAX_BYTES) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_string())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("read {}", path.display()), &e)),
    }
}

fn write(base: &Path, name: &str, content: &str) -> Result<()> {
    disk::write_durably(&base.join(name), format!("{content}\n").as_bytes(), 0o600)
}
