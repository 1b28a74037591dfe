//! The binary: arguments → configuration → telemetry → run → exit code.

use std::process::ExitCode;

/// A message is some twenty small allocations, made in one thread and freed in
/// another. glibc's allocator took a quarter of our processor time for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ganesh::cli::main()
}
