//! What the tests share.

pub mod files;
pub mod http;
pub mod inject;
pub mod program;
pub mod proxy;
pub mod routes;
pub mod s3ec;
pub mod s3em;
pub mod shells;
pub mod space;
#[cfg(feature = "tls")]
pub mod tls;
pub mod tree;
pub mod world;
