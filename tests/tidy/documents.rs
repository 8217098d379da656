//! Rules about the documents: the changelog, the manual, the reasons of dependencies.

use super::{Breach, files, read, report};

#[test]
fn every_dependency_says_why_it_is_there() {
    let text = read("Cargo.toml");
    let (mut section, mut before, mut found) = ("", "", Vec::new());
    for (i, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        } else if section.ends_with("dependencies")
            && line.contains('=')
            && !line.starts_with(['#', ' '])
            && !before.starts_with('#')
        {
            let what = format!("{line}: no comment above it (each dependency has a reason)");
            found.push(Breach {
                path: "Cargo.toml".into(),
                line: i + 1,
                what,
            });
        }
        before = line;
    }
    report(found);
}

#[test]
fn the_changelog_has_a_heading_for_unreleased_changes() {
    assert!(
        read("CHANGELOG.md")
            .lines()
            .any(|l| l == "## Unreleased" || l.starts_with("## ") && l.ends_with(", unreleased")),
        "CHANGELOG.md: no heading \"Unreleased\" or \"VERSION, unreleased\""
    );
}

#[test]
fn nothing_in_the_repository_ends_in_spaces() {
    let mut names = vec![
        "Makefile".to_string(),
        "README.md".into(),
        "CHANGELOG.md".into(),
        "CONTRIBUTING.md".into(),
        "SECURITY.md".into(),
        ".ci/run".into(),
    ];
    names.extend(["contrib", "man"].iter().flat_map(|dir| files(dir, "")));
    let mut found = Vec::new();
    for name in names {
        for (i, _) in read(&name)
            .lines()
            .enumerate()
            .filter(|(_, l)| l.ends_with([' ', '\t', '\r']))
        {
            found.push(Breach {
                path: name.clone(),
                line: i + 1,
                what: "space at the end of the line (noise in diffs)".into(),
            });
        }
    }
    report(found);
}

#[test]
fn the_man_page_tells_every_setting_with_its_default_and_range() {
    let page = read("man/mesync.5");
    let (top, watched) = page
        .split_once("\n.Ss Under [[watch]]")
        .expect("a section about watched directories");
    let (watched, hub) = watched.split_once("\n.Ss ").expect("one more section");
    let (others, mut found) = (format!("{top}{hub}"), Vec::new());
    let mut check = |text: &str, key: &str, doc: &str, more: &[&str]| {
        let entry = text
            .split("\n.It Va ")
            .skip(1)
            .find(|e| e.lines().next() == Some(key))
            .unwrap_or("");
        let range = doc
            .rsplit_once('(')
            .map_or("", |(_, range)| range.trim_end_matches(')'));
        for wanted in more
            .iter()
            .chain([&range])
            .filter(|w| entry.is_empty() || !entry.contains(**w))
        {
            let what =
                format!("no \"{wanted}\" under \".It Va {key}\" (every setting is documented)");
            found.push(Breach {
                path: "man/mesync.5".into(),
                line: 1,
                what,
            });
        }
    };
    for s in mesync::internals::config::SETTINGS {
        let default = if s.default.is_empty() { "" } else { "default" };
        check(
            &others,
            s.key,
            s.doc,
            &[&format!(".Ev {}", s.env), default, s.default],
        );
    }
    mesync::internals::config::watch::SETTINGS
        .iter()
        .for_each(|s| check(watched, s.key, s.doc, &[s.default]));
    report(found);
}

#[test]
fn every_exit_status_is_documented() {
    // help lists the kinds themselves
    let page = read("man/mesync.1");
    for (kind, name) in mesync::internals::error::Kind::ALL {
        let status = kind.exit_status();
        assert!(
            page.contains(&format!("\n.It {status}\n")),
            "man/mesync.1: no exit status {status} ({name})"
        );
    }
}

#[test]
fn man_page_names_every_command_and_flag() {
    use mesync::internals::cli::table::{COMMANDS, Flag, GLOBAL};
    // the list entries of the page, each from its ".It" to the next one of a command
    let page = read("man/mesync.1").replace(".It Xo\n.Ic ", ".It Ic ");
    let entries: Vec<&str> = page.split(".It Ic ").skip(1).collect();
    let mut found = Vec::new();
    let mut missing = |what: String| {
        found.push(Breach {
            path: "man/mesync.1".into(),
            line: 1,
            what,
        })
    };
    for command in COMMANDS {
        let is_about = |e: &&&str| {
            e.strip_prefix(command.name)
                .is_some_and(|r| r.starts_with(['\n', ' ']))
        };
        // "hosts rebind" begins with "hosts" too: the shortest name is first
        let Some(entry) = entries.iter().find(is_about) else {
            missing(format!(
                "no \".It Ic {}\" (every command is documented)",
                command.name
            ));
            continue;
        };
        let forms = |f: &Flag| {
            [
                format!("Fl -{}", f.long),
                f.short
                    .map_or(String::from("\0"), |c| format!("Fl {c} , -{}", f.long)),
            ]
        };
        for flag in command
            .flags
            .iter()
            .filter(|f| forms(f).iter().all(|form| !entry.contains(form)))
        {
            missing(format!(
                "no \"Fl -{}\" in \".It Ic {}\" (every flag is documented)",
                flag.long, command.name
            ));
        }
    }
    for flag in GLOBAL.iter().filter(|f| {
        !page.contains(&format!(".It Fl -{}", f.long))
            && !page.contains(&format!(" , -{}\n", f.long))
    }) {
        missing(format!(
            "no \".It Fl -{}\" (every flag is documented)",
            flag.long
        ));
    }
    report(found);
}
