//! `mesync trash`: lists, restores and removes the files that other machines deleted.
//!
//! It finds the named directory and file; `files::trash` does the rest. It asks no hub, and works beside a process that syncs the
//! directory.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::local_path::{is_explicit, lexical};
use super::output::{Column, left, right};
use super::parse::Invocation;
use super::watches::synced_directories;
use super::{CommandEnd, Context, counted, note};
use crate::clock;
use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::files::conflict::TRASH;
use crate::files::overview::real;
use crate::files::trash::{self, TrashedFile};
use crate::files::tree::{DiskTree, OpenedTree, marker};
use crate::logger::{self, one_line};
use crate::relpath::{self, OWN_DIR};

/// A shown id has at least the time and 8 digits of the hash.
const MIN_ID_CHARS: usize = "YYYYMMDD-HHMMSS-HHHHHHHH".len();
/// Files that an error about an ambiguous name shows at most.
const MAX_SHOWN_MATCHES: usize = 5;

/// A file in the trash in the output of `--json`.
#[derive(Serialize)]
struct Row<'a> {
    dir: &'a str,
    /// Its name in the trash, which identifies it.
    id: &'a str,
    /// Its old path.
    path: Option<&'a str>,
    /// The last component of that.
    name: Option<&'a str>,
    size: u64,
    deleted_at: String,
}

/// A synced directory and the files in its trash.
struct Trash {
    dir: PathBuf,
    tree: Box<DiskTree>,
    files: Vec<TrashedFile>,
}

impl Trash {
    fn open(dir: &Path) -> Result<Trash> {
        let tree = match DiskTree::open_to_look(dir, None, &[], &[])? {
            OpenedTree::Ready(tree) => tree,
            OpenedTree::Held(why) => return Err(marker::held(dir, &why)),
        };
        let files = trash::list(&tree)?;
        Ok(Trash {
            dir: dir.to_path_buf(),
            tree,
            files,
        })
    }

    /// There may be more files than were read.
    fn may_have_more(&self) -> bool {
        self.files.len() >= trash::MAX_ENTRIES_READ
    }

    fn shown(&self) -> String {
        one_line(&self.dir.to_string_lossy())
    }
}

/// The synced directory that contains DIR; without DIR: all synced directories of this machine.
fn directories(settings: &Settings, dir: Option<&str>) -> Result<Vec<Trash>> {
    let Some(dir) = dir else {
        return synced_directories(settings)
            .iter()
            .map(|dir| Trash::open(dir))
            .collect();
    };
    let failed = |e| Error::io(format!("find {}", one_line(dir)), &e);
    let path = Path::new(dir).canonicalize().map_err(failed)?;
    // a directory that was forgotten keeps its trash
    match path.ancestors().find(|p| p.join(OWN_DIR).is_dir()) {
        Some(root) => Ok(vec![Trash::open(root)?]),
        None => {
            let what = format!("{} is no synced directory", one_line(dir));
            Err(Error::new(Kind::Failed, what)
                .hint("\"mesync status\" lists the directories that are"))
        }
    }
}

fn directory(invocation: &Invocation, at: usize) -> Result<Option<&str>> {
    if invocation.arguments.len() > at {
        invocation.argument(at).map(Some)
    } else {
        Ok(None)
    }
}

fn time(file: &TrashedFile) -> std::time::SystemTime {
    clock::from_millis(file.since.max(0).unsigned_abs() / 1_000_000)
}

/// All names, for [`short_id`].
fn sorted_names<'a>(all: &[&'a Trash]) -> Vec<&'a str> {
    let files = all.iter().flat_map(|trash| &trash.files);
    let mut names: Vec<&str> = files.map(|file| file.name.as_str()).collect();
    names.sort_unstable();
    names
}

/// The shortest prefix of a name with which no other one begins; the whole name if there is none.
fn short_id<'a>(name: &'a str, sorted: &[&str]) -> &'a str {
    let at = sorted.partition_point(|other| *other < name);
    let is_unique = |end: &usize| {
        let prefix = &name[..*end];
        let begins = |at: Option<usize>| {
            at.and_then(|at| sorted.get(at))
                .is_some_and(|other| other.starts_with(prefix))
        };
        !begins(at.checked_sub(1)) && !begins(at.checked_add(1))
    };
    let ends = name.char_indices().map(|(at, _)| at).skip(MIN_ID_CHARS);
    ends.into_iter()
        .find(is_unique)
        .map_or(name, |end| &name[..end])
}

/// The old paths of all files in the trash of this machine.
pub fn old_paths(settings: &Settings) -> Result<Vec<String>> {
    let all = directories(settings, None)?;
    let files = all.iter().flat_map(|trash| &trash.files);
    Ok(files.filter_map(TrashedFile::old_path).collect())
}

/// `mesync trash [list] [DIR]`
pub fn list(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let all = directories(&context.settings, directory(invocation, 0)?)?;
    let all: Vec<&Trash> = all.iter().collect();
    for trash in all.iter().filter(|trash| trash.may_have_more()) {
        let (dir, most) = (trash.shown(), trash::MAX_ENTRIES_READ);
        logger::note(&format!(
            "{dir}/{TRASH} may have more files than the {most} that are listed"
        ));
    }
    let out = &mut context.out;
    if out.json {
        for trash in &all {
            let dir = trash.dir.to_string_lossy();
            trash.files.iter().for_each(|file| {
                let path = file.old_path();
                out.object(&Row {
                    dir: &dir,
                    id: &file.name,
                    path: path.as_deref(),
                    name: path.as_deref().map(last_component),
                    size: file.bytes,
                    deleted_at: clock::rfc3339(time(file)),
                })
            });
        }
        return Ok(CommandEnd::All);
    }
    let mut titles: Vec<Column> = vec![left("DELETED"), right("SIZE"), left("ID"), left("PATH")];
    let mut rows = Vec::new();
    let names = sorted_names(&all);
    for trash in &all {
        for file in &trash.files {
            rows.push(vec![
                clock::local(time(file)),
                out.size(file.bytes),
                one_line(short_id(&file.name, &names)),
                file.old_path().map_or("-".into(), |path| one_line(&path)),
            ]);
            if all.len() > 1 {
                rows.last_mut()
                    .into_iter()
                    .for_each(|r| r.push(trash.shown()));
            }
        }
    }
    if all.len() > 1 {
        titles.push(left("DIRECTORY"));
    }
    out.table(&titles, &rows);
    match all.as_slice() {
        _ if !rows.is_empty() => {}
        [] => note("no directory is synced"),
        [one] => note(&format!("{}/{TRASH} is empty", one.shown())),
        _ => note("the trash of every synced directory is empty"),
    }
    Ok(CommandEnd::All)
}

fn last_component(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The file with this name in the trash, beginning of it, old path, or last component of that.
fn find<'a>(all: &[&'a Trash], what: &str) -> Result<(&'a Trash, &'a TrashedFile)> {
    // a name that was completed by a shell may have its directory
    let name = match what.rsplit_once('/') {
        Some((dir, name)) if dir.ends_with(TRASH) => name,
        _ => what,
    };
    let every = || {
        let files = |trash: &&'a Trash| {
            let trash: &'a Trash = trash;
            trash.files.iter().map(move |file| (trash, file))
        };
        all.iter().flat_map(files)
    };
    if let Some(found) = every().find(|(_, file)| file.name == name) {
        return Ok(found);
    }
    let is_meant = |file: &TrashedFile| {
        let old = file.old_path();
        let is_old = |old: &str| old == name || last_component(old) == name;
        !name.is_empty() && file.name.starts_with(name) || old.as_deref().is_some_and(is_old)
    };
    let found: Vec<_> = every().filter(|(_, file)| is_meant(file)).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] if all.iter().any(|trash| trash.may_have_more()) => {
            let what = format!(
                "{} is not among the files of the trash that were read",
                one_line(what)
            );
            Err(Error::new(Kind::Failed, what).hint("give its whole id"))
        }
        [] => Err(Error::new(
            Kind::Failed,
            format!("{} is not in the trash", one_line(what)),
        )
        .hint("\"mesync trash\" lists what is")),
        many => {
            let names = sorted_names(all);
            let ids: Vec<String> = many
                .iter()
                .take(MAX_SHOWN_MATCHES)
                .map(|(_, file)| one_line(short_id(&file.name, &names)))
                .collect();
            let more = if many.len() > ids.len() { ", …" } else { "" };
            let what = format!(
                "{} is the name or the beginning of {} in the trash",
                one_line(what),
                counted(many.len() as u64, "file")
            );
            let ids = ids.join(", ");
            Err(Error::new(Kind::Failed, what).hint(format!("give the id of one: {ids}{more}")))
        }
    }
}

/// The path in the directory that `--to` names: relative to the directory, or explicitly local.
fn target(dir: &Path, to: &str) -> Result<String> {
    let path = if to.starts_with('/') || is_explicit(to) {
        let failed = |e| Error::io("find the current directory", &e);
        let path = lexical(&std::env::current_dir().map_err(failed)?, to);
        // links on the way to the directory are the user's own
        let inside = path
            .ancestors()
            .find(|above| real(above) == dir)
            .and_then(|above| path.strip_prefix(above).ok());
        match inside.and_then(Path::to_str) {
            Some(path) => path.to_string(),
            None => {
                let what = format!("cannot restore {}: it is not in ", one_line(to));
                let what = what + &one_line(&dir.to_string_lossy());
                return Err(Error::new(Kind::Usage, what).hint("name a path in that directory"));
            }
        }
    } else {
        to.to_string()
    };
    relpath::check(&path).map_err(|why| {
        Error::new(
            Kind::Usage,
            format!("cannot restore {}: {why}", one_line(to)),
        )
    })?;
    Ok(path)
}

/// `mesync trash restore NAME [DIR]`
pub fn restore(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let mut all = directories(&context.settings, directory(invocation, 1)?)?;
    let what = invocation.argument(0)?;
    for trash in all.iter_mut().filter(|trash| trash.may_have_more()) {
        // a whole id finds a file that was not read, too
        trash.files.extend(trash::file(&trash.tree, what)?);
    }
    let (trash, file) = find(&all.iter().collect::<Vec<_>>(), what)?;
    let hint = "name another path with --to";
    let path = match (invocation.value("to")?, file.old_path()) {
        (Some(to), _) => target(&trash.dir, to)?,
        (None, Some(path)) if relpath::check(&path).is_ok() => path,
        (None, _) => {
            let what = format!(
                "cannot restore {}: its old name is not known",
                one_line(&file.name)
            );
            return Err(Error::new(Kind::Failed, what).hint(hint));
        }
    };
    trash::restore(&trash.tree, &file.name, &path)
        .map_err(|fault| Error::from(fault).hint(hint))?;
    let out = &mut context.out;
    if out.json {
        out.object(&serde_json::json!({
            "dir": trash.dir.to_string_lossy(), "id": file.name, "path": path,
        }));
    } else {
        out.line(&format!(
            "{}/{} is restored",
            trash.shown(),
            one_line(&path)
        ));
    }
    Ok(CommandEnd::All)
}

/// `mesync trash empty [DIR]`
pub fn empty(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let all = directories(&context.settings, directory(invocation, 0)?)?;
    if all.is_empty() && !context.out.json {
        note("no directory is synced");
    }
    for trash in &all {
        let emptied = trash::empty(&trash.tree)?;
        let (out, dir) = (&mut context.out, trash.shown());
        if out.json {
            out.object(&serde_json::json!({
                "dir": trash.dir.to_string_lossy(), "removed": emptied.removed, "kept": emptied.kept,
            }));
            continue;
        }
        out.line(&format!(
            "{} removed from {dir}/{TRASH}",
            counted(emptied.removed, "file")
        ));
        if emptied.kept > 0 {
            out.line(&format!(
                "{} with content left there: look into it, and remove it by hand",
                counted(emptied.kept, "directory")
            ));
        }
    }
    Ok(CommandEnd::All)
}
