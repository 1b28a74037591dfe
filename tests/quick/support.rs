//! What these tests share, among themselves and with those that need servers.

#[path = "../support/binary.rs"]
pub mod binary;
#[expect(dead_code, reason = "the tests with servers use the rest")]
#[path = "../support/certificates.rs"]
pub mod certificates;
#[path = "../support/exposition.rs"]
pub mod exposition;
#[path = "../support/monitoring.rs"]
pub mod monitoring;
pub mod promql;
