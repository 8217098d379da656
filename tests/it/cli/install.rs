//! The files from which packages are made: what "make install" puts where, and that the parts written down twice agree.
//!
//! The packages themselves take minutes: "make dist", "make dist-test", "make deb", "make systemd-test".

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::program::Mesync;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// All that is no directory below `dir`, without `dir`.
fn files_below(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut directories = vec![dir.to_path_buf()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                directories.push(path);
            } else {
                let below = path.strip_prefix(dir).unwrap().to_str().unwrap();
                found.insert(below.to_string());
            }
        }
    }
    found
}

/// Runs `make`; false where there is none.
fn make(arguments: &[&str]) -> bool {
    let mut command = Command::new("make");
    command.arg("--silent").current_dir(root());
    // this test may run below a make, which must not speak through its variables
    for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "PREFIX"] {
        command.env_remove(name);
    }
    match command.args(arguments).output() {
        Ok(output) => {
            assert!(output.status.success(), "make {arguments:?}: {output:?}");
            true
        }
        Err(e) => {
            println!("SKIPPED: make: {e}");
            false
        }
    }
}

#[test]
fn completions_in_contrib_are_those_that_the_program_prints() {
    let m = Mesync::new();
    for (shell, file) in [
        ("bash", "mesync.bash"),
        ("zsh", "_mesync"),
        ("fish", "mesync.fish"),
    ] {
        let path = format!("contrib/completions/{file}");
        assert!(
            text(&path).trim_end() == m.ok(["completions", shell]),
            "{path} is not what \"mesync completions {shell}\" prints: make completions"
        );
    }
}

#[test]
fn install_runs_no_program_and_uninstall_removes_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    // the binary of another machine does not run here, and neither does this
    let binary = dir.path().join("foreign");
    fs::write(&binary, "of another machine").unwrap();
    let target = dir.path().join("a target");
    let arguments = [
        format!("BINARY={}", binary.display()),
        format!("DESTDIR={}", target.display()),
        "PREFIX=/usr".to_string(),
    ];
    let run = |goal: &str| {
        let mut all = vec![goal];
        all.extend(arguments.iter().map(String::as_str));
        make(&all)
    };
    if !run("install") {
        return;
    }
    let installed = files_below(&target);
    for wanted in [
        "usr/bin/mesync",
        "usr/bin/s3ec",
        "usr/lib/systemd/system/mesync.service",
        "usr/lib/systemd/system/mesync-hub.service",
        "usr/lib/systemd/system/mesync-pass.service",
        "usr/lib/systemd/system/mesync-pass.timer",
        "usr/lib/systemd/user/mesync.service",
        "usr/lib/systemd/user/mesync-hub.service",
        "usr/lib/sysusers.d/mesync.conf",
        "usr/lib/tmpfiles.d/mesync.conf",
        "usr/share/bash-completion/completions/mesync",
        "usr/share/bash-completion/completions/s3ec",
        "usr/share/fish/vendor_completions.d/mesync.fish",
        "usr/share/fish/vendor_completions.d/s3ec.fish",
        "usr/share/zsh/site-functions/_mesync",
        "usr/share/man/man1/mesync.1",
        "usr/share/man/man1/s3ec.1",
        "usr/share/man/man5/mesync.5",
        "usr/share/man/man7/mesync.7",
        "usr/share/man/man7/mesync-migration.7",
    ] {
        assert!(installed.contains(wanted), "{wanted}: {installed:#?}");
    }
    for file in &installed {
        let path = target.join(file);
        let content = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(!content.contains("@bindir@"), "{file}");
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        let wanted = if file.starts_with("usr/bin/") {
            0o755
        } else {
            0o644
        };
        assert_eq!(mode, wanted, "{file}");
    }
    let unit = fs::read_to_string(target.join("usr/lib/systemd/system/mesync.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/mesync start"), "{unit}");

    assert!(run("uninstall"));
    assert_eq!(files_below(&target), BTreeSet::new());

    // an s3ec of its own keeps its name, its page and its completions
    let s3ec = target.join("usr/bin/s3ec");
    symlink("/opt/s3ec", &s3ec).unwrap();
    assert!(run("install"));
    assert_eq!(fs::read_link(&s3ec).unwrap(), Path::new("/opt/s3ec"));
    assert!(!target.join("usr/share/man/man1/s3ec.1").exists());
    assert!(run("uninstall"));
    assert_eq!(
        files_below(&target),
        BTreeSet::from(["usr/bin/s3ec".into()])
    );
}

#[test]
fn packages_have_the_version_of_the_program() {
    let version = env!("CARGO_PKG_VERSION");
    let changelog = text("CHANGELOG.md");
    let latest = changelog.lines().find(|l| l.starts_with("## ")).unwrap();
    for (file, wanted) in [
        (
            "contrib/openwrt/Makefile",
            format!("\nPKG_VERSION:={version}\n"),
        ),
        ("contrib/debian/changelog", format!("mesync ({version}-")),
        (
            "man/mesync-protocol.7",
            format!("\"version\":\"{version}\""),
        ),
    ] {
        assert!(text(file).contains(&wanted), "{file} is not of {version}");
    }
    assert!(latest.starts_with(&format!("## {version}")), "{latest}");
}
