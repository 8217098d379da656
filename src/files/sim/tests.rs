//! The simulation run over many seeds, with all rules and with each of them broken.

use super::*;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Runs seeds until one fails.
fn first_failure(config: Config, mutant: Mutant, first: u64, seeds: u64) -> Option<(u64, Vec<String>)> {
    (first..first + seeds).find_map(|seed| {
        let (wrongs, _) = run(seed, config, mutant, false);
        (!wrongs.is_empty()).then_some((seed, wrongs))
    })
}

fn check(config: Config) {
    let (first, seeds) = (number("MESYNC_SIM_FIRST", 0), number("MESYNC_SIM_SEEDS", 40));
    if let Some((seed, wrongs)) = first_failure(config, Mutant::None, first, seeds) {
        let (_, log) = run(seed, config, Mutant::None, true);
        panic!("MESYNC_SIM_FIRST={seed} {config:?}:\n  {log}\n{}", wrongs.join("\n"));
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
