//! Behaviour tests: one file for each behaviour, against real servers that they
//! start themselves on free ports.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]
#![allow(
    unreachable_pub,
    reason = "one binary: all of it is for the other files"
)]

mod backpressure;
mod batching;
mod bench;
mod cache_cluster;
mod cache_faults;
mod catalogue;
mod chaos;
mod charts;
mod clock;
mod dead_letters;
mod descriptors;
mod doctor;
mod encodings;
mod exactly_once;
mod explain;
mod fates;
mod guilty;
mod held;
mod forgetting;
mod hostile;
mod http;
mod infrastructure;
mod lag;
mod links;
mod logs;
mod many_partitions;
mod markers;
mod nats_cluster;
mod nats_faults;
mod newest;
mod openmetrics;
mod panels;
mod partitions;
mod produce_one;
mod postgres_faults;
mod rejections;
mod read_pool;
mod reopened;
mod roles;
mod rolling;
mod rules;
mod secrets;
mod schema;
mod sessions;
mod shutdown;
mod skipped;
mod sql;
mod startup;
mod stored_at;
mod support;
mod traces;
mod unreadable;
mod writing;
