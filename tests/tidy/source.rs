//! One source file as text: with comments and literals blanked, and what it uses. It knows no rule.

/// One source file in the three forms that the rules look at. All have the same line numbers.
pub struct Source {
    pub path: String,
    pub text: String,
    /// Comments and the inside of literals blanked.
    pub code: String,
    /// Parts under `#[cfg(test)]` blanked too; empty for files of tests.
    pub program: String,
}

#[derive(Debug, PartialEq)]
pub struct Breach {
    pub path: String,
    pub line: usize,
    pub what: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let code = blank_literals(text);
        let program = if path.starts_with("src/") {
            blank_tests(&code)
        } else {
            String::new()
        };
        Source {
            path: path.into(),
            text: text.into(),
            code,
            program,
        }
    }

    pub fn breach(&self, line: usize, what: impl Into<String>) -> Breach {
        Breach {
            path: self.path.clone(),
            line,
            what: what.into(),
        }
    }

    /// Lines of `form` that have `word` as a word of its own (a `!` or `(` at its end needs no border).
    pub fn lines_with(&self, form: &str, word: &str) -> Vec<usize> {
        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let found = form.match_indices(word).filter(|(at, _)| {
            let before = word.starts_with(|c: char| c.is_alphanumeric())
                && part(form[..*at].chars().next_back());
            let after = word.ends_with(|c: char| c.is_alphanumeric())
                && part(form[at + word.len()..].chars().next());
            !before && !after
        });
        found.map(|(at, _)| line_of(form, at)).collect()
    }

    pub fn is_in(&self, places: &[&str]) -> bool {
        places
            .iter()
            .any(|p| self.path == *p || (p.ends_with('/') && self.path.starts_with(p)))
    }
}

pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// What follows `root::` anywhere, one level deep: `root::a::b` gives `a`, `root::{a, b::c}` gives `a` and `b`.
pub fn used_from(code: &str, root: &str) -> Vec<(usize, String)> {
    let start = format!("{root}::");
    let ident = |text: &str| {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut used = Vec::new();
    for (at, _) in code.match_indices(&start) {
        let rest = &code[at + start.len()..];
        if !rest.starts_with('{') {
            used.push((line_of(code, at), ident(rest)));
            continue;
        }
        let (mut depth, mut item) = (0, 0);
        for (i, c) in rest.char_indices() {
            match c {
                '{' if depth == 0 => (depth, item) = (1, i + 1),
                '{' => depth += 1,
                ',' | '}' if depth == 1 => {
                    used.push((
                        line_of(code, at + start.len() + item),
                        ident(&rest[item..i]),
                    ));
                    item = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    used
}

/// Blanks comments and the inside of string and character literals; newlines stay.
pub fn blank_literals(text: &str) -> String {
    let b: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    let at = |i: usize| b.get(i).copied().unwrap_or('\0');
    while i < b.len() {
        // the end of the literal or comment that begins here, if one does
        let end = match (b[i], at(i + 1)) {
            ('/', '/') => (i..b.len()).find(|&j| b[j] == '\n').unwrap_or(b.len()),
            ('/', '*') => {
                let (mut depth, mut j) = (1, i + 2);
                while j < b.len() && depth > 0 {
                    match (b[j], at(j + 1)) {
                        ('/', '*') => (depth, j) = (depth + 1, j + 2),
                        ('*', '/') => (depth, j) = (depth - 1, j + 2),
                        _ => j += 1,
                    }
                }
                j
            }
            ('r', '"' | '#')
                if i == 0
                    || !(b[i - 1].is_alphanumeric() && b[i - 1] != 'b' || b[i - 1] == '_') =>
            {
                let hashes = b[i + 1..].iter().take_while(|c| **c == '#').count();
                if at(i + 1 + hashes) != '"' {
                    out.push(b[i]);
                    i += 1;
                    continue;
                }
                let closes = |j: usize| b[j] == '"' && (1..=hashes).all(|k| at(j + k) == '#');
                (i + 2 + hashes..b.len())
                    .find(|&j| closes(j))
                    .map_or(b.len(), |j| j + 1 + hashes)
            }
            ('"', _) => {
                let mut j = i + 1;
                while j < b.len() && b[j] != '"' {
                    j += if b[j] == '\\' { 2 } else { 1 };
                }
                j + 1
            }
            ('\'', '\\') => (i + 3..b.len())
                .find(|&j| b[j] == '\'')
                .map_or(b.len(), |j| j + 1),
            // a lifetime has no quote after its first letter
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            _ => {
                out.push(b[i]);
                i += 1;
                continue;
            }
        };
        out.extend(b[i..end.min(b.len())].iter().map(|c| blank(*c)));
        i = end;
    }
    out
}

/// Blanks each item under `#[cfg(test)]`: up to the brace that closes it, or its semicolon.
pub fn blank_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (mut depth, mut end) = (0i32, rest.len());
        for (i, c) in rest[at..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 && (c == '}' || c == ';') {
                end = at + i + 1;
                break;
            }
        }
        out.push_str(&rest[..at]);
        out.extend(
            rest[at..end]
                .chars()
                .map(|c| if c == '\n' { '\n' } else { ' ' }),
        );
        rest = &rest[end..];
    }
    out + rest
}
