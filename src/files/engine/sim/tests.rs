//! The simulation run over many seeds, with all rules and with each of them broken.

use super::*;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// Runs seeds until one fails.
fn first_failure(
    config: Config,
    mutant: Mutant,
    first: u64,
    seeds: u64,
) -> Option<(u64, Vec<String>)> {
    (first..first + seeds).find_map(|seed| {
        let (wrongs, _) = run(seed, config, mutant, false);
        (!wrongs.is_empty()).then_some((seed, wrongs))
    })
}

fn check(config: Config) {
    let (first, seeds) = (
        number("MESYNC_SIM_FIRST", 0),
        number("MESYNC_SIM_SEEDS", 40),
    );
    if let Some((seed, wrongs)) = first_failure(config, Mutant::None, first, seeds) {
        let (_, log) = run(seed, config, Mutant::None, true);
        panic!(
            "MESYNC_SIM_FIRST={seed} {config:?}:\n  {log}\n{}",
            wrongs.join("\n")
        );
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
fn mapped() {
    check(Config::Mapped);
}

#[test]
fn dirs() {
    check(Config::Dirs);
}

/// Each rule, the configuration in which the simulation must notice that it is broken, and from which seed on to look.
const MUTANTS: &[(Mutant, Config, u64)] = &[
    (Mutant::World(Broken::Cas), Config::Plain, 0),
    (Mutant::World(Broken::Recheck), Config::Plain, 100),
    (Mutant::World(Broken::NoReplace), Config::Plain, 0),
    (Mutant::World(Broken::NoBurn), Config::Plain, 0),
    (Mutant::World(Broken::VerifyCopies), Config::Plain, 0),
    (Mutant::World(Broken::Clean), Config::Mapped, 0),
    (Mutant::World(Broken::Doubt), Config::Mapped, 0),
    (Mutant::Engine(Rule::ReadWhatCameOut), Config::Mapped, 0),
    (Mutant::World(Broken::Listed), Config::Folding, 0),
    (Mutant::Engine(Rule::TwinKeepsItsName), Config::Folding, 0),
    (
        Mutant::Engine(Rule::DeletesBeforeRespelling),
        Config::Folding,
        12_800,
    ),
    (Mutant::World(Broken::List410), Config::Drop, 0),
    (Mutant::World(Broken::SeenIsStored), Config::Drop, 0),
    (Mutant::World(Broken::SameEpoch), Config::Restore, 0),
    (Mutant::World(Broken::RevReuse), Config::Restore, 1200),
    (Mutant::World(Broken::KeepBase), Config::Restore, 0),
    (Mutant::World(Broken::Tags), Config::SetBack, 0),
    (Mutant::Engine(Rule::LostMeetsNews), Config::SetBack, 0),
    (Mutant::World(Broken::ApproveListed), Config::Guard, 500),
    (Mutant::World(Broken::NoStale), Config::Legacy, 0),
    (Mutant::World(Broken::StaleBytes), Config::Legacy, 400),
    (Mutant::World(Broken::StaleHost), Config::Legacy, 0),
    (Mutant::Engine(Rule::ModeLosesToDelete), Config::Plain, 0),
    (Mutant::Engine(Rule::EditBeatsDelete), Config::Plain, 0),
    (Mutant::Engine(Rule::ModeApart), Config::Plain, 0),
    (Mutant::Engine(Rule::TimeApart), Config::Plain, 0),
    (Mutant::Engine(Rule::Adopt), Config::Plain, 0),
    (Mutant::Engine(Rule::KeepBoth), Config::Plain, 0),
    (Mutant::Engine(Rule::LookAtWhatCameOut), Config::Plain, 600),
    (Mutant::Engine(Rule::LookInTrash), Config::Plain, 800),
    (Mutant::Engine(Rule::CompareInode), Config::Plain, 900),
    (Mutant::Engine(Rule::AskOpenKeys), Config::Plain, 0),
    (Mutant::Engine(Rule::DeletesHaveKeys), Config::Single, 700),
    (Mutant::Engine(Rule::ApplyIntent), Config::Plain, 0),
    (
        Mutant::Engine(Rule::FailedMayHaveHappened),
        Config::Failing,
        0,
    ),
    (Mutant::Engine(Rule::CursorWithRows), Config::Plain, 0),
    (Mutant::Engine(Rule::UnlistedIsGone), Config::Drop, 0),
    (Mutant::Engine(Rule::UnlistedKeepsBase), Config::Drop, 0),
    (Mutant::Engine(Rule::ClashIsResolved), Config::Plain, 0),
    (Mutant::Engine(Rule::OrderBelow), Config::Single, 0),
    (Mutant::Engine(Rule::DirsHaveModes), Config::Dirs, 0),
    (Mutant::Engine(Rule::Guard), Config::Guard, 0),
    (Mutant::Engine(Rule::GuardIsStored), Config::Guard, 0),
];

/// Seeds that are tried for one broken rule.
const PATIENCE: u64 = 300;

#[test]
fn each_broken_rule_is_noticed() {
    let seeds = number("MESYNC_SIM_SEEDS", PATIENCE);
    let mut survivors = Vec::new();
    for (mutant, config, first) in MUTANTS {
        let first = number("MESYNC_SIM_FIRST", *first);
        if std::env::var("MESYNC_SIM_MUTANT").is_ok_and(|m| !format!("{mutant:?}").contains(&m)) {
            continue;
        }
        match first_failure(*config, *mutant, first, seeds) {
            Some((seed, wrongs)) => println!(
                "{mutant:?} {config:?}: seed {seed}: {}",
                wrongs[0].chars().take(60).collect::<String>()
            ),
            None => survivors.push(format!(
                "{mutant:?} in {config:?}, seeds {first} to {}",
                first + seeds
            )),
        }
    }
    let hint = "find a seed with MESYNC_SIM_MUTANT=NAME MESYNC_SIM_FIRST=0 MESYNC_SIM_SEEDS=20000; if there is none, the rule is not needed";
    assert!(
        survivors.is_empty(),
        "not noticed ({hint}):\n{}",
        survivors.join("\n")
    );
}
