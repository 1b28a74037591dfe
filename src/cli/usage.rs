//! A wrong command line, said without repeating what was typed: a URL with a password may be in it.

use clap::Error;
use clap::error::{ContextKind, ContextValue};

use crate::config::HIDDEN;

/// What the library repeats of a command line.
const REPEATED: [ContextKind; 4] = [
    ContextKind::InvalidArg,
    ContextKind::InvalidSubcommand,
    ContextKind::InvalidValue,
    ContextKind::PriorArg,
];

/// The same error without typed values. Names of flags stay.
pub(super) fn without_values(mut error: Error) -> Error {
    for kind in REPEATED {
        if let Some(ContextValue::String(typed)) = error.get(kind)
            && !is_name(typed)
        {
            let hidden = ContextValue::String(HIDDEN.to_owned());
            error.insert(kind, hidden);
        }
    }
    // How to give it as a value.
    error.remove(ContextKind::Suggested);
    error
}

/// Whether it is the name of an argument, as `--writers <VALUE>`, `<SEQUENCE>` or `-x`.
fn is_name(typed: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "<>[]= -".contains(c);
    typed.is_empty() || (typed.starts_with(['-', '<', '[']) && typed.chars().all(plain))
}
