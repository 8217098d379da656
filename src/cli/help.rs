//! Generates help from the table of commands and the table of settings.
//!
//! It contains no facts about commands; a missing fact belongs in the tables.

use super::CommandEnd;
use super::output::{Output, width_of, wrap};
use super::parse::{self, Invocation};
use super::table::{COMMANDS, Command, CommandGroup, Flag, GLOBAL, first_words};
use crate::config::{SETTINGS, Section, watch};
use crate::error::{Kind, Result};

/// Below this width for a description, names and descriptions have lines of their own.
const MIN_DOC_WIDTH: usize = 32;

const INTRODUCTION: &str = "mesync keeps machines in sync through one hub: a file in a synced directory of one appears in those of the others, and a message in the outbox of one appears in the inbox of the others and runs a hook there.";

/// `mesync help [COMMAND]`.
pub fn run(invocation: &Invocation, out: &mut Output) -> Result<CommandEnd> {
    match invocation.arguments.as_slice() {
        [] => overview(out),
        [topic] if topic == "settings" => settings(out),
        words => commands(&parse::find_rows(words)?, out),
    }
    Ok(CommandEnd::All)
}

/// Prints help about these commands, or about everything.
pub fn print(rows: &[&Command], out: &mut Output) {
    match rows {
        [] => overview(out),
        rows => commands(rows, out),
    }
}

/// The help for a command line without arguments.
pub fn short() -> String {
    format!(
        "usage: mesync COMMAND [ARGUMENT…] [FLAG…]\n{}",
        wrap(
            "commands: ",
            first_words().into_iter(),
            width_of(std::io::stderr())
        )
    )
}

fn overview(out: &mut Output) {
    paragraph(INTRODUCTION, out);
    out.line("");
    out.wrapped(
        "Usage: ",
        ["mesync", "COMMAND", "[ARGUMENT…]", "[FLAG…]"].into_iter(),
    );
    for (group, title) in CommandGroup::ALL {
        out.line(&format!("\n{title}:"));
        let rows = COMMANDS.iter().filter(|c| c.group == group);
        let rows: Vec<_> = rows
            .map(|c| {
                (
                    format!("{} {}", c.name, argument_names(c)),
                    c.doc.to_string(),
                )
            })
            .collect();
        pairs(&rows, out);
    }
    out.line("\nFlags of all commands:");
    flags(GLOBAL.iter(), out);
    out.line("");
    let statuses: Vec<_> = Kind::ALL
        .iter()
        .map(|(kind, words)| format!("{} {words}", kind.exit_status()))
        .collect();
    paragraph(
        &format!("Exit status: 0 done; {}.", statuses.join("; ")),
        out,
    );
    out.line("");
    paragraph("More: mesync help COMMAND, mesync help settings", out);
}

fn commands(rows: &[&Command], out: &mut Output) {
    for (i, row) in rows.iter().enumerate() {
        if i > 0 {
            out.line("\n");
        }
        command(row, out);
    }
    out.line("\nFlags of all commands:");
    flags(GLOBAL.iter(), out);
}

fn command(row: &Command, out: &mut Output) {
    paragraph(&format!("mesync {}: {}", row.name, row.doc), out);
    out.line("");
    let usage = row.usage();
    out.wrapped("Usage: ", usage.iter().map(String::as_str));
    for text in row.long {
        out.line("");
        paragraph(text, out);
    }
    if !row.flags.is_empty() {
        out.line("\nFlags:");
        flags(row.flags.iter(), out);
    }
    out.line(if row.examples.len() == 1 {
        "\nExample:"
    } else {
        "\nExamples:"
    });
    for (line, purpose) in row.examples {
        out.wrapped("  # ", purpose.split(' '));
        out.line(&format!("  {line}"));
    }
}

fn argument_names(row: &Command) -> String {
    let names: Vec<_> = row
        .usage()
        .into_iter()
        .skip(1)
        .take(row.arguments.len())
        .collect();
    names.join(" ")
}

fn flags<'a>(flags: impl Iterator<Item = &'a Flag>, out: &mut Output) {
    let rows = flags.map(|f| {
        let variable = f
            .setting
            .and_then(|key| SETTINGS.iter().find(|s| s.key == key))
            .map(|s| s.env);
        let doc = variable.map_or(f.doc.to_string(), |v| format!("{} [{v}]", f.doc));
        // align flags without a short form with the long forms of the others
        (
            if f.short.is_some() {
                f.usage()
            } else {
                format!("    {}", f.usage())
            },
            doc,
        )
    });
    pairs(&rows.collect::<Vec<_>>(), out);
}

/// Prints names on the left, and descriptions on the right.
fn pairs(rows: &[(String, String)], out: &mut Output) {
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    for (name, doc) in rows {
        // two columns need room
        if out.width < width + MIN_DOC_WIDTH {
            out.wrapped("  ", name.split_whitespace());
            out.wrapped("      ", doc.split(' '));
            continue;
        }
        out.wrapped(&format!("  {name:width$}  "), doc.split(' '));
    }
}

fn paragraph(text: &str, out: &mut Output) {
    out.wrapped("", text.split(' '));
}

fn settings(out: &mut Output) {
    paragraph(
        "Settings: the environment overrides config.toml in the base directory, and that overrides the default. Keys below \"[hub]\" belong under [hub] in the file, keys below \"[[watch]]\" under [[watch]], one such table for each synced directory.",
        out,
    );
    for (section, title) in [
        (Section::None, "Environment only"),
        (Section::Client, "Client"),
        (Section::Hub, "[hub]"),
    ] {
        out.line(&format!("\n{title}:"));
        for s in SETTINGS.iter().filter(|s| s.section == section) {
            let key = if section == Section::None {
                String::new()
            } else {
                format!("{}, ", s.key)
            };
            setting(&format!("{key}{}", s.env), s.default, s.doc, out);
        }
    }
    out.line(&format!("\n[[{}]]:", watch::TABLE));
    for s in watch::SETTINGS {
        setting(s.key, s.default, s.doc, out);
    }
    out.line("\nMore: man 5 mesync");
}

fn setting(name: &str, default: &str, doc: &str, out: &mut Output) {
    let default = if default.is_empty() {
        String::new()
    } else {
        format!(" = {default}")
    };
    out.wrapped("  ", format!("{name}{default}").split(' '));
    out.wrapped("      ", doc.split(' '));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_a_small_terminal() {
        let (mut out, text) = Output::memory();
        overview(&mut out);
        settings(&mut out);
        commands(&COMMANDS.iter().collect::<Vec<_>>(), &mut out);
        out.flush();
        let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
            assert_eq!(line.trim_end(), line);
        }
    }
}
