//! The ganesh binary.
fn main() {}
