//! What a person does between a crash of a client and its next start.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::files::Hub;
use crate::support::inject;
use crate::support::tree::Synced;

/// The command, killed in place of one of its renames.
fn killed_before_rename(plain: &Command, nth: u32, trace: &std::path::Path) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-o"])
        .arg(trace)
        .args(["-e", "trace=renameat2"])
        .args([
            "-e",
            &format!("inject=renameat2:error=EIO:signal=KILL:when={nth}"),
        ])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_clear()
        .stdin(Stdio::null());
    let envs = plain.get_envs();
    command.envs(envs.filter_map(|(name, value)| Some((name, value?))));
    command
}

#[test]
fn a_directory_that_is_renamed_before_the_next_start_deletes_nothing_that_had_not_arrived() {
    if !inject::is_available() {
        return;
    }
    let hub = Hub::start();
    let (alpha, beta) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    alpha.pass();
    beta.pass();
    let trace = hub.world.dir.path().join("trace");
    let mut staged = 0;
    for nth in 1.. {
        let (dir, moved) = (format!("d{nth}"), format!("moved{nth}"));
        alpha.put(format!("{dir}/f"), format!("content {nth}"));
        alpha.pass();
        let plain = beta
            .machine
            .command(&["sync", "-w", beta.dir.to_str().unwrap()]);
        let out = killed_before_rename(&plain, nth, &trace).output().unwrap();
        let is_over = out.status.success();
        if let Ok(names) = fs::read_dir(beta.at(&dir)) {
            let temporary = |name: &str| name.starts_with(".mesync-");
            staged += usize::from(
                names
                    .flatten()
                    .any(|e| e.file_name().to_str().is_some_and(temporary)),
            );
            fs::rename(beta.at(&dir), beta.at(&moved)).unwrap();
        }
        beta.pass();
        beta.pass();
        alpha.pass();
        let found = [&dir, &moved].map(|dir| fs::read_to_string(alpha.at(format!("{dir}/f"))).ok());
        assert!(
            found.contains(&Some(format!("content {nth}"))),
            "killed at rename {nth}: {found:?}"
        );
        if is_over {
            break;
        }
    }
    assert!(staged > 0, "no kill was between the intent and the rename");
}
