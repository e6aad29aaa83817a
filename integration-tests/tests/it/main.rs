//! End to end, on a real homeserver with real clients. Each test has a world of its own, on its own ports.
#![expect(clippy::expect_used, clippy::panic, reason = "a test ends where something is not as it must be")]

mod api;
mod care;
mod catching_up;
mod check;
mod command_line;
mod crash;
mod cut;
mod held;
mod intake;
mod making;
mod privacy;
mod refusals;
mod restart;
mod second_library;
mod shields;
