//! Renames on two machines at the same moment: no content is left without a name.

use std::fs;
use std::thread;

use super::changes::Pair;

const FILES: usize = 30;

fn text(n: usize) -> String {
    format!("text {n} of two equal files")
}

/// The names of each text.
fn names(pair: &Pair, all: &[&str]) -> Vec<usize> {
    let count = |n: usize| {
        let has = |machine: &crate::support::tree::Synced, dir: &str| {
            machine.read(format!("{dir}/{n}")) == Some(text(n).into_bytes())
        };
        let alpha = all.iter().filter(|dir| has(&pair.alpha, dir)).count();
        let beta = all.iter().filter(|dir| has(&pair.beta, dir)).count();
        assert_eq!(alpha, beta);
        alpha
    };
    (0..FILES).map(count).collect()
}

#[test]
fn equal_files_renamed_to_each_others_names_keep_one_of_them() {
    let pair = Pair::new(true);
    for n in 0..FILES {
        for dir in ["a", "b"] {
            pair.alpha.put(format!("{dir}/{n}"), text(n));
        }
    }
    pair.settle();
    thread::scope(|scope| {
        scope.spawn(|| {
            (0..FILES).for_each(|n| pair.alpha.rename(&format!("a/{n}"), &format!("b/{n}")))
        });
        scope.spawn(|| {
            (0..FILES).for_each(|n| pair.beta.rename(&format!("b/{n}"), &format!("a/{n}")))
        });
    });
    pair.settle();
    let names = names(&pair, &["a", "b"]);
    assert!(names.iter().all(|names| *names >= 1), "{names:?}");
}

#[test]
fn a_directory_renamed_in_two_ways_keeps_one_of_its_names() {
    let pair = Pair::new(true);
    for n in 0..FILES {
        pair.alpha.put(format!("a/{n}"), text(n));
    }
    pair.settle();
    thread::scope(|scope| {
        scope.spawn(|| pair.alpha.rename("a", "b"));
        // unless it has the other name already
        scope.spawn(|| fs::rename(pair.beta.at("a"), pair.beta.at("c")).ok());
    });
    pair.settle();
    let names = names(&pair, &["a", "b", "c"]);
    assert!(names.iter().all(|names| *names >= 1), "{names:?}");
}
