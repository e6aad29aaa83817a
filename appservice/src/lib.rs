//! Listens: homeserver transactions, the practice API, configuration and commands.

pub mod backup;
pub mod command_line;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod edge;
pub mod http;
pub mod master_key;
pub mod registration;
pub mod run;
