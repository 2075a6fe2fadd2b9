//! Compiles what we use of containerd's API, without `protoc`.

use std::path::Path;

const DIRECTORY: &str = "src/store/containerd/api";
const FILES: [&str; 9] = [
    "types.proto",
    "content.proto",
    "diff.proto",
    "images.proto",
    "introspection.proto",
    "leases.proto",
    "namespaces.proto",
    "snapshots.proto",
    "version.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={DIRECTORY}");
    let files = FILES.map(|file| Path::new(DIRECTORY).join(file));
    let descriptors = protox::compile(files, [DIRECTORY])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .bytes(".")
        .include_file("containerd.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
