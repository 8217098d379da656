//! Which files of a folder use each other, from `use` items and from paths in the text; and a circle among them, if there is one.
//!
//! A folder counts as one file of the folder that it is in. The root of a folder (`mod.rs`) knows all its files and may be used
//! by them, so it is in no circle.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Breach, Source};

type Module = Vec<String>;
type Uses = BTreeMap<String, BTreeSet<String>>;

/// One circle for each folder that has any: `a -> b -> a`.
pub fn circles(sources: &[Source]) -> Vec<Breach> {
    let modules: BTreeMap<Module, &Source> = sources
        .iter()
        .filter(|s| s.path.starts_with("src/") && !s.program.is_empty())
        .map(|s| (module(&s.path), s))
        .collect();
    let mut folders: BTreeMap<Module, Uses> = BTreeMap::new();
    for (user, s) in &modules {
        for mut used in paths(&s.program)
            .iter()
            .filter_map(|path| target(user, path))
        {
            while !used.is_empty() && !modules.contains_key(&used) {
                used.pop();
            }
            // the folder in which the two part
            let depth = user.iter().zip(&used).take_while(|(a, b)| a == b).count();
            if let (Some(a), Some(b)) = (user.get(depth), used.get(depth)) {
                let uses = folders.entry(user[..depth].to_vec()).or_default();
                uses.entry(a.clone()).or_default().insert(b.clone());
            }
        }
    }
    let found = folders.iter().filter_map(|(folder, uses)| {
        let circle = circle(uses)?;
        let mut at = folder.clone();
        at.push(circle[0].clone());
        let what = format!(
            "{} (a file uses only files that do not use it)",
            circle.join(" -> ")
        );
        Some(modules.get(&at)?.breach(1, what))
    });
    found.collect()
}

/// `src/a/mod.rs` and `src/a.rs` are `a`.
fn module(path: &str) -> Module {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let is_root = |word: &&str| !["mod", "lib", "main"].contains(word);
    path.split('/').filter(is_root).map(String::from).collect()
}

/// The module or item that a path in `user` leads to; `None`: it is not known to be of this crate.
fn target(user: &Module, path: &[String]) -> Option<Module> {
    let (first, rest) = path.split_first()?;
    let start = match first.as_str() {
        "crate" => Module::new(),
        "self" => user.clone(),
        "super" => {
            let up = path.iter().take_while(|word| *word == "super").count();
            let kept = user.len().checked_sub(up)?;
            return Some([&user[..kept], &path[up..]].concat());
        }
        _ => return None,
    };
    Some([start, rest.to_vec()].concat())
}

/// All paths in the text; those of a `use` with braces each by itself.
fn paths(program: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for item in program.split(';') {
        let is_use = |at: &usize| begins_a_word(item, *at);
        let used = item.match_indices("use ").map(|(at, _)| at).find(is_use);
        let (others, used) = item.split_at(used.unwrap_or(item.len()));
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let words = others.split(|c| !is_path(c)).filter(|w| w.contains("::"));
        found.extend(words.map(split));
        if let Some(tree) = used.strip_prefix("use ") {
            expand(tree, &[], &mut found);
        }
    }
    found
}

fn begins_a_word(text: &str, at: usize) -> bool {
    text[..at]
        .chars()
        .next_back()
        .is_none_or(|c| c.is_whitespace())
}

fn split(path: &str) -> Vec<String> {
    path.split("::")
        .map(|word| word.trim().trim_matches(':').to_string())
        .filter(|word| !word.is_empty())
        .collect()
}

fn expand(tree: &str, before: &[String], found: &mut Vec<Vec<String>>) {
    let Some((path, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree);
        return found.push([before, &split(path)].concat());
    };
    let before = [before, &split(path)].concat();
    let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
    let (mut depth, mut start) = (0, 0);
    for (i, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..i].trim().is_empty() {
                    expand(&inner[start..i], &before, found);
                }
                start = i + 1;
            }
            _ => {}
        }
    }
}

fn circle(uses: &Uses) -> Option<Vec<String>> {
    let mut left = uses.clone();
    // what uses nothing of the rest is in no circle
    loop {
        let names: BTreeSet<String> = left.keys().cloned().collect();
        left.values_mut()
            .for_each(|used| used.retain(|name| names.contains(name)));
        left.retain(|_, used| !used.is_empty());
        if left.len() == names.len() {
            break;
        }
    }
    let mut way = vec![left.keys().next()?.clone()];
    loop {
        let next = left[way.last()?].first()?.clone();
        if let Some(at) = way.iter().position(|name| *name == next) {
            way.push(next);
            return Some(way.split_off(at));
        }
        way.push(next);
    }
}

#[test]
fn a_circle_is_found_whatever_it_is_written_with() {
    let check = |files: &[(&str, &str)], wants: &[&str]| {
        let sources: Vec<Source> = files.iter().map(|(p, t)| Source::new(p, t)).collect();
        let found: Vec<String> = circles(&sources).into_iter().map(|b| b.what).collect();
        assert_eq!(found.len(), wants.len(), "{files:?}: {found:?}");
        for (found, wanted) in found.iter().zip(wants) {
            assert!(found.starts_with(wanted), "{found}: {wanted}");
        }
    };
    let (a, b, c) = ("src/x/a.rs", "src/x/b.rs", "src/x/c.rs");
    check(&[(a, "use super::b::B;"), (b, "fn f() {}")], &[]);
    check(
        &[(a, "use super::b::B;"), (b, "use super::a;")],
        &["a -> b -> a"],
    );
    check(
        &[
            (a, "use super::{c, b::B};"),
            (b, "fn f() { crate::x::a::f(); }"),
            (c, ""),
        ],
        &["a -> b -> a"],
    );
    check(
        &[
            (a, "use crate::{y, x::{b, c}};"),
            (b, "use super::c;"),
            (c, "use super::super::x::a;"),
        ],
        &["a -> b -> c -> a"],
    );
    // a folder is one file of its parent, and its own files may use its root
    check(
        &[
            ("src/x/mod.rs", "use a::A;"),
            (a, "use super::X;"),
            ("src/y.rs", "use crate::x::a;"),
        ],
        &[],
    );
    check(
        &[
            ("src/x/mod.rs", "mod a;"),
            (a, "use crate::y;"),
            ("src/y.rs", "use crate::x::a;"),
        ],
        &["x -> y -> x"],
    );
    check(
        &[
            (a, "#[cfg(test)]\nmod tests {\n    use crate::x::b;\n}"),
            (b, "use super::a;"),
        ],
        &[],
    );
    check(
        &[
            (a, "// use super::b;\nconst A: &str = \"super::b::c\";"),
            (b, "use super::a;"),
        ],
        &[],
    );
}
