//! The parts of the process that `start` and `daemon` run.

use std::sync::Arc;

use crate::config::Settings;
use crate::daemon;
use crate::error::Result;
use crate::joining::background::BackgroundRequest;
use crate::service::{self, ServicePart};

/// The client, and the thread that asks the hub for a key if it has none.
pub fn of(client: daemon::Daemon, settings: &Arc<Settings>) -> Result<Vec<Box<dyn ServicePart>>> {
    let mut parts: Vec<Box<dyn ServicePart>> = vec![Box::new(client)];
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
