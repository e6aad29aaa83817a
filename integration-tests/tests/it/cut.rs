//! Cut connections.
