//! The HTTP API and the admin endpoints, as a caller sees them.

mod admin;
mod bad_input;
mod bounds;
pub mod client;
mod cloudevents_sdk;
mod connections;
mod default_partition;
mod documentation;
mod etag;
mod events;
mod headers;
mod latest;
mod openapi;
mod problems;
mod search;
mod search_moving;
mod slow_rows;
mod stats;
mod subjects;
mod tail;
mod tail_bounds;
pub mod tail_client;
mod tail_marking;
mod tail_transactions;
mod token;
mod trace;
