//! Which names are not synced: patterns as in gitignore(5), from `.mesyncignore` in the root and from the
//! settings.
//!
//! Only the settings can exclude `.mesyncignore` itself. It is synced, so any machine may write it, and a pattern in it
//! that matched the file would keep a correction from every machine.
//!
//! Pure. There is one list for the whole tree; a `.mesyncignore` below the root is an ordinary file. The caller says
//! whether a name is a directory. Matching takes time proportional to pattern and name, whatever the pattern.

/// The file in the root of a synced directory.
pub const FILE: &str = ".mesyncignore";

/// The rules in order: the last one that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    rules: Vec<Rule>,
}

/// The source of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// [`FILE`].
    File,
    Settings,
}

/// Whether a path opens [`FILE`] on some filesystem: one that folds case opens it by any spelling.
pub fn is_file(path: &str) -> bool {
    path.eq_ignore_ascii_case(FILE)
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    origin: Origin,
    /// `!`: includes what an earlier rule excluded.
    travels: bool,
    only_dirs: bool,
    parts: Vec<PatternPart>,
}

/// The text between two slashes of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PatternPart {
    /// `**`: any number of components, including none.
    Any,
    One(Vec<PatternToken>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PatternToken {
    Letter(char),
    /// `?`
    Question,
    /// `*`
    Star,
    /// `[a-z]`, `[!a-z]`.
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Ignore {
    /// Adds one pattern for each line. An invalid pattern matches nothing, as in git.
    pub fn add(&mut self, text: &str, origin: Origin) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        self.rules.extend(
            text.split('\n')
                .filter_map(|line| rule(line.strip_suffix('\r').unwrap_or(line), origin)),
        );
    }

    /// Whether this path is excluded, by itself or through an ancestor. A path below an excluded directory cannot be
    /// included again.
    pub fn ignores(&self, path: &str, is_dir: bool) -> bool {
        let ends = path
            .match_indices('/')
            .map(|(at, _)| (at, true))
            .chain([(path.len(), is_dir)]);
        !self.rules.is_empty()
            && ends
                .into_iter()
                .any(|(end, is_dir)| self.last_match(&path[..end], is_dir))
    }

    fn last_match(&self, path: &str, is_dir: bool) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        let counts = |r: &&Rule| r.origin == Origin::Settings || !is_file(path);
        let hit = self
            .rules
            .iter()
            .rev()
            .filter(counts)
            .find(|r| (is_dir || !r.only_dirs) && matches(&r.parts, &names));
        hit.is_some_and(|r| !r.travels)
    }
}

fn rule(line: &str, origin: Origin) -> Option<Rule> {
    let line = without_trailing_spaces(line);
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (travels, line) = line
        .strip_prefix('!')
        .map_or((false, line), |rest| (true, rest));
    let (only_dirs, line) = line
        .strip_suffix('/')
        .map_or((false, line), |rest| (true, rest));
    let anchored = line.contains('/');
    let line = line.strip_prefix('/').unwrap_or(line);
    if line.is_empty() {
        return None;
    }
    let mut parts = if anchored {
        Vec::new()
    } else {
        vec![PatternPart::Any]
    };
    for part in line.split('/') {
        parts.push(if part == "**" {
            PatternPart::Any
        } else {
            PatternPart::One(tokens(part)?)
        });
    }
    // "a/**" matches everything below a, but not a itself
    if parts.last() == Some(&PatternPart::Any) {
        parts.push(PatternPart::One(vec![PatternToken::Star]));
    }
    Some(Rule {
        origin,
        travels,
        only_dirs,
        parts,
    })
}

/// Trailing spaces count only after a backslash.
fn without_trailing_spaces(line: &str) -> &str {
    let trimmed = line.trim_end_matches(' ');
    let backslashes = trimmed.bytes().rev().take_while(|b| *b == b'\\').count();
    if backslashes % 2 == 1 && trimmed.len() < line.len() {
        &line[..trimmed.len() + 1]
    } else {
        trimmed
    }
}

/// `None`: the pattern cannot match anything.
fn tokens(part: &str) -> Option<Vec<PatternToken>> {
    let (mut out, mut rest) = (Vec::new(), part.chars().peekable());
    while let Some(c) = rest.next() {
        out.push(match c {
            '\\' => PatternToken::Letter(rest.next()?),
            '?' => PatternToken::Question,
            '*' => {
                while rest.next_if_eq(&'*').is_some() {}
                PatternToken::Star
            }
            '[' => class(&mut rest)?,
            c => PatternToken::Letter(c),
        });
    }
    Some(out)
}

fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<PatternToken> {
    let not = rest.next_if(|c| ['!', '^'].contains(c)).is_some();
    let mut ranges = Vec::new();
    loop {
        let from = match rest.next()? {
            // in first position it is an ordinary character
            ']' if !ranges.is_empty() => return Some(PatternToken::Class { not, ranges }),
            '\\' => rest.next()?,
            '[' if rest.peek() == Some(&':') => {
                ranges.extend(named(rest)?);
                continue;
            }
            c => c,
        };
        let mut ahead = rest.clone();
        match (ahead.next(), ahead.next()) {
            (Some('-'), Some(to)) if to != ']' => {
                rest.nth(1);
                let to = if to == '\\' { rest.next()? } else { to };
                ranges.push((from, to));
            }
            _ => ranges.push((from, from)),
        }
    }
}

/// `[:digit:]` and similar, within a class.
fn named(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Vec<(char, char)>> {
    rest.next();
    let name: String = rest.by_ref().take_while(|c| *c != ':').collect();
    rest.next_if_eq(&']')?;
    Some(match name.as_str() {
        "alnum" => vec![('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => vec![('A', 'Z'), ('a', 'z')],
        "blank" => vec![(' ', ' '), ('\t', '\t')],
        "cntrl" => vec![('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => vec![('0', '9')],
        "graph" => vec![('!', '~')],
        "lower" => vec![('a', 'z')],
        "print" => vec![(' ', '~')],
        "punct" => vec![('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => vec![('\t', '\r'), (' ', ' ')],
        "upper" => vec![('A', 'Z')],
        "xdigit" => vec![('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    })
}

/// Backtracks only to the last `**` that was passed: everything before it has matched as early as possible.
fn matches(parts: &[PatternPart], names: &[&str]) -> bool {
    let (mut p, mut n, mut again) = (0, 0, None);
    loop {
        match (parts.get(p), names.get(n)) {
            (None, None) => return true,
            (Some(PatternPart::Any), _) => {
                again = Some((p + 1, n));
                p += 1;
                continue;
            }
            (Some(PatternPart::One(tokens)), Some(name)) if matches_name(tokens, name) => {
                (p, n) = (p + 1, n + 1);
                continue;
            }
            _ => {}
        }
        let Some((after, from)) = again.filter(|(_, from)| *from < names.len()) else {
            return false;
        };
        again = Some((after, from + 1));
        (p, n) = (after, from + 1);
    }
}

/// Like `matches`, with characters and `*`.
fn matches_name(tokens: &[PatternToken], name: &str) -> bool {
    let (mut t, mut rest, mut again) = (0, name.chars(), None);
    loop {
        let mut next = rest.clone();
        match (tokens.get(t), next.next()) {
            (None, None) => return true,
            (Some(PatternToken::Star), _) => {
                again = Some((t + 1, rest.clone()));
                t += 1;
                continue;
            }
            (Some(token), Some(c)) if token.is(c) => {
                (t, rest) = (t + 1, next);
                continue;
            }
            _ => {}
        }
        let Some((after, mut from)) = again else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        (t, rest, again) = (after, from.clone(), Some((after, from)));
    }
}

impl PatternToken {
    fn is(&self, c: char) -> bool {
        match self {
            PatternToken::Letter(letter) => *letter == c,
            PatternToken::Question => true,
            PatternToken::Star => false,
            PatternToken::Class { not, ranges } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *not
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ignores(rules: &str, path: &str) -> bool {
        let mut ignore = Ignore::default();
        ignore.add(rules, Origin::File);
        ignore.ignores(path.strip_suffix('/').unwrap_or(path), path.ends_with('/'))
    }

    /// A path that ends with a slash is a directory.
    fn check(rules: &str, left_out: &[&str], travel: &[&str]) {
        left_out
            .iter()
            .for_each(|path| assert!(ignores(rules, path), "{rules:?} does not match {path:?}"));
        travel
            .iter()
            .for_each(|path| assert!(!ignores(rules, path), "{rules:?} matches {path:?}"));
    }

    #[test]
    fn patterns_are_those_of_git() {
        check(
            "*.bak",
            &["a.bak", "d/a.bak", ".bak", "x.bak/inside"],
            &["a.bak2", "bak"],
        );
        check("/a", &["a", "a/b"], &["d/a"]);
        check("d/a", &["d/a", "d/a/b"], &["x/d/a"]);
        check(
            "build/",
            &["build/", "x/build/", "build/a", "x/build/y/z"],
            &["build", "x/build"],
        );
        check("**/a", &["a", "d/a", "d/e/a"], &["ab"]);
        check("a/**", &["a/b", "a/b/c"], &["a", "a/", "x/a/b"]);
        check("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["ab", "x/a/b"]);
        check("a/*/b", &["a/x/b"], &["a/b", "a/x/y/b"]);
        check("a**b", &["ab", "axb", "d/axb"], &["a/b"]);
        check("?.c", &["a.c", "é.c", "d/😀.c"], &["ab.c", ".c"]);
        check("[a-c]x", &["ax", "cx"], &["dx", "x"]);
        check("[!a-c]x", &["dx"], &["ax"]);
        check("[^a-c]x", &["dx"], &["ax"]);
        check("[]]x", &["]x"], &["x"]);
        check("[a-]x", &["ax", "-x"], &["bx"]);
        check("[\\]a]x", &["]x", "ax"], &["\\x"]);
        check("[[:digit:]_]x", &["1x", "_x"], &["ax"]);
        check("[a", &[], &["[a", "a"]);
        check("\\#a\n\\!b\n\\*", &["#a", "!b", "*"], &["a", "b", "x"]);
        check("# a\n\n   \n/\n", &[], &["# a", "a", " "]);
        check("a  \nb\\ ", &["a", "b "], &["a  ", "b"]);
        check("a\r\nb", &["a", "b"], &[]);
        check("*\n!a", &["b", "d/"], &["a"]);
        check("*.log\n!keep.log\nkeep.log", &["keep.log"], &[]);
        check(
            "*.log\n!keep.log",
            &["a.log", "d/a.log"],
            &["keep.log", "d/keep.log"],
        );
        // nothing below an ignored directory is included again
        check("d/\n!d/a", &["d/", "d/a"], &["d"]);
        check("d/*\n!d/a", &["d/b"], &["d/", "d/a"]);
        check("", &[], &["a"]);
    }

    #[test]
    fn only_the_settings_leave_the_file_of_rules_out() {
        for rules in [
            "*",
            "/.mesyncignore",
            ".*",
            "**",
            ".mesyncignore",
            "[.]*",
            ".MesyncIgnore",
        ] {
            check(rules, &[], &[FILE, ".MESYNCIGNORE"]);
            let mut settings = Ignore::default();
            settings.add(rules, Origin::Settings);
            assert!(
                settings.ignores(FILE, false) || rules == ".MesyncIgnore",
                "{rules}"
            );
        }
        // below the root it is an ordinary file
        check("*", &["d/.mesyncignore"], &[]);
        let mut both = Ignore::default();
        both.add("!.mesyncignore", Origin::File);
        both.add(FILE, Origin::Settings);
        assert!(both.ignores(FILE, false));
    }

    #[test]
    fn stars_take_no_more_time_than_letters() {
        let many = "*a".repeat(60) + "b";
        assert!(!ignores(&many, &"a".repeat(250)));
        let many = "**/a/".repeat(60) + "b";
        assert!(!ignores(&many, &"a/".repeat(400)));
    }

    /// The definition, without regard to time.
    fn slow(parts: &[PatternPart], names: &[&str]) -> bool {
        match (parts, names) {
            ([], []) => true,
            ([PatternPart::Any, rest @ ..], _) => {
                (0..=names.len()).any(|n| slow(rest, &names[n..]))
            }
            ([PatternPart::One(tokens), rest @ ..], [name, names @ ..]) => {
                slow_name(tokens, &name.chars().collect::<Vec<_>>()) && slow(rest, names)
            }
            _ => false,
        }
    }

    fn slow_name(tokens: &[PatternToken], name: &[char]) -> bool {
        match (tokens, name) {
            ([], []) => true,
            ([PatternToken::Star, rest @ ..], _) => {
                (0..=name.len()).any(|n| slow_name(rest, &name[n..]))
            }
            ([token, rest @ ..], [c, name @ ..]) => token.is(*c) && slow_name(rest, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(line in "(/|!)?([ab*?]{1,4}|\\*\\*|[ab]|\\[a-b\\])(/([ab*]{1,3}|\\*\\*)){0,4}/?", path in "[ab]{1,4}(/[ab]{1,3}){0,5}") {
            let Some(rule) = rule(&line, Origin::File) else { return Ok(()) };
            let names: Vec<&str> = path.split('/').collect();
            prop_assert_eq!(matches(&rule.parts, &names), slow(&rule.parts, &names), "{:?}", rule);
        }

        #[test]
        fn any_text_is_taken(text: String, path: String) {
            ignores(&text, &path);
        }
    }

    /// Skipped with a message if git is not installed.
    #[test]
    fn git_says_the_same() {
        use proptest::strategy::ValueTree;
        use proptest::test_runner::TestRunner;
        let dir = tempfile::tempdir().unwrap();
        let git = |args: &[&str], input: &str| {
            use std::io::Write;
            let mut git = std::process::Command::new("git");
            git.args(args)
                .current_dir(dir.path())
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped());
            let mut child = git.stderr(std::process::Stdio::null()).spawn().ok()?;
            child
                .stdin
                .take()
                .unwrap()
                .write_all(input.as_bytes())
                .unwrap();
            Some(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap())
        };
        if git(&["init", "-q"], "").is_none() {
            return eprintln!("no git here: not tested");
        }
        let mut runner = TestRunner::deterministic();
        let line =
            "!?/?([ab*?]{1,3}|\\*\\*|[ab]|\\[!?a-b\\]|\\\\\\*a)(/([ab*]{1,3}|\\*\\*)){0,3}/?";
        let lines = proptest::collection::vec(line, 1..4);
        let paths = proptest::collection::vec("[ab]{1,3}(/[ab]{1,2}){0,3}/?", 40);
        for _ in 0..60 {
            let rules = lines.new_tree(&mut runner).unwrap().current().join("\n");
            let paths = paths.new_tree(&mut runner).unwrap().current();
            std::fs::write(dir.path().join(".gitignore"), &rules).unwrap();
            // git would match a trailing slash as part of the name, so the directories are created
            paths
                .iter()
                .filter(|p| p.ends_with('/'))
                .for_each(|p| std::fs::create_dir_all(dir.path().join(p)).unwrap());
            let paths: Vec<&str> = paths.iter().map(|p| p.trim_end_matches('/')).collect();
            let answer = git(
                &["check-ignore", "--no-index", "--stdin"],
                &(paths.join("\n") + "\n"),
            )
            .unwrap();
            for path in paths {
                let slash = if dir.path().join(path).is_dir() {
                    "/"
                } else {
                    ""
                };
                let ours = ignores(&rules, &format!("{path}{slash}"));
                assert_eq!(
                    ours,
                    answer.lines().any(|l| l == path),
                    "{rules:?} {path:?}{slash}"
                );
            }
        }
    }
}
