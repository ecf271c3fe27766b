//! Takes in the kernel object, where there is one.
//!
//! The object is built by `cargo xtask build`, with a tool chain of its own, and named by
//! `BULKHEAD_EBPF_OBJECT`. Without it the crate builds and tests all the same; only `bulkhead run` then
//! needs `--object`.

use std::path::PathBuf;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bulkhead_object)");
    println!("cargo::rerun-if-env-changed=BULKHEAD_EBPF_OBJECT");
    let Some(object) = std::env::var_os("BULKHEAD_EBPF_OBJECT").filter(|path| !path.is_empty()) else {
        return;
    };
    let object = PathBuf::from(object);
    println!("cargo::rerun-if-changed={}", object.display());
    let Some(out) = std::env::var_os("OUT_DIR") else {
        println!("cargo::error=OUT_DIR is not set; build with cargo");
        return;
    };
    match std::fs::copy(&object, PathBuf::from(out).join("bulkhead-ebpf")) {
        Ok(_) => println!("cargo::rustc-cfg=bulkhead_object"),
        Err(error) => println!(
            "cargo::error=cannot read the kernel object {}: {error}; build it with `cargo xtask build`",
            object.display()
        ),
    }
}
