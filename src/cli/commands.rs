//! Maps each row of the table of commands to its function. It knows no flags and no help.

use super::output::Output;
use super::parse::Invocation;
use super::{
    CommandEnd, Context, admit, approve, client, completions, conflicts, events, files, forget,
    help, hosts, hub, join, keys, login, ls, queue, send, sync, transfers, trash, words,
};
use crate::error::Result;

/// The function of a row, and its kind.
pub enum CommandFunction {
    /// Needs no settings, so it works when they are invalid.
    Plain(fn(&Invocation, &mut Output) -> Result<CommandEnd>),
    /// A command that a person or a script waits for.
    Command(fn(&mut Context, &Invocation) -> Result<CommandEnd>),
    /// A daemon, which runs until it is stopped, and logs its work.
    Daemon(fn(&mut Context, &Invocation) -> Result<CommandEnd>),
}

/// The function of the command with this name; `None`: the table has no such row.
pub fn find(name: &str) -> Option<CommandFunction> {
    Some(match name {
        "send" => CommandFunction::Command(send::send),
        "list" => CommandFunction::Command(queue::list),
        "show" => CommandFunction::Command(queue::show),
        "retry" => CommandFunction::Command(queue::retry),
        "flush" => CommandFunction::Command(queue::flush),
        "start" => CommandFunction::Daemon(client::start),
        "status" => CommandFunction::Command(client::status),
        "serve" => CommandFunction::Daemon(hub::serve),
        "join" => CommandFunction::Command(join::join),
        "accept" => CommandFunction::Command(admit::accept),
        "invite" => CommandFunction::Command(admit::invite),
        "hub renew-certificate" => CommandFunction::Command(admit::renew_certificate),
        "hub page" => CommandFunction::Command(admit::page),
        "hub backup" => CommandFunction::Command(hub::backup),
        "hub move" => CommandFunction::Command(hub::move_hub),
        "hub recover" => CommandFunction::Command(hub::recover_bucket),
        "hub check" => CommandFunction::Command(hub::check),
        "key add" => CommandFunction::Command(keys::add),
        "key list" => CommandFunction::Command(keys::list),
        "key set" => CommandFunction::Command(keys::set),
        "key rotate" => CommandFunction::Command(keys::rotate),
        "key remove" => CommandFunction::Command(keys::remove),
        "hosts" => CommandFunction::Command(hosts::hosts),
        "hosts remove" => CommandFunction::Command(hosts::remove),
        "hosts rebind" => CommandFunction::Command(hosts::rebind),
        "completions" => CommandFunction::Plain(completions::run),
        "words" => CommandFunction::Command(words::words),
        "help" => CommandFunction::Plain(help::run),
        "login" => CommandFunction::Command(login::login),
        "upload" => CommandFunction::Command(transfers::upload),
        "download" => CommandFunction::Command(transfers::download),
        "ls" => CommandFunction::Command(ls::ls),
        "info" => CommandFunction::Command(files::info),
        "rm" => CommandFunction::Command(files::rm),
        "versions" => CommandFunction::Command(files::versions),
        "restore" => CommandFunction::Command(files::restore),
        "events" => CommandFunction::Command(events::events),
        "sync" => CommandFunction::Command(sync::sync),
        "daemon" => CommandFunction::Daemon(sync::daemon),
        "approve" => CommandFunction::Command(approve::approve),
        "adopt" => CommandFunction::Command(sync::adopt),
        "conflicts" => CommandFunction::Command(conflicts::conflicts),
        "trash list" => CommandFunction::Command(trash::list),
        "trash restore" => CommandFunction::Command(trash::restore),
        "trash empty" => CommandFunction::Command(trash::empty),
        "forget" => CommandFunction::Command(forget::forget),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::COMMANDS;

    #[test]
    fn every_row_of_the_table_runs_something() {
        for row in COMMANDS {
            assert!(find(row.name).is_some(), "{}", row.name);
        }
    }
}
