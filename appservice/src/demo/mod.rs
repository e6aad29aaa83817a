//! `parlour demo`: everything on one machine, with made-up people, to try the product.

pub mod homeserver;
pub mod python;
pub mod report;

use std::process::ExitCode;

/// What `parlour demo` is told.
#[derive(clap::Args)]
pub struct Arguments {}

/// Runs it.
pub async fn main(_: Arguments) -> ExitCode { ExitCode::SUCCESS }
