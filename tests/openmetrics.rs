//! `/metrics` of a serving process.

mod process;
mod served;
