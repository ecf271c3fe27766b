//! The openings of real programs (`tests/corpus/vectors.jsonl`, recorded by `cargo xtask corpus`), read by
//! the kernel's own code and by the agent's: what each is called, whole and cut in every way, and what its
//! handshake says.

#![allow(clippy::indexing_slicing, reason = "a test that reads past the end is to fail")]

mod class;
mod classify;
mod hello;
mod matrix;
mod replay;

use std::path::Path;

use anyhow::{Result, ensure};
use bulkhead_tests::corpus::{self, Vector};

/// All vectors.
fn vectors() -> Result<Vec<Vector>> {
    let vectors = corpus::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/vectors.jsonl"))?;
    ensure!(vectors.len() >= 100, "only {} vectors: is the file whole?", vectors.len());
    Ok(vectors)
}
