//! The file half of a client: keeps one directory in step with the hub, both ways.
//!
//! It knows neither the message half nor the hub's insides; what travels is in `wire`.

pub mod conflict;
pub mod engine;
pub mod guard;
pub mod plan;
pub mod rules;

#[cfg(test)]
mod sim;
