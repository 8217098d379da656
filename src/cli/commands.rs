//! Maps each row of the table of commands to its function. It knows no flags and no help.

use super::output::Output;
use super::parse::Invocation;
use super::{
    Context, Done, admit, approve, client, completions, conflicts, events, files, forget, help,
    hosts, hub, join, keys, login, queue, send, sync, transfers, trash,
};
use crate::error::Result;

/// The function of a row, and its kind.
pub enum Run {
    /// Needs no settings, so it works when they are invalid.
    Plain(fn(&Invocation, &mut Output) -> Result<Done>),
    /// A command that a person or a script waits for.
    Command(fn(&mut Context, &Invocation) -> Result<Done>),
    /// A daemon, which runs until it is stopped, and logs its work.
    Daemon(fn(&mut Context, &Invocation) -> Result<Done>),
}

/// The function of the command with this name; `None`: the table has no such row.
pub fn find(name: &str) -> Option<Run> {
    Some(match name {
        "send" => Run::Command(send::send),
        "list" => Run::Command(queue::list),
        "show" => Run::Command(queue::show),
        "retry" => Run::Command(queue::retry),
        "flush" => Run::Command(queue::flush),
        "start" => Run::Daemon(client::start),
        "status" => Run::Command(client::status),
        "serve" => Run::Daemon(hub::serve),
        "join" => Run::Command(join::join),
        "accept" => Run::Command(admit::accept),
        "invite" => Run::Command(admit::invite),
        "hub renew-certificate" => Run::Command(admit::renew_certificate),
        "hub backup" => Run::Command(hub::backup),
        "hub check" => Run::Command(hub::check),
        "key add" => Run::Command(keys::add),
        "key list" => Run::Command(keys::list),
        "key set" => Run::Command(keys::set),
        "key rotate" => Run::Command(keys::rotate),
        "key remove" => Run::Command(keys::remove),
        "hosts" => Run::Command(hosts::hosts),
        "hosts rebind" => Run::Command(hosts::rebind),
        "completions" => Run::Plain(completions::run),
        "help" => Run::Plain(help::run),
        "login" => Run::Command(login::login),
        "upload" => Run::Command(transfers::upload),
        "download" => Run::Command(transfers::download),
        "ls" => Run::Command(files::ls),
        "info" => Run::Command(files::info),
        "rm" => Run::Command(files::rm),
        "versions" => Run::Command(files::versions),
        "restore" => Run::Command(files::restore),
        "events" => Run::Command(events::events),
        "sync" => Run::Command(sync::sync),
        "daemon" => Run::Daemon(sync::daemon),
        "approve" => Run::Command(approve::approve),
        "adopt" => Run::Command(sync::adopt),
        "conflicts" => Run::Command(conflicts::conflicts),
        "trash list" => Run::Command(trash::list),
        "trash restore" => Run::Command(trash::restore),
        "trash empty" => Run::Command(trash::empty),
        "forget" => Run::Command(forget::forget),
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
