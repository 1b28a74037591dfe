//! What a log filter is: for `GANESH_LOG`, and for who changes it while the process runs.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// What [`is_log_filter`] accepts.
pub(crate) const EXPECTED: &str = "a level (error, warn, info, debug, trace) or directives such as ganesh=debug,info, \
     without patterns of fields ({…})";

/// Returns whether these are valid directives of `tracing_subscriber`.
pub(crate) fn is_log_filter(raw: &str) -> bool {
    // A regular expression of 200 bytes takes seconds and 280 MB.
    if raw.contains('{') {
        return false;
    }
    // The library takes any lone word for a module, and then logs nothing else.
    let known = |directive: &str| {
        directive.contains(['=', '[']) || LevelFilter::from_str(directive).is_ok()
    };
    let good = raw.contains('[') || raw.split(',').all(|part| known(part.trim()));
    good && !raw.is_empty() && EnvFilter::try_new(raw).is_ok()
}
