//! The command line: finds the command in the table, runs it, and maps its outcome to an exit status.
//!
//! Each group of commands has a file beside this one; the modules below do the work.

pub mod table;

mod admit;
mod approve;
mod client;
mod commands;
mod completions;
mod conclude;
mod conflicts;
mod directories;
mod download_tree;
mod events;
mod files;
mod forget;
pub mod help;
mod hooks;
mod hosts;
mod hub;
mod join;
mod keys;
mod local_path;
mod login;
mod ls;
pub mod output;
pub mod parse;
mod parts;
mod progress;
mod queue;
mod send;
mod short_ids;
mod sync;
mod transfers;
mod trash;
mod watches;
mod words;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::config::Settings;
use crate::config::environment;
use crate::credentials;
use crate::error::{Error, Kind, Result};
use crate::logger::{self, counted};
use crate::messages::lock;
use commands::CommandFunction;
use output::Output;
use parse::{Invocation, ParsedLine};

/// The settings and output of a command.
pub struct Context {
    /// From the environment, the file and flags, the later ones taking precedence.
    pub settings: Arc<Settings>,
    pub out: Output,
}

/// How a command without an error ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandEnd {
    /// Everything was done; the machine is healthy.
    All,
    /// Some of the work was not done, which the output names: the exit status is that of the kind.
    NotAll(Kind),
}

/// Runs the command of the arguments, which begin with the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    keep_writing();
    match run(args) {
        Ok(CommandEnd::All) => ExitCode::SUCCESS,
        Ok(CommandEnd::NotAll(kind)) => ExitCode::from(kind.exit_status()),
        Err(e) => {
            logger::report(&e);
            ExitCode::from(e.kind.exit_status())
        }
    }
}

/// Lets a write beyond the limit of file sizes fail instead of killing the process: SIGXFSZ gets an empty handler.
///
/// Not SIG_IGN, which hooks would inherit. Rust's runtime already ignores SIGPIPE, and restores the default for children.
fn keep_writing() {
    // it cannot fail for this signal, and the program would still work
    let _ = signal_hook::flag::register(libc::SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

fn run(args: impl IntoIterator<Item = OsString>) -> Result<CommandEnd> {
    let (invocation, mut out) = match parse::parse(args)? {
        ParsedLine::Run(invocation) => {
            let out = Output::stdout(invocation.has("json"), invocation.has("bytes"));
            (invocation, out)
        }
        ParsedLine::Help(rows) => {
            let mut out = Output::stdout(false, false);
            help::print(&rows, &mut out);
            return out.finish(Ok(CommandEnd::All));
        }
        ParsedLine::Version => {
            let mut out = Output::stdout(false, false);
            out.line(concat!("mesync ", env!("CARGO_PKG_VERSION")));
            return out.finish(Ok(CommandEnd::All));
        }
        ParsedLine::Nothing => {
            logger::note(&help::short());
            return Err(Error::new(Kind::Usage, "no command given").hint("mesync help"));
        }
    };
    let run = commands::find(invocation.row.name).expect("each row of the table runs something");
    let command = match run {
        CommandFunction::Plain(command) => {
            let done = command(&invocation, &mut out);
            return out.finish(done);
        }
        CommandFunction::Command(command) | CommandFunction::Daemon(command) => command,
    };
    let mut settings = read_settings(&invocation)?;
    if !is_daemon(&invocation)
        && let Some(host) = lock::host(&settings.base_dir)
    {
        // the settings may have changed, but the running client sends messages under this name
        settings.host_id = host;
    }
    let mut context = Context {
        settings: Arc::new(settings),
        out,
    };
    let done = command(&mut context, &invocation);
    context.out.finish(done)
}

/// Whether the command runs until it is stopped.
fn is_daemon(invocation: &Invocation) -> bool {
    matches!(
        commands::find(invocation.row.name),
        Some(CommandFunction::Daemon(_))
    )
}

/// The current settings with the flags of the command; also sets the log level.
fn read_settings(invocation: &Invocation) -> Result<Settings> {
    let mut settings = Settings::load(environment::variable)?;
    apply_flags(&mut settings, invocation)?;
    // one pass of a daemon is run by cron, which mails all output
    let daemon = is_daemon(invocation) && !invocation.has("once");
    let level = logger::level(
        daemon,
        invocation.has("quiet"),
        invocation.count("verbose"),
        settings.log,
    );
    logger::start(level, daemon);
    if !is_daemon(invocation) {
        credentials::choose_own_hub(&mut settings);
    }
    credentials::choose_server(&mut settings);
    Ok(settings)
}

/// [`CommandEnd::All`] without errors. Otherwise the last error is returned, and the others are reported here.
fn fail(mut errors: Vec<Error>) -> Result<CommandEnd> {
    let Some(last) = errors.pop() else {
        return Ok(CommandEnd::All);
    };
    errors.iter().for_each(logger::report);
    Err(last)
}

/// Runs all works, even after failures: reports the errors, and returns the worst outcome.
fn all_of(works: impl IntoIterator<Item = Result<CommandEnd>>) -> Result<CommandEnd> {
    let kinds = works.into_iter().filter_map(|done| match done {
        Ok(CommandEnd::All) => None,
        Ok(CommandEnd::NotAll(kind)) => Some(kind),
        Err(e) => {
            logger::report(&e);
            Some(e.kind)
        }
    });
    Ok(Kind::worst(kinds).map_or(CommandEnd::All, CommandEnd::NotAll))
}

/// Tells a person at a terminal why a command prints nothing; a script needs no such note.
fn note(text: &str) {
    if std::io::stderr().is_terminal() {
        logger::note(text);
    }
}

/// Flags that name a setting take precedence over the environment and the file.
fn apply_flags(settings: &mut Settings, invocation: &Invocation) -> Result<()> {
    for flag in invocation.row.flags {
        if let (Some(key), Some(value)) = (flag.setting, invocation.value(flag.long)?) {
            settings.set_flag(&format!("--{}", flag.long), key, value)?;
        }
    }
    Ok(())
}
