//! Mutants: each patch in this directory breaks one rule of the program, or of the simulation's world, and the simulation must
//! catch it. A mutant that is not caught shows a rule that is not needed, or a simulation that is too weak.
//!
//! A patch begins with the rule and its loss, then the tests that must fail (in full, or below `files::engine::sim`), each with
//! the first seed to try where it takes seeds; then a unified diff, whose hunks are found by their lines, not by their numbers.
//!
//! `make mutants` applies them one by one to a copy of the sources, cut down to what the simulation needs; `make test` only holds
//! that each still applies. `MUTANTS=WORD` chooses those whose name has this word, `MESYNC_SIM_SEEDS` how many seeds are tried.

mod patch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use patch::{Mutant, Sources};

/// Where the tests are that catch mutants, unless a patch names them in full.
const SIMULATION: &str = "files::engine::sim";

/// The modules of the copy.
const COPIED_MODULES: &[&str] = &[
    "agent",
    "chunking",
    "clock",
    "config",
    "database",
    "disk",
    "error",
    "files::conflict",
    "files::delete_guard",
    "files::engine",
    "files::plan",
    "hub::bucket",
    "hub::commit",
    "hub::commit_log",
    "hub::data_dir",
    "hub::memory",
    "hub::store",
    "hub::subscribers",
    "hub::upcoming",
    "nearest",
    "pins",
    "relpath",
    "tls",
    "wire",
];

/// Seeds that are tried for a mutant, unless `MESYNC_SIM_SEEDS` says how many.
const SEEDS_PER_MUTANT: u64 = 300;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn mutants() -> Vec<Mutant> {
    let dir = root().join("tests/mutants");
    let mut paths: Vec<PathBuf> = fs::read_dir(&dir)
        .expect("list tests/mutants")
        .map(|entry| entry.expect("list tests/mutants").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "patch"))
        .collect();
    paths.sort();
    let parse = |path: &PathBuf| {
        let name = path.file_stem().expect("it has a name").to_string_lossy();
        let text = fs::read_to_string(path).expect("read a patch");
        Mutant::parse(&name, &text).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
    };
    let all: Vec<Mutant> = paths.iter().map(parse).collect();
    assert!(!all.is_empty(), "no patch in {}", dir.display());
    all
}

/// The Rust files of the copy, by their path in the tree.
fn sources() -> Sources {
    let mut found = Sources::new();
    for module in COPIED_MODULES {
        let path = format!("src/{}", module.replace("::", "/"));
        if root().join(&path).is_dir() {
            read_below(&path, &mut found);
        } else {
            read_file(&format!("{path}.rs"), &mut found);
        }
    }
    found
}

fn read_below(dir: &str, found: &mut Sources) {
    for entry in fs::read_dir(root().join(dir)).expect("list sources") {
        let entry = entry.expect("list sources");
        let path = format!("{dir}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            read_below(&path, found);
        } else if path.ends_with(".rs") {
            read_file(&path, found);
        }
    }
}

fn read_file(path: &str, found: &mut Sources) {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("read {path}: {e}"));
    found.insert(path.to_string(), text);
}

#[test]
fn each_patch_applies_exactly_once() {
    let sources = sources();
    let wrongs: Vec<String> = mutants()
        .iter()
        .filter_map(|mutant| mutant.apply(&sources).err())
        .collect();
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
}

#[test]
fn each_patch_names_tests_of_the_simulation() {
    let sources = sources();
    for mutant in mutants() {
        for catcher in &mutant.catchers {
            let (file, test) = catcher.test.rsplit_once("::").unwrap_or(("", ""));
            let path = format!("src/{}", in_full(file).replace("::", "/"));
            let text = sources
                .get(&format!("{path}.rs"))
                .or_else(|| sources.get(&format!("{path}/mod.rs")));
            assert!(
                text.is_some_and(|text| text.contains(&format!("#[test]\nfn {test}() {{"))),
                "{}: there is no test {} in the simulation",
                mutant.name,
                catcher.test
            );
        }
    }
}

/// Else the copy does not compile.
#[test]
fn the_copy_has_all_that_the_simulation_uses() {
    let mut missing = BTreeSet::new();
    for (path, text) in sources() {
        let mut all_used = used_around(&path, &text);
        for line in text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
        {
            for rest in line.split("crate::").skip(1) {
                // one module, or several in braces
                let list = match rest.strip_prefix('{') {
                    Some(list) => list.split('}').next().unwrap_or_default(),
                    None => rest.split(',').next().unwrap_or_default(),
                };
                all_used.extend(list.split(',').map(|used| {
                    let name = |c: &char| c.is_alphanumeric() || matches!(c, '_' | ':');
                    used.trim().chars().take_while(name).collect::<String>()
                }));
            }
        }
        for used in all_used {
            let is_copied = used.is_empty() || COPIED_MODULES.iter().any(|m| used.starts_with(m));
            if !is_copied {
                missing.insert(format!("{path}: crate::{used} is not in COPIED_MODULES"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// What the declarations `use super::…;` of a file name, from the root of the crate.
fn used_around(path: &str, text: &str) -> Vec<String> {
    let module = path.trim_start_matches("src/").trim_end_matches(".rs");
    let module: Vec<&str> = module.trim_end_matches("/mod").split('/').collect();
    let mut used = Vec::new();
    for declared in text.split("\nuse super::").skip(1) {
        let (mut declared, mut above) = (declared, &module[..module.len() - 1]);
        while let Some(rest) = declared.strip_prefix("super::") {
            (declared, above) = (rest, &above[..above.len() - 1]);
        }
        let names = declared.split(';').next().unwrap_or_default();
        let names: Vec<&str> = match names.strip_prefix('{') {
            Some(list) => list
                .trim_end_matches('}')
                .split(',')
                .map(str::trim)
                .collect(),
            None => names.split("::{").take(1).collect(),
        };
        let names = names.iter().filter(|name| !name.is_empty());
        used.extend(names.map(|name| format!("{}::{name}", above.join("::"))));
    }
    used
}

#[test]
fn names_around_a_module_are_found_from_the_root() {
    let text = "//! x\n\nuse super::b::{C, D};\nuse super::{\n    e, f::G,\n};\nuse super::super::h;\n    use super::*;\n";
    let wants = ["k::l::b", "k::l::e", "k::l::f::G", "k::h"];
    assert_eq!(used_around("src/k/l/m.rs", text), wants);
    assert_eq!(used_around("src/k/l/m/mod.rs", text), wants);
}

/// The sources in a directory of their own, with what was built of them.
struct Copy {
    dir: PathBuf,
    sources: Sources,
}

impl Copy {
    fn make() -> Copy {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutants");
        let copy = Copy {
            dir,
            sources: sources(),
        };
        let _ = fs::remove_dir_all(copy.dir.join("src"));
        for name in ["Cargo.toml", "Cargo.lock"] {
            let text = fs::read_to_string(root().join(name)).expect("read the manifest");
            // under the same name cargo would take its programs for those of the tree
            let text = text.replacen("name = \"mesync\"", "name = \"mesync-mutants\"", 1);
            copy.write(name, &text);
        }
        copy.write("src/lib.rs", &library());
        copy.put(&copy.sources, &Sources::new());
        copy
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.join(path);
        let above = path.parent().expect("it is below the copy");
        fs::create_dir_all(above).unwrap_or_else(|e| panic!("make {}: {e}", above.display()));
        fs::write(&path, text).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    }

    /// Writes the files that differ from those that are there.
    fn put(&self, wanted: &Sources, there: &Sources) {
        let differs = |(path, text): &(&String, &String)| there.get(*path) != Some(*text);
        for (path, text) in wanted.iter().filter(differs) {
            self.write(path, text);
        }
    }

    /// The program with the simulation.
    fn build(&self) -> Result<PathBuf, String> {
        // the libraries that it uses are built there already
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
        let built = Command::new(env!("CARGO"))
            .current_dir(&self.dir)
            .args(["test", "--locked", "--lib", "--no-run"])
            .arg("--message-format=json-render-diagnostics")
            .env(
                "CARGO_TARGET_DIR",
                target.expect("it is in the target directory"),
            )
            .env("CARGO_INCREMENTAL", "1")
            .output()
            .map_err(|e| format!("start cargo: {e}"))?;
        if !built.status.success() {
            let said = String::from_utf8_lossy(&built.stderr);
            return Err(format!("it does not compile:\n{said}"));
        }
        let said = String::from_utf8_lossy(&built.stdout);
        said.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .ok_or("cargo names no program".into())
    }
}

/// The root of the copy: its modules and nothing else.
fn library() -> String {
    let mut text = String::from("#![allow(unused)]\n");
    let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for module in COPIED_MODULES {
        match module.split_once("::") {
            Some((folder, file)) => folders.entry(folder).or_default().push(file),
            None => text += &format!("mod {module};\n"),
        }
    }
    for (folder, files) in folders {
        let inner: String = files.iter().map(|file| format!("mod {file}; ")).collect();
        text += &format!("mod {folder} {{ {inner}}}\n");
    }
    text
}

/// The path of a test or of its module.
fn in_full(path: &str) -> String {
    if path.starts_with("hub::") {
        path.to_string()
    } else {
        format!("{SIMULATION}::{path}")
    }
}

/// A test that failed with a mutant, and the seed at which it did, if it takes seeds.
type Caught = (String, Option<u64>);

/// Runs one test of the simulation. -> `None`: it passed; else the seed at which it failed, if it takes seeds.
fn failure(
    program: &Path,
    test: &str,
    first: u64,
    seeds: &str,
) -> Result<Option<Option<u64>>, String> {
    let Output { stdout, status, .. } = Command::new(program)
        .args(["--exact", "--test-threads=1"])
        .arg(in_full(test))
        .env("MESYNC_SIM_FIRST", first.to_string())
        .env("MESYNC_SIM_SEEDS", seeds)
        .env("RUST_BACKTRACE", "0")
        .output()
        .map_err(|e| format!("start the simulation: {e}"))?;
    let said = String::from_utf8_lossy(&stdout);
    if !said.contains("running 1 test") {
        return Err(format!("the simulation has no test {test}"));
    }
    if status.success() {
        return Ok(None);
    }
    let seed = |line: &str| line.strip_prefix("seed ").and_then(|n| n.parse().ok());
    Ok(Some(said.lines().rev().find_map(seed)))
}

/// Builds one mutant and runs its tests. -> Where each of them failed.
fn catches(copy: &Copy, mutant: &Mutant, seeds: &str) -> Result<Vec<Caught>, String> {
    let program = copy.build()?;
    let mut caught = Vec::new();
    for catcher in &mutant.catchers {
        match failure(&program, &catcher.test, catcher.first, seeds)? {
            None => {
                let first = catcher.first;
                return Err(format!(
                    "NOT CAUGHT by {} from seed {first}, {seeds} seeds",
                    catcher.test
                ));
            }
            Some(seed) => caught.push((catcher.test.clone(), seed)),
        }
    }
    Ok(caught)
}

/// Minutes of building: `make mutants` runs it.
#[test]
#[ignore = "builds each mutant: make mutants"]
fn the_simulation_catches_each_mutant() {
    let chosen = std::env::var("MUTANTS").unwrap_or_default();
    let seeds = std::env::var("MESYNC_SIM_SEEDS").unwrap_or(SEEDS_PER_MUTANT.to_string());
    let copy = Copy::make();
    if let Err(why) = copy.build() {
        panic!("the sources without a mutant: {why}");
    }
    let (mut wrongs, mut all) = (Vec::new(), BTreeSet::new());
    let mut mutants = mutants();
    mutants.retain(|mutant| mutant.name.contains(&chosen));
    assert!(!mutants.is_empty(), "no mutant has {chosen:?} in its name");
    for mutant in &mutants {
        let result = mutant.apply(&copy.sources).and_then(|mutated| {
            copy.put(&mutated, &copy.sources);
            let caught = catches(&copy, mutant, &seeds);
            copy.put(&copy.sources, &mutated);
            caught
        });
        match result {
            Ok(caught) => {
                for (test, seed) in &caught {
                    let at = seed.map_or(String::new(), |seed| format!(" at seed {seed}"));
                    println!("{}: caught{at} by {test}", mutant.name);
                }
                all.extend(caught);
            }
            Err(why) => {
                println!("{}: {why}", mutant.name);
                wrongs.push(format!("{}: {}\n{why}", mutant.name, mutant.rule));
            }
        }
    }
    // what fails without a mutant has caught none
    let program = copy.build().expect("it was built before");
    for (test, seed) in all {
        let first = seed.unwrap_or_default();
        if failure(&program, &test, first, "1") != Ok(None) {
            wrongs.push(format!("{test} fails at seed {first} without a mutant"));
        }
    }
    let hint = "look for a seed: MUTANTS=NAME MESYNC_SIM_SEEDS=20000 make mutants; if there is none, the rule is not needed";
    assert!(wrongs.is_empty(), "{}\n({hint})", wrongs.join("\n"));
}
