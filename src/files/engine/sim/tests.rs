//! The simulation run over many seeds, in each configuration.

use super::*;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// Runs seeds until one fails.
fn check(config: Config) {
    let (first, seeds) = (
        number("MESYNC_SIM_FIRST", 0),
        number("MESYNC_SIM_SEEDS", 40),
    );
    for seed in first..first + seeds {
        // printed first, so that the last line names the seed even of a run that panics
        println!("seed {seed}");
        let (wrongs, _) = run(seed, config, false);
        if !wrongs.is_empty() {
            let (_, log) = run(seed, config, true);
            panic!(
                "MESYNC_SIM_FIRST={seed} {config:?}:\n  {log}\n{}",
                wrongs.join("\n")
            );
        }
    }
}

#[test]
fn plain() {
    check(Config::Plain);
}

#[test]
fn drop_() {
    check(Config::Drop);
}

#[test]
fn restore_() {
    check(Config::Restore);
}

#[test]
fn set_back() {
    check(Config::SetBack);
}

#[test]
fn backup() {
    check(Config::Backup);
}

#[test]
fn ignore() {
    check(Config::Ignore);
}

#[test]
fn guard() {
    check(Config::Guard);
}

#[test]
fn legacy() {
    check(Config::Legacy);
}

#[test]
fn single() {
    check(Config::Single);
}

#[test]
fn failing() {
    check(Config::Failing);
}

#[test]
fn moving() {
    check(Config::Moving);
}

#[test]
fn folding() {
    check(Config::Folding);
}

#[test]
fn copies() {
    check(Config::Copies);
}

#[test]
fn mapped() {
    check(Config::Mapped);
}

#[test]
fn dirs() {
    check(Config::Dirs);
}
