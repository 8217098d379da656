//! Carries out what is decided, path by path, over the traits of [`env`].

pub mod env;
