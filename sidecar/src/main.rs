//! `palisade-sidecar`: the proxy beside a pod's application as a process.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    palisade_sidecar::main()
}
