//! Measures a walk through many files when nothing has changed. Run by hand: `cargo test --release
//! --lib -- --ignored --nocapture files::tree::tests::bench`.

use std::fs;

use super::*;

const FILES: usize = 100_000;

fn memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .find(|l| l.starts_with("VmHWM"))
        .unwrap_or("VmHWM unknown")
        .to_string()
}

#[test]
#[ignore = "makes 100,000 files"]
fn a_walk_through_many_files() {
    let w = world();
    for i in 0..FILES {
        let path = w.at(&format!("d{}/file-{i}", i / 1000));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, i.to_string()).unwrap();
    }
    let mut state = Vec::new();
    let began = crate::clock::monotonic();
    w.tree
        .below("", &mut |path| {
            state.push(path.to_string());
            Ok(true)
        })
        .unwrap();
    println!(
        "{} names in {:?}; {}",
        state.len(),
        began.elapsed(),
        memory()
    );
    let state: Vec<(String, LocalEntry)> = state
        .into_iter()
        .map(|path| (path.clone(), w.local(&path)))
        .collect();
    println!(
        "first look, with hashes: {:?}; {}",
        began.elapsed(),
        memory()
    );
    let (began, mut hashed) = (crate::clock::monotonic(), 0);
    for (path, local) in &state {
        let lie = Entry {
            hash: Hash([7; 32]),
            ..local.entry
        };
        match w.tree.examine(path, Some((&local.stamp, &lie))) {
            Ok(Presence::Here(now)) => {
                hashed +=
                    usize::from(now.entry.kind == EntryKind::File && now.entry.hash != lie.hash)
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    println!("again, by stat alone: {:?}; {}", began.elapsed(), memory());
    assert_eq!(hashed, 0, "nothing has changed, so nothing is read");
}
