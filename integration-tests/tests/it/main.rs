//! End to end, on a real homeserver with real clients. Each test has a world of its own, on its own ports.
#![expect(clippy::expect_used, clippy::panic, reason = "a test ends where something is not as it must be")]

mod api;
mod backup;
mod care;
mod catching_up;
mod check;
mod command_line;
mod crash;
mod cut;
mod database;
mod docs;
mod files;
mod group_privacy;
mod held;
mod hours;
mod intake;
mod killed;
mod large;
mod making;
mod modes;
mod operators;
mod privacy;
mod production;
mod reading;
mod refusals;
mod restart;
mod saying;
mod sealing;
mod second_library;
mod shields;
mod taking_part;
mod teams;
mod there;
