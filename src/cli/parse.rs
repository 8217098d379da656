//! Parses the arguments by the table, and suggests the nearest name for an unknown one.
//!
//! It runs nothing and reads only its arguments; the commands interpret values.

use std::ffi::{OsStr, OsString};

use super::table::{ArgumentCount, COMMANDS, Command, Flag, GLOBAL, ValueKind, first_words, rows};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::nearest::nearest;

/// One command with its flags and arguments, all of which the table allows.
pub struct Invocation {
    pub row: &'static Command,
    flags: Vec<(&'static Flag, Option<OsString>)>,
    pub arguments: Vec<OsString>,
}

pub enum ParsedLine {
    Run(Invocation),
    /// Help about these rows; empty: about everything.
    Help(Vec<&'static Command>),
    Version,
    /// No command at all.
    Nothing,
}

impl Invocation {
    pub fn count(&self, long: &str) -> usize {
        self.flags.iter().filter(|(f, _)| f.long == long).count()
    }

    pub fn has(&self, long: &str) -> bool {
        self.count(long) > 0
    }

    /// The value of a flag, which need not be UTF-8 if it is a file name.
    pub fn os_value(&self, long: &str) -> Option<&OsStr> {
        self.flags
            .iter()
            .find(|(f, _)| f.long == long)?
            .1
            .as_deref()
    }

    pub fn value(&self, long: &str) -> Result<Option<&str>> {
        self.os_value(long)
            .map(|value| value.to_str().ok_or_else(|| not_utf8(long, value)))
            .transpose()
    }

    /// All values of a flag that may be given several times.
    pub fn values(&self, long: &str) -> Result<Vec<&str>> {
        let values = self.flags.iter().filter(|(flag, _)| flag.long == long);
        values
            .filter_map(|(_, value)| value.as_deref())
            .map(|value| value.to_str().ok_or_else(|| not_utf8(long, value)))
            .collect()
    }

    /// The argument at this position; the parser guarantees those with [`ArgumentCount::One`].
    pub fn argument(&self, at: usize) -> Result<&str> {
        let value = self
            .arguments
            .get(at)
            .map_or(OsStr::new(""), |v| v.as_os_str());
        value
            .to_str()
            .ok_or_else(|| self.usage(format!("{} is not UTF-8", disk::show(value))))
    }

    /// A usage error of this command.
    pub fn usage(&self, what: impl Into<String>) -> Error {
        usage(self.row.name, what, None)
    }
}

fn not_utf8(long: &str, value: &OsStr) -> Error {
    Error::new(
        Kind::Usage,
        format!("bad value for --{long}: {} is not UTF-8", disk::show(value)),
    )
}

fn usage(command: &str, what: impl Into<String>, meant: Option<String>) -> Error {
    let see = format!("see mesync help {command}");
    let see = see.trim_end();
    Error::new(Kind::Usage, what).hint(match meant {
        Some(meant) => format!("did you mean {meant}? {see}"),
        None => see.to_string(),
    })
}

/// Parses the arguments, which begin with the program's name. Flags are allowed anywhere before `--`.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<ParsedLine> {
    let mut flags = Vec::new();
    let mut words = Vec::new();
    let mut unknown = None;
    let mut parser = lexopt::Parser::from_iter(args);
    loop {
        let (shown, flag) = match parser.next() {
            Ok(None) => break,
            Ok(Some(lexopt::Arg::Value(word))) => {
                words.push(word);
                continue;
            }
            Ok(Some(lexopt::Arg::Long(name))) => {
                (format!("--{name}"), find_flag(&words, |f| f.long == name))
            }
            Ok(Some(lexopt::Arg::Short(c))) => {
                let flag = find_flag(&words, |f| f.short == Some(c));
                (format!("-{c}"), flag)
            }
            Err(e) => return Err(usage(command_so_far(&words), shown_error(&e), None)),
        };
        let Some(flag) = flag else {
            // `--x=y`: do not report the value of an unknown flag as a second error
            let _ = parser.optional_value();
            unknown.get_or_insert(shown);
            continue;
        };
        let value = match flag.value {
            None => None,
            Some(name) => match parser.value() {
                Ok(value) => Some(value),
                Err(_) => {
                    // a misspelled command is the mistake, not a flag that may take no value in the right one
                    if !words.is_empty() && command_so_far(&words).is_empty() {
                        find_command(&words)?;
                    }
                    return Err(usage(
                        command_so_far(&words),
                        format!("{shown} needs a value: {shown} {name}"),
                        None,
                    ));
                }
            },
        };
        let is_repeated = flags.iter().any(|(f, _): &(&Flag, _)| f.long == flag.long);
        if value.is_some() && is_repeated && !flag.repeatable {
            return Err(usage(
                command_so_far(&words),
                format!("{shown} is repeated"),
                None,
            ));
        }
        flags.push((flag, value));
    }
    if let Some(shown) = unknown {
        return Err(unknown_flag(&shown, &words));
    }
    let given = |long: &str| flags.iter().any(|(f, _)| f.long == long);
    if given("version") {
        return Ok(ParsedLine::Version);
    }
    if words.is_empty() {
        return Ok(if given("help") {
            ParsedLine::Help(Vec::new())
        } else {
            ParsedLine::Nothing
        });
    }
    if given("help") {
        return find_rows(&words).map(ParsedLine::Help);
    }
    let (row, used) = find_command(&words)?;
    let invocation = Invocation {
        row,
        flags,
        arguments: words.split_off(used),
    };
    check_flags(&invocation)?;
    check_arguments(&invocation)?;
    Ok(ParsedLine::Run(invocation))
}

/// The flag of the command that the words begin with, else of any command.
fn find_flag(words: &[OsString], is: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
    let own = find_command(words).map_or(&[][..], |(row, _)| row.flags);
    own.iter()
        .chain(GLOBAL)
        .chain(COMMANDS.iter().flat_map(|c| c.flags))
        .find(|f| is(f))
}

fn shown_error(e: &lexopt::Error) -> String {
    match e {
        lexopt::Error::UnexpectedValue { option, value } => {
            format!("{option} takes no value, but has \"{}\"", disk::show(value))
        }
        other => other.to_string(),
    }
}

/// The command whose help explains an error, as far as its name is known.
fn command_so_far(words: &[OsString]) -> &'static str {
    let word = words.first().and_then(|w| w.to_str()).unwrap_or_default();
    find_command(words).map_or_else(
        |_| {
            first_words()
                .into_iter()
                .find(|w| *w == word)
                .unwrap_or_default()
        },
        |(row, _)| row.name,
    )
}

/// The row for the first words, and the number of words in its name.
fn find_command(words: &[OsString]) -> Result<(&'static Command, usize)> {
    let first = words.first().map_or(OsStr::new(""), |w| w.as_os_str());
    let rows = first.to_str().map(rows).unwrap_or_default();
    if rows.is_empty() {
        let meant = nearest(&first.to_string_lossy(), first_words()).map(|w| format!("\"{w}\""));
        return Err(usage(
            "",
            format!("there is no command \"{}\"", disk::show(first)),
            meant,
        ));
    }
    let first = rows[0].first_word();
    let second = words.get(1).map(|w| w.to_string_lossy());
    let second = second.as_deref();
    let name = format!("{first} {}", second.unwrap_or_default());
    if let Some(row) = rows.iter().find(|r| r.name == name) {
        return Ok((row, 2));
    }
    match rows.iter().find(|r| r.name == first) {
        Some(row) if rows.len() == 1 || second.is_none() || !row.arguments.is_empty() => {
            return Ok((row, 1));
        }
        _ => {}
    }
    let forms = rows.iter().filter_map(|r| r.name.split_once(' '));
    let forms: Vec<&str> = forms.map(|(_, form)| form).collect();
    let meant = second.and_then(|s| nearest(s, forms.clone()));
    // "trash DIR" is "trash list DIR", but a misspelled form is no directory
    let lists = |r: &&&Command| r.name.ends_with(" list") && !r.arguments.is_empty();
    if let (Some(list), None) = (rows.iter().find(lists), meant) {
        return Ok((list, 1));
    }
    let all = forms.join(", ");
    let what = match second.map(crate::wire::brief) {
        Some(second) => format!("there is no \"{first} {second}\", only {all}"),
        None => format!("{first} needs one of {all}"),
    };
    Err(usage(first, what, meant.map(|word| format!("\"{word}\""))))
}

/// The rows that `help` shows for these words.
pub fn find_rows(words: &[OsString]) -> Result<Vec<&'static Command>> {
    match find_command(words) {
        Ok((row, 1)) if words.len() == 1 => Ok(rows(row.name)),
        Ok((row, _)) => Ok(vec![row]),
        Err(e) => match words {
            [first] => first
                .to_str()
                .map(rows)
                .filter(|rows| !rows.is_empty())
                .ok_or(e),
            _ => Err(e),
        },
    }
}

fn unknown_flag(shown: &str, words: &[OsString]) -> Error {
    let command = command_so_far(words);
    let here = rows(command).into_iter().flat_map(|r| r.flags);
    let name = shown.trim_start_matches('-');
    let meant = match shown.strip_prefix("--") {
        Some(name) => nearest(name, here.chain(GLOBAL).map(|f| f.long)),
        None => find_flag(words, |f| f.long == name).map(|f| f.long),
    };
    let of = if command.is_empty() {
        String::new()
    } else {
        format!("{command} has ")
    };
    usage(
        command,
        format!("{of}no flag {}", crate::wire::brief(shown)),
        meant.map(|f| format!("--{f}")),
    )
}

fn check_flags(invocation: &Invocation) -> Result<()> {
    let row = invocation.row;
    for (flag, value) in &invocation.flags {
        // by name, because two rows may describe the same flag differently
        let Some(here) = row.flags.iter().chain(GLOBAL).find(|f| f.long == flag.long) else {
            let meant =
                nearest(flag.long, row.flags.iter().map(|f| f.long)).map(|f| format!("--{f}"));
            return Err(usage(
                row.name,
                format!("{} has no flag --{}", row.name, flag.long),
                meant,
            ));
        };
        if let Some(value) = value {
            check_value(row, &format!("--{}", here.long), here.values, value)?;
        }
    }
    Ok(())
}

fn check_arguments(invocation: &Invocation) -> Result<()> {
    let (row, given) = (invocation.row, &invocation.arguments);
    for (i, argument) in row.arguments.iter().enumerate() {
        match argument.count {
            ArgumentCount::One => match given.get(i) {
                Some(value) => check_value(row, argument.name, argument.values, value)?,
                None => {
                    return Err(usage(
                        row.name,
                        format!("{} needs {}", row.name, argument.name),
                        None,
                    ));
                }
            },
            ArgumentCount::Optional => {
                if let Some(value) = given.get(i) {
                    check_value(row, argument.name, argument.values, value)?;
                }
            }
            ArgumentCount::Some if given.len() <= i => {
                return Err(usage(
                    row.name,
                    format!("{} needs {}", row.name, argument.name),
                    None,
                ));
            }
            ArgumentCount::Some | ArgumentCount::Any => return Ok(()),
        }
    }
    match given.get(row.arguments.len()) {
        Some(more) => Err(usage(
            row.name,
            format!("{} does not take \"{}\"", row.name, disk::show(more)),
            None,
        )),
        None => Ok(()),
    }
}

fn check_value(row: &Command, what: &str, values: ValueKind, value: &OsStr) -> Result<()> {
    let ValueKind::Words(words) = values else {
        return Ok(());
    };
    if words.iter().any(|w| value == *w) {
        return Ok(());
    }
    let meant =
        nearest(&value.to_string_lossy(), words.iter().copied()).map(|w| format!("\"{w}\""));
    Err(usage(
        row.name,
        format!(
            "{what} must be one of {}, not \"{}\"",
            words.join(", "),
            disk::show(value)
        ),
        meant,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], wants: &str) {
        let args = std::iter::once("mesync")
            .chain(args.iter().copied())
            .map(OsString::from);
        let got = match parse(args.clone()) {
            Ok(ParsedLine::Run(i)) => {
                let flags: Vec<_> = i
                    .flags
                    .iter()
                    .map(|(f, v)| format!("{}={:?}", f.long, v.as_deref().unwrap_or_default()))
                    .collect();
                format!("{} {flags:?} {:?}", i.row.name, i.arguments)
            }
            Ok(ParsedLine::Help(rows)) => {
                format!("help {:?}", rows.iter().map(|r| r.name).collect::<Vec<_>>())
            }
            Ok(ParsedLine::Version) => "version".into(),
            Ok(ParsedLine::Nothing) => "nothing".into(),
            Err(e) => format!("{e} [{}]", e.kind.exit_status()),
        };
        assert_eq!(got, wants, "{:?}", args.collect::<Vec<_>>());
    }

    #[test]
    fn flags_may_be_anywhere_and_two_dashes_end_them() {
        check(&["list", "outbox"], r#"list [] ["outbox"]"#);
        check(
            &["--json", "list", "-q", "outbox", "--bytes"],
            r#"list ["json=\"\"", "quiet=\"\"", "bytes=\"\""] ["outbox"]"#,
        );
        check(
            &["send", "x", "--payload", "-5", "--ttl=7"],
            r#"send ["payload=\"-5\"", "ttl=\"7\""] ["x"]"#,
        );
        check(&["show", "--", "--json"], r#"show [] ["--json"]"#);
        // a flag without a value in one command, and with one in another
        check(
            &["status", "--watch", "-q"],
            r#"status ["watch=\"\"", "quiet=\"\""] []"#,
        );
        check(&["sync", "--watch", "d"], r#"sync ["watch=\"d\""] []"#);
        check(
            &["key", "--data=/d", "add", "web"],
            r#"key add ["data=\"/d\""] ["web"]"#,
        );
        check(&["hosts"], r#"hosts [] []"#);
        check(&["hosts", "h", "i"], r#"hosts [] ["h", "i"]"#);
        check(&["hosts", "rebind", "h"], r#"hosts rebind [] ["h"]"#);
        check(&["trash"], "trash list [] []");
        check(&["trash", "/d"], r#"trash list [] ["/d"]"#);
        check(&["trash", "list", "/d"], r#"trash list [] ["/d"]"#);
        check(&["trash", "empty"], "trash empty [] []");
        check(&[], "nothing");
        check(&["-V"], "version");
        check(
            &["key", "-h"],
            r#"help ["key add", "key list", "key set", "key rotate", "key remove"]"#,
        );
        check(&["key", "add", "--help"], r#"help ["key add"]"#);
    }

    #[test]
    fn mistakes_suggest_the_right_word_and_the_help() {
        check(
            &["lsit"],
            r#"there is no command "lsit" (did you mean "list"? see mesync help) [2]"#,
        );
        check(
            &["stat"],
            r#"there is no command "stat" (did you mean "status"? see mesync help) [2]"#,
        );
        check(
            &["xyzzy\n"],
            r#"there is no command "xyzzy\n" (see mesync help) [2]"#,
        );
        check(
            &["statsu", "--watch"],
            r#"there is no command "statsu" (did you mean "status"? see mesync help) [2]"#,
        );
        check(
            &["start", "--onec"],
            "start has no flag --onec (did you mean --once? see mesync help start) [2]",
        );
        check(
            &["start", "--payload", "1"],
            "start has no flag --payload (see mesync help start) [2]",
        );
        check(&["--onec"], "no flag --onec (see mesync help) [2]");
        check(
            &["start", "--once=1"],
            "--once takes no value, but has \"1\" (see mesync help start) [2]",
        );
        check(
            &["send", "x", "--ttl"],
            "--ttl needs a value: --ttl SECONDS (see mesync help send) [2]",
        );
        check(
            &["send", "x", "--ttl", "1", "--ttl", "2"],
            "--ttl is repeated (see mesync help send) [2]",
        );
        check(&["show"], "show needs ID (see mesync help show) [2]");
        check(
            &["send", "x", "y"],
            "send does not take \"y\" (see mesync help send) [2]",
        );
        check(
            &["list", "inbix"],
            r#"QUEUE must be one of outbox, inbox, sent, failed, hooks, not "inbix" (did you mean "inbox"? see mesync help list) [2]"#,
        );
        check(
            &["send", "x", "--priority", "hihg"],
            r#"--priority must be one of high, normal, low, not "hihg" (did you mean "high"? see mesync help send) [2]"#,
        );
        check(
            &["key"],
            "key needs one of add, list, set, rotate, remove (see mesync help key) [2]",
        );
        check(
            &["key", "ad"],
            r#"there is no "key ad", only add, list, set, rotate, remove (did you mean "add"? see mesync help key) [2]"#,
        );
        check(
            &["key", "x"],
            r#"there is no "key x", only add, list, set, rotate, remove (see mesync help key) [2]"#,
        );
        check(
            &["trash", "emtpy"],
            r#"there is no "trash emtpy", only list, restore, empty (did you mean "empty"? see mesync help trash) [2]"#,
        );
    }
}
