//! What is told while it goes on: on standard error, so that the table is alone on standard output.

/// Says how far it is.
macro_rules! say {
    ($($words:tt)*) => { eprintln!("bench: {}", format_args!($($words)*)) };
}
pub(crate) use say;
