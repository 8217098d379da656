//! The program of a hook: whether it may run, and if not, why and which command fixes that.
//!
//! It runs nothing.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::plain;
use crate::wire::OWN_TYPES;

/// The hook for types without a hook of their own; no type can have this name.
const ANY: &str = "_any";
/// Bytes of a program that are read to find its interpreter, as the kernel reads them (execve(2)).
const FIRST_LINE: u64 = 256;

/// The program that runs for a type. `Ok(None)`: there is none. `Err`: there is one that must not
/// be run, with the reason.
pub fn program(base: &Path, kind: &str) -> Result<Option<PathBuf>, String> {
    let dir = base.join("hooks");
    // events of directories are not passed to the hook for messages
    let names = if kind.starts_with(OWN_TYPES) {
        &[kind][..]
    } else {
        &[kind, ANY][..]
    };
    for path in names.iter().map(|name| dir.join(name)) {
        let why = match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => Some(plain(&e)),
            Ok(meta) => refusal_of_dir(&dir).or_else(|| refusal(&path, &meta)),
        };
        return match why {
            Some(why) => Err(format!(
                "hook {} is not run: {why}",
                disk::show(path.as_os_str())
            )),
            None => Ok(Some(path)),
        };
    }
    Ok(None)
}

fn refusal(path: &Path, meta: &std::fs::Metadata) -> Option<String> {
    let shown = quoted(path);
    if meta.file_type().is_symlink() {
        let cure = match path.canonicalize() {
            Ok(target) => format!(
                "put the file itself there; run rm {shown} && cp {} {shown}",
                quoted(&target)
            ),
            Err(_) => format!("its target is missing; run rm {shown}"),
        };
        return Some(format!("it is a symbolic link; {cure}"));
    }
    if !meta.is_file() {
        return Some(format!(
            "it is not a regular file; move it away with mv {shown} ELSEWHERE"
        ));
    }
    if let Some(why) = foreign(path, meta) {
        return Some(why);
    }
    let writable = meta.mode() & 0o022 != 0;
    let executable = rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    match (writable, executable) {
        (false, true) => None,
        (true, true) => Some(format!(
            "group or others may write to it; run chmod go-w {shown}"
        )),
        (true, false) => Some(format!(
            "it is not executable, and group or others may write to it; run chmod +x {shown} && chmod go-w {shown}"
        )),
        (false, false) if meta.mode() & 0o100 != 0 => Some(
            "it has mode x and may not be executed: see the mount option noexec of its filesystem"
                .into(),
        ),
        (false, false) => Some(format!("it is not executable; run chmod +x {shown}")),
    }
}

/// Checks the directory of hooks: an entry is only as safe as its directory.
fn refusal_of_dir(dir: &Path) -> Option<String> {
    let meta = match dir.metadata() {
        Ok(meta) => meta,
        Err(e) => return Some(format!("{}: {}", disk::show(dir.as_os_str()), plain(&e))),
    };
    let why = foreign(dir, &meta).or_else(|| {
        let writable = meta.mode() & 0o022 != 0;
        writable.then(|| {
            format!(
                "group or others may write to it; run chmod go-w {}",
                quoted(dir)
            )
        })
    })?;
    Some(format!(
        "of its directory {}: {why}",
        disk::show(dir.as_os_str())
    ))
}

fn foreign(path: &Path, meta: &std::fs::Metadata) -> Option<String> {
    let me = rustix::process::geteuid().as_raw();
    let foreign = meta.uid() != me && meta.uid() != 0;
    foreign.then(|| {
        format!(
            "it belongs to another user ({}); run as root: chown {me} {}",
            meta.uid(),
            quoted(path)
        )
    })
}

/// Why the kernel did not start a program that passed the checks, and the remedy.
pub fn cannot_start(program: &Path, e: &io::Error) -> String {
    let shown = quoted(program);
    let line = first_line(program);
    let interpreter = line
        .as_deref()
        .and_then(|line| line.strip_prefix("#!"))
        .map(str::trim_start);
    let cure = match (e.raw_os_error(), interpreter) {
        (Some(libc::ENOENT), Some(line)) if line.ends_with('\r') => {
            format!("its first line ends with a carriage return; run sed -i 's/\\r$//' {shown}")
        }
        (Some(libc::ENOENT | libc::EACCES | libc::ENOTDIR), Some(line)) => {
            let word: String = line
                .split([' ', '\t'])
                .next()
                .unwrap_or("")
                .escape_debug()
                .collect();
            format!("its interpreter is \"{word}\"; correct its first line, or install that")
        }
        (Some(libc::ENOENT), None) => format!("its loader is missing; see file {shown}"),
        (Some(libc::ENOEXEC), None) => {
            "it has no interpreter, and is not a program for this machine; begin it with #!/bin/sh"
                .into()
        }
        _ => String::new(),
    };
    let why = format!(
        "cannot start {}: {}",
        disk::show(program.as_os_str()),
        plain(e)
    );
    if cure.is_empty() {
        why
    } else {
        format!("{why}: {cure}")
    }
}

fn first_line(program: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    disk::open_regular(program)
        .ok()?
        .take(FIRST_LINE)
        .read_to_end(&mut bytes)
        .ok()?;
    let line = bytes.split(|b| *b == b'\n').next()?;
    Some(String::from_utf8_lossy(line).into_owned())
}

/// A path quoted for a shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"/._-+@:".contains(&b));
    if plain {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The refusal names a command; after that command the hook is accepted.
    #[test]
    fn the_command_in_a_refusal_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("it's here");
        let hooks = base.join("hooks");
        std::fs::create_dir_all(&hooks).unwrap();
        mode(&hooks, 0o755);
        assert_eq!(program(&base, "t"), Ok(None));
        let path = hooks.join("t");
        let check = |words: &str| {
            let why = program(&base, "t").unwrap_err();
            assert!(why.contains(words), "{why}");
            let command = why.split_once("; run ").unwrap().1;
            assert!(
                std::process::Command::new("sh")
                    .args(["-c", command])
                    .status()
                    .unwrap()
                    .success(),
                "{command}"
            );
        };
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        for (bits, words) in [
            (0o600, "not executable"),
            (0o775, "group or others may write"),
            (0o622, "not executable, and group"),
        ] {
            mode(&path, bits);
            check(words);
            assert_eq!(program(&base, "t"), Ok(Some(path.clone())), "{bits:o}");
        }
        mode(&hooks, 0o775);
        check("of its directory");
        disk::rename(&path, &base.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", &path).unwrap();
        check("symbolic link; put the file itself there");
        assert_eq!(program(&base, "t"), Ok(Some(path.clone())));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(
            program(&base, "t")
                .unwrap_err()
                .contains("not a regular file")
        );
        assert_eq!(program(&base, "mesync.changed"), Ok(None));
        disk::rename(&base.join("elsewhere"), &hooks.join("_any")).unwrap();
        assert_eq!(
            program(&base, "mesync.changed"),
            Ok(None),
            "news of directories are not for _any"
        );
        assert_eq!(program(&base, "u"), Ok(Some(hooks.join("_any"))));
    }

    #[test]
    fn a_refusal_by_the_kernel_is_reported_with_its_cause() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let check = |text: &str, errno: i32, wants: &str| {
            std::fs::write(&path, text).unwrap();
            let got = cannot_start(&path, &io::Error::from_raw_os_error(errno));
            assert!(got.contains(wants), "{got}");
        };
        check(
            "#!/bin/bsh -e\n",
            libc::ENOENT,
            "its interpreter is \"/bin/bsh\"",
        );
        check("#!/bin/sh\r\n", libc::ENOENT, "carriage return; run sed -i");
        check(
            "#! /etc/passwd\n",
            libc::EACCES,
            "its interpreter is \"/etc/passwd\"",
        );
        check("echo x\n", libc::ENOEXEC, "begin it with #!/bin/sh");
        check("#!/bin/sh\n", libc::EIO, "cannot start");
    }
}
