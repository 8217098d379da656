//! The histories.

mod idle;
mod late;
mod one_bucket;
mod orphans;
mod recoveries;

use super::*;

/// The value of a variable of the environment.
fn number(name: &str, default: u64) -> u64 {
    crate::config::environment::variable(name)
        .map_or(default, |text| text.to_string_lossy().parse().unwrap())
}

#[test]
fn hubs_agree_and_lose_nothing() {
    let first = number("MESYNC_SIM_FIRST", 0);
    let seeds = number("MESYNC_SIM_SEEDS", 20);
    let mut bad = Vec::new();
    for seed in first..first + seeds {
        let faults = history(seed, 1500);
        if let Some(fault) = faults.first() {
            println!("{fault}\nseed {seed}");
            bad.push(seed);
        }
        // enough to look at
        if bad.len() == 3 {
            break;
        }
    }
    assert!(
        bad.is_empty(),
        "{} of {seeds} histories failed: {:?}",
        bad.len(),
        &bad[..bad.len().min(10)]
    );
}
