//! The binary: arguments → configuration → telemetry → run → exit code. `cli` calls `serve`, which connects and
//! calls `pipeline::spawn`. The way of a message is drawn in `pipeline.rs`.

use std::process::ExitCode;

/// A message is some twenty small allocations, made in one thread and freed in another. With
/// glibc's allocator they take a quarter of the processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ganesh::cli::main()
}
