//! End to end, on a real homeserver with real clients. Each test has a world of its own, on its own ports.
#![expect(clippy::expect_used, clippy::panic, reason = "a test ends where something is not as it must be")]

mod api;
mod backup;
mod care;
mod check;
mod command_line;
mod held;
mod intake;
mod privacy;
mod production;
mod refusals;
mod restart;
mod second_library;
mod shields;
