//! With the published `s3em` server and its client `s3ec`.

mod commands;
mod daemons;
mod directories;
mod files_only;
mod machine;
mod s3ec;
mod s3ec_directories;
