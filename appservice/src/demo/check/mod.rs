//! stub
use super::report::DemoError;
use std::process::ExitCode;
/// v
pub struct Verdict;
impl Verdict { 
/// e
pub fn exit_code(&self) -> ExitCode { ExitCode::SUCCESS } }
/// c
pub async fn check(_: Option<parlour_engine::Fault>) -> Result<Verdict, DemoError> { Ok(Verdict) }
