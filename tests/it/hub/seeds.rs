//! The inputs in `tests/fuzz/seeds/`, each given to the check that the fuzz target of that name runs; fuzzing itself is `make fuzz`.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[path = "../../fuzz/checks/mod.rs"]
mod checks;

type Check = fn(&[u8]);

const TARGETS: &[(&str, Check)] = &[
    ("head", checks::http::head),
    ("gate", checks::http::gate),
    ("sse", checks::http::sse),
    ("message", checks::messages::message),
    ("batch", checks::messages::batch),
    ("settings", checks::settings::settings),
    ("token", checks::http::token),
    ("names", checks::files::names),
    ("form", checks::files::form),
    ("files", checks::files::files),
];

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn entries(dir: &str) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(fuzz().join(dir)).unwrap_or_else(|e| panic!("tests/fuzz/{dir}: {e}"));
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_seed_passes_its_check_whole_and_cut_off() {
    let mut failed = Vec::new();
    for (target, check) in TARGETS {
        let seeds = entries(&format!("seeds/{target}"));
        assert!(
            seeds.len() > 2,
            "tests/fuzz/seeds/{target} has {} files",
            seeds.len()
        );
        for path in seeds {
            let bytes = fs::read(&path).unwrap();
            // a few additional inputs: truncated ones are what a fuzzer tries first
            let cuts = (0..=8).map(|eighths| bytes.len() * eighths / 8);
            if catch_unwind(|| cuts.for_each(|n| check(&bytes[..n]))).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_target_is_built_seeded_and_in_the_makefile() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (cargo, make) = (
        fs::read_to_string(fuzz().join("Cargo.toml")).unwrap(),
        fs::read_to_string(root.join("Makefile")).unwrap(),
    );
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert!(
        make.contains(&format!("\nFUZZ_TARGETS = {}\n", names.join(" "))),
        "FUZZ_TARGETS is not {names:?}"
    );
    assert_eq!(cargo.matches("[[bin]]").count(), names.len());
    for name in &names {
        assert!(
            cargo.contains(&format!(
                "name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n"
            )),
            "{name}"
        );
        assert!(
            fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs")))
                .unwrap()
                .contains(&format!("::{name}(bytes)")),
            "{name}"
        );
        assert!(fuzz().join(format!("dict/{name}")).is_file(), "{name}");
    }
    for (dir, count) in [
        ("seeds", names.len()),
        ("dict", names.len()),
        ("fuzz_targets", names.len()),
    ] {
        assert_eq!(entries(dir).len(), count, "tests/fuzz/{dir}");
    }
}
