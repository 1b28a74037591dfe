//! What these tests share, among themselves and with those that need servers.

#[path = "../support/binary.rs"]
pub mod binary;
#[path = "../support/exposition.rs"]
pub mod exposition;
#[path = "../support/monitoring.rs"]
pub mod monitoring;
pub mod promql;
