//! Compiles `proto/warren/v1` to Rust types, in-process: no `protoc` is needed.

#![allow(clippy::disallowed_methods, reason = "a build script reads files")]

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    let dir = root.join("warren/v1");
    println!("cargo::rerun-if-changed={}", dir.display());
    let mut files: Vec<_> = std::fs::read_dir(&dir)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "proto"));
    files.sort();
    let descriptors = protox::compile(files, [root])?;
    prost_build::Config::new()
        // Ordered maps: the encoding of an object is then canonical, and digests of it mean something.
        .btree_map(["."])
        // Entries are shared between the log in memory and what is sent, not copied.
        .bytes([".warren.v1.RaftEntry.payload"])
        .compile_fds(descriptors)?;
    Ok(())
}
