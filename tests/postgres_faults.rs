//! P1 and P4 while Postgres misbehaves, one way a test: each event is one row in the end,
//! and what was held meanwhile is delivered once.

mod answers;
mod connections;
mod server;
