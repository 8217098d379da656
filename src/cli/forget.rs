//! `mesync forget`: removes this machine's state of a directory that it no longer syncs.
//!
//! It removes no file of the user, and asks no hub.

use super::parse::Invocation;
use super::sync::known;
use super::{CommandEnd, Context};
use crate::error::{Error, Kind, Result};
use crate::files::overview::real;
use crate::files::tree::marker;
use crate::logger::one_line;

/// `mesync forget DIR`
pub fn forget(context: &mut Context, invocation: &Invocation) -> Result<CommandEnd> {
    let argument = invocation.argument(0)?;
    let path =
        std::path::absolute(argument).map_err(|e| Error::io(format!("find {argument}"), &e))?;
    let dir = real(&path);
    let shown = one_line(&dir.to_string_lossy());
    if let Some(process) = marker::holder(&dir) {
        return Err(Error::new(
            Kind::Busy,
            format!("cannot forget {shown}: process {process} syncs it"),
        )
        .hint("stop that process first"));
    }
    if context
        .settings
        .watches
        .iter()
        .any(|w| real(&w.path) == dir)
    {
        let file = context.settings.config_file();
        return Err(Error::new(
            Kind::Failed,
            format!("cannot forget {shown}: the settings name it"),
        )
        .hint(format!("remove its [[watch]] from {}", file.display())));
    }
    let known = known(&context.settings, argument)?;
    // the marker first: without it the directory is held, even if other parts of the state remain
    let is_gone = marker::remove(&dir)?;
    for files in known {
        files.forget_state()?;
        files.forget();
    }
    if !context.out.json {
        context.out.line(&format!(
            "{shown} is forgotten: its files stay, here and on the hub"
        ));
        if !is_gone {
            context.out.line(&format!(
                "{shown}/.mesync keeps deleted and replaced files: remove it if you do not need them"
            ));
        }
    }
    Ok(CommandEnd::All)
}
