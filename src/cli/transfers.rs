//! `mesync upload` and `mesync download`: choose files and names, and print a line about each.
//!
//! `transfer` sends and receives them.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::download_tree::{self, check_spelling};
use super::output::{self, Output};
use super::parse::Invocation;
use super::progress::Progress;
use super::{CommandEnd, Context, counted, fail};
use crate::client::{HubResult, UploadOutcome};
use crate::daemon::servers;
use crate::error::{Error, Kind, Result};
use crate::logger::one_line;
use crate::transfer::upload::{Upload, Uploaded};
use crate::transfer::walk::{Walk, WalkEntry, WalkItem};
use crate::transfer::{MAX_REQUESTS, RequestSlots, Transfer, find};
use crate::wire::files::{self, Name, Record};
use crate::{disk, wire};

/// From this many files on, one listing costs less than a request for each.
const MANY_FILES: usize = 16;

/// The outcome for one file of an upload.
#[derive(Serialize)]
struct SentFile<'a> {
    /// The argument, with escapes for bytes that are not UTF-8.
    file: &'a str,
    /// The path on the hub.
    path: Option<&'a str>,
    id: Option<Uuid>,
    rev: Option<u64>,
    size: Option<u64>,
    /// `created`, `updated`, `unchanged`, `skipped` or `failed`.
    outcome: &'static str,
    error: Option<String>,
}

/// Prints the outcome for each file, and counts them.
struct TransferReport<'o> {
    out: &'o mut Output,
    progress: &'o Progress,
    sent: u64,
    unchanged: u64,
    skipped: u64,
    /// A file was skipped that should have been uploaded.
    left_out: bool,
    errors: Vec<Error>,
}

impl TransferReport<'_> {
    fn done(&mut self, file: &Path, name: &Name, result: HubResult<Uploaded>) {
        self.progress.clear();
        let (shown, path) = (disk::show(file.as_os_str()), name.full());
        let file = plain(file.as_os_str());
        match result {
            Ok(uploaded) => {
                let outcome = match uploaded.outcome {
                    UploadOutcome::Created => "created",
                    UploadOutcome::Updated => "updated",
                    UploadOutcome::Unchanged => "unchanged",
                };
                *(if uploaded.outcome == UploadOutcome::Unchanged {
                    &mut self.unchanged
                } else {
                    &mut self.sent
                }) += 1;
                let Uploaded { id, rev, size, .. } = uploaded;
                if self.out.json {
                    let size = Some(size);
                    return self.out.object(&SentFile {
                        file: &file,
                        path: Some(&path),
                        id,
                        rev,
                        size,
                        outcome,
                        error: None,
                    });
                }
                let id = id.map_or(String::new(), |id| format!("  {id}"));
                let size = self.out.size(size);
                self.out
                    .line(&format!("{outcome:9}  {size:>10}  {}{id}", one_line(&path)));
            }
            Err(failure) => {
                let what = failure.error.what.as_str();
                let own = what.starts_with("cannot upload") || what.starts_with("cannot read");
                let what = if own {
                    what.to_string()
                } else {
                    format!("cannot upload {shown}: {what}")
                };
                self.failed(
                    &file,
                    Some(&path),
                    Error {
                        what,
                        ..failure.error
                    },
                );
            }
        }
    }

    fn failed(&mut self, file: &str, path: Option<&str>, error: Error) {
        if self.out.json {
            let error = Some(error.to_string());
            self.out.object(&SentFile {
                file,
                path,
                id: None,
                rev: None,
                size: None,
                outcome: "failed",
                error,
            });
        }
        self.errors.push(error);
    }

    fn skipped(&mut self, file: &Path, why: &str, left_out: bool) {
        self.skipped += 1;
        self.left_out |= left_out;
        self.progress.clear();
        log::warn!("skipped {}: {why}", disk::show(file.as_os_str()));
        if self.out.json {
            let file = &plain(file.as_os_str());
            let error = Some(why.to_string());
            self.out.object(&SentFile {
                file,
                path: None,
                id: None,
                rev: None,
                size: None,
                outcome: "skipped",
                error,
            });
        }
    }

    fn conclude(self, summary: bool) -> Result<CommandEnd> {
        if summary && !self.out.json {
            let skipped = if self.skipped > 0 {
                format!(", {} skipped", self.skipped)
            } else {
                String::new()
            };
            let failed = if self.errors.is_empty() {
                String::new()
            } else {
                format!(", {} failed", self.errors.len())
            };
            let sent = counted(self.sent, "file");
            self.out.line(&format!(
                "{sent} uploaded, {} unchanged{skipped}{failed}",
                self.unchanged
            ));
        }
        match fail(self.errors)? {
            CommandEnd::All if self.left_out => Ok(CommandEnd::NotAll(Kind::Failed)),
            done => Ok(done),
        }
    }
}

/// A name in the form for scripts.
fn plain(name: &OsStr) -> String {
    name.to_str()
        .map_or_else(|| disk::show(name), str::to_string)
}

/// `mesync upload FILE…`
pub fn upload(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let (dir, arguments) = remote_dir(invocation)?;
    let name = invocation.value("name")?;
    if name.is_some() && arguments.len() > 1 {
        return Err(invocation.usage("--name is for one file"));
    }
    let hub = servers::files(&context.settings)?;
    let progress = Progress::new(invocation.has("quiet"));
    let watch = |step: crate::transfer::TransferStep<'_>| progress.step(step);
    let slots = RequestSlots::new(MAX_REQUESTS, Arc::default());
    let _slot = slots.enter();
    let transfer = Transfer::new(&hub, &watch)?.with_slots(&slots);
    let report = RefCell::new(TransferReport {
        out: &mut context.out,
        progress: &progress,
        sent: 0,
        unchanged: 0,
        skipped: 0,
        left_out: false,
        errors: Vec::new(),
    });
    let mut upload = Upload::new(&transfer);
    let mut summary = arguments.len() > 1;
    let many = arguments.len() > MANY_FILES;
    if many {
        upload.look_below(&dir)?;
    }
    let mut done = |entry: &WalkEntry, result: HubResult<Uploaded>| {
        report.borrow_mut().done(&entry.local, &entry.name, result)
    };
    for argument in arguments {
        let path = Path::new(argument);
        match one_argument(invocation, argument, &dir, name) {
            Ok(UploadArgument::Stream(name)) => {
                let result = upload
                    .look_at(&name)
                    .and_then(|()| upload.stream(std::io::stdin(), &name));
                report.borrow_mut().done(path, &name, result);
            }
            Ok(UploadArgument::File(entry)) => match if many {
                Ok(())
            } else {
                upload.look_at(&entry.name)
            } {
                Ok(()) => upload.add(entry, &mut done),
                Err(failure) => done(&entry, Err(failure)),
            },
            Ok(UploadArgument::Tree(remote)) => {
                summary = true;
                // an error of the server is not one of this directory
                upload.look_below(&remote)?;
                for found in Walk::new(path, &remote).with_modes(transfer.keeps_directories()) {
                    match found {
                        Ok(WalkItem::Entry(entry)) => upload.add(entry, &mut done),
                        Ok(WalkItem::Special(path)) => report.borrow_mut().skipped(
                            &path,
                            "not a file, directory or symbolic link",
                            false,
                        ),
                        Ok(WalkItem::Unfit(path, why)) => {
                            report.borrow_mut().skipped(&path, &why, true)
                        }
                        Err(error) => report.borrow_mut().failed(&plain(argument), None, error),
                    }
                }
            }
            Err(error) if error.kind == Kind::Usage => return Err(error),
            Err(error) => report.borrow_mut().failed(&plain(argument), None, error),
        }
    }
    upload.finish(&mut done);
    progress.clear();
    report.into_inner().conclude(summary)
}

/// The directory on the hub ("" for the root), and the arguments that are files. The directory is `--path`, or a last
/// argument that ends with a slash, as in cp(1).
fn remote_dir(invocation: &Invocation) -> Result<(String, &[OsString])> {
    let given = invocation.value("path")?;
    let (dir, files) = match (given, invocation.arguments.split_last()) {
        (Some(dir), _) => (dir, &invocation.arguments[..]),
        (None, Some((last, files))) if !files.is_empty() && is_remote(invocation, last) => {
            let last = invocation.arguments.len() - 1;
            (invocation.argument(last)?, files)
        }
        _ => ("", &invocation.arguments[..]),
    };
    let dir = dir.trim_matches('/');
    if dir.is_empty() {
        return Ok((String::new(), files));
    }
    let name = Name::parse(dir).map_err(|e| {
        invocation.usage(match given {
            Some(_) => format!("bad value for --path: {e}"),
            None => format!("bad directory on the hub \"{}\": {e}", wire::brief(dir)),
        })
    })?;
    Ok((name.full(), files))
}

fn is_remote(invocation: &Invocation, last: &OsStr) -> bool {
    last.as_encoded_bytes().ends_with(b"/")
        && !(invocation.has("recursive") && Path::new(last).is_dir())
}

/// The kind of an argument of `upload`.
enum UploadArgument {
    Stream(Name),
    File(WalkEntry),
    /// A directory, under this name on the hub.
    Tree(String),
}

fn one_argument(
    invocation: &Invocation,
    argument: &OsStr,
    dir: &str,
    name: Option<&str>,
) -> Result<UploadArgument> {
    let shown = disk::show(argument);
    let named = |name: &str| {
        Name::new(dir, name).map_err(|e| invocation.usage(format!("cannot upload {shown}: {e}")))
    };
    if argument == "-" {
        let name = name.ok_or_else(|| invocation.usage("standard input needs --name"))?;
        return named(name).map(UploadArgument::Stream);
    }
    let path = Path::new(argument);
    let meta = std::fs::metadata(path).map_err(|e| Error {
        kind: Kind::Io,
        ..Error::io(format!("read {shown}"), &e)
    })?;
    // the last component of "dir/." is "dir"; "." and ".." have none, so their content is uploaded without one
    let last = name.map(OsStr::new).or(path.file_name());
    let last = last.map(|last| {
        last.to_str().ok_or_else(|| {
            Error::new(
                Kind::Failed,
                format!("cannot upload {shown}: its name is not UTF-8"),
            )
            .hint("choose one with --name")
        })
    });
    let last = last.transpose()?;
    if !meta.is_dir() {
        let name = named(last.unwrap_or_default())?;
        return Ok(UploadArgument::File(WalkEntry {
            local: path.to_path_buf(),
            name,
            kind: files::EntryKind::File,
            follow: true,
        }));
    }
    if !invocation.has("recursive") {
        return Err(Error::new(
            Kind::Failed,
            format!("cannot upload {shown}: it is a directory"),
        )
        .hint("-r uploads its contents"));
    }
    match last {
        Some(last) => named(last).map(|name| UploadArgument::Tree(name.full())),
        None => Ok(UploadArgument::Tree(dir.to_string())),
    }
}

/// The outcome of a download.
#[derive(Serialize)]
struct DownloadedFile<'a> {
    id: Uuid,
    path: String,
    rev: u64,
    size: u64,
    file: &'a str,
}

/// `mesync download ID`
pub fn download(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let hub = servers::files(&context.settings)?;
    let progress = Progress::new(invocation.has("quiet"));
    let watch = |step: crate::transfer::TransferStep<'_>| progress.step(step);
    if invocation.has("recursive") {
        return download_tree::download(context, invocation, &hub);
    }
    let what = invocation.argument(0)?;
    let record =
        super::files::meant(&context.settings, &hub, what, find::record).map_err(|failure| {
            super::files::hint_at_directory(&hub, what, failure.error, "download -r downloads it")
        })?;
    if let Some(at) = &record.deleted_at {
        let what = format!(
            "cannot download {}: it was deleted at {}",
            wire::brief(&record.full_name()),
            wire::brief(at)
        );
        return Err(Error::new(Kind::Failed, what).hint("see mesync versions and mesync restore"));
    }
    let transfer = Transfer::new(&hub, &watch)?;
    let to = match download_tree::destination(invocation)? {
        Some(to) if to == "-" => {
            let written = transfer.download_to(&record, &mut std::io::stdout().lock());
            progress.clear();
            let failed = written?.err().as_ref().and_then(output::failure);
            return failed.map_or(Ok(CommandEnd::All), Err);
        }
        Some(to) => PathBuf::from(to),
        None => PathBuf::from("."),
    };
    let to = target(&record, to)?;
    check_spelling(&to)?;
    let fetched = transfer.download(record, &to);
    progress.clear();
    let record = fetched?;
    let (file, out) = (disk::show(to.as_os_str()), &mut context.out);
    if out.json {
        let (id, rev, size) = (record.id, record.rev, record.size);
        out.object(&DownloadedFile {
            id,
            path: record.full_name(),
            rev,
            size,
            file: &plain(to.as_os_str()),
        });
    } else {
        let size = out.size(record.size);
        out.line(&format!(
            "{} downloaded to {file} ({size})",
            one_line(&record.full_name())
        ));
    }
    Ok(CommandEnd::All)
}

/// The local path of the file: its own name if `to` is a directory, and only if that name is safe.
fn target(record: &Record, to: PathBuf) -> Result<PathBuf> {
    if to.is_dir() {
        let name = Name::new("", &record.name).map_err(|why| {
            let what = format!(
                "will not write a file of the name that the hub has for {}: {why}",
                record.id
            );
            Error::new(Kind::Refused, what).hint("choose another name with -o FILE")
        })?;
        let to = to.join(name.name);
        return if to.is_dir() && record.kind != files::EntryKind::Dir && !to.is_symlink() {
            let what = format!(
                "cannot write {}: a directory is there",
                disk::show(to.as_os_str())
            );
            Err(Error::new(Kind::CannotCreate, what).hint("choose another name with -o FILE"))
        } else {
            // print "a", not "./a"
            Ok(to.strip_prefix(".").map(Path::to_path_buf).unwrap_or(to))
        };
    }
    let dir = disk::parent(&to);
    std::fs::create_dir_all(dir).map_err(|e| Error {
        kind: Kind::CannotCreate,
        ..Error::io(
            format!("create directory {}", disk::show(dir.as_os_str())),
            &e,
        )
    })?;
    Ok(to)
}
