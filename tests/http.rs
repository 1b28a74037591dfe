//! The HTTP API and the admin endpoints, as a caller sees them.

mod admin;
mod bounds;
mod client;
mod connections;
mod events;
mod latest;
mod problems;
mod token;
mod trace;
