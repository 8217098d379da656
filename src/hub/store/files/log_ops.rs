//! Applies what an entry of a shared log says about the objects of chunks: the tables and the entry decide everything.

use super::rows::damaged;
use super::tables::FileTables;
use crate::database::DbResult;
use crate::database::table::ReadableTable;
use crate::hub::store::chunk_name::ChunkName;
use crate::hub::store::ops::shared::{ChunkObject, LogOp};

impl FileTables<'_> {
    /// The object of an entry becomes that of its chunk, unless the chunk has one.
    pub fn place_object(&mut self, object: &ChunkObject, now: u64) -> DbResult<()> {
        let (hash, name) = (object.name.hash, object.name.to_string());
        let Some(objects) = &mut self.objects else {
            return Err(damaged("the log"));
        };
        if !objects.admits(&object.name)? {
            return Ok(());
        }
        if objects
            .objects
            .get(&hash.0)?
            .is_some_and(|there| there.value() == name)
        {
            return Ok(());
        }
        self.changed = true;
        if self.chunks.get(&hash.0)?.is_none() {
            objects.objects.insert(&hash.0, name.as_str())?;
            return self.add_chunk(hash, object.size, None, now);
        }
        if self.wanted.get(&hash.0)?.is_none() {
            return objects.drop_name(&name);
        }
        objects.forget(hash)?;
        objects.objects.insert(&hash.0, name.as_str())?;
        self.mend(hash, None)
    }

    pub fn apply_log_op(&mut self, op: &LogOp) -> DbResult<()> {
        let Some(objects) = &mut self.objects else {
            return Err(damaged("the log"));
        };
        self.changed = true;
        match op {
            LogOp::Horizon { at } => {
                objects.horizon = objects.horizon.max(*at);
                let is_before = |name: &str| {
                    name.parse::<ChunkName>()
                        .is_ok_and(|name| name.made < objects.horizon)
                };
                objects
                    .dropped
                    .retain(|name, removed| !(removed && is_before(name)))?;
            }
            LogOp::Close => objects.closed = true,
            LogOp::Collected { names } => {
                for name in names {
                    let name = name.to_string();
                    if objects.dropped.get(name.as_str())?.is_some() {
                        objects.dropped.insert(name.as_str(), true)?;
                    }
                }
            }
        }
        Ok(())
    }
}
