//! The `bulkhead` command: see [`bulkhead::cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead::cli::main()
}
