//! The parts of the process that `start` and `daemon` run.

use std::sync::Arc;

use crate::config::Settings;
use crate::daemon;
use crate::error::Result;
use crate::joining::background::BackgroundRequest;
use crate::service::{self, Part};

/// The client, and the thread that asks the hub for a key if it has none.
pub fn of(client: daemon::Daemon, settings: &Arc<Settings>) -> Result<Vec<Box<dyn Part>>> {
    let mut parts: Vec<Box<dyn Part>> = vec![Box::new(client)];
    match BackgroundRequest::start(settings) {
        Ok(Some(asking)) => parts.push(Box::new(asking)),
        Ok(None) => {}
        Err(e) => {
            service::stop(parts);
            return Err(e);
        }
    }
    Ok(parts)
}
