//! `mesync conflicts`: lists the conflict copies in synced directories.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::{left, right};
use super::parse::Invocation;
use super::watches::synced_directories;
use super::{CommandEnd, Context, note};
use crate::clock;
use crate::error::{Error, Result};
use crate::logger::one_line;

/// A conflict copy in the output of `--json`.
#[derive(Serialize)]
struct ConflictCopy {
    file: String,
    /// The name of the other version.
    of: String,
    size: u64,
    modified: String,
}

/// `mesync conflicts [DIR…]`
pub fn conflicts(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let asked: Vec<PathBuf> = invocation.arguments.iter().map(PathBuf::from).collect();
    let dirs = if asked.is_empty() {
        synced_directories(&context.settings)
    } else {
        asked
    };
    let mut copies = Vec::new();
    for dir in &dirs {
        std::fs::read_dir(dir)
            .and_then(|_| find_copies(dir, &mut copies))
            .map_err(|e| Error::io(format!("list {}", dir.display()), &e))?;
    }
    copies.sort_by(|a, b| a.file.cmp(&b.file));
    let out = &mut context.out;
    if out.json {
        copies.iter().for_each(|copy| out.object(copy));
        return Ok(CommandEnd::All);
    }
    let time = |text: &str| clock::parse_rfc3339(text).map_or("-".into(), clock::local);
    let row = |c: &ConflictCopy| {
        vec![
            out.size(c.size),
            time(&c.modified),
            one_line(&c.file),
            one_line(&c.of),
        ]
    };
    let rows: Vec<Vec<String>> = copies.iter().map(row).collect();
    out.table(
        &[right("SIZE"), left("MODIFIED"), left("COPY"), left("OF")],
        &rows,
    );
    if copies.is_empty() {
        note("no conflicts");
    }
    Ok(CommandEnd::All)
}

fn find_copies(dir: &Path, copies: &mut Vec<ConflictCopy>) -> std::io::Result<()> {
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        // skip an unreadable or removed directory
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            if kind.is_dir() && name != crate::relpath::OWN_DIR {
                todo.push(entry.path());
            }
            let name = name.to_string_lossy();
            let Some((stem, rest)) = name
                .split_once(".sync-conflict-")
                .filter(|_| !kind.is_dir())
            else {
                continue;
            };
            let ext = rest.find('.').map_or("", |at| &rest[at..]);
            let meta = entry.metadata()?;
            copies.push(ConflictCopy {
                file: entry.path().to_string_lossy().into_owned(),
                of: dir
                    .join(format!("{stem}{ext}"))
                    .to_string_lossy()
                    .into_owned(),
                size: meta.len(),
                modified: meta.modified().map(clock::rfc3339).unwrap_or_default(),
            });
        }
    }
    Ok(())
}
