//! The tests that need more than one crate, in one binary.
// What is skipped, and what was measured, is printed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod absence;
mod abuse;
mod archive;
mod archives_as_they_are;
mod audit;
mod clones;
mod docker;
mod engines;
mod fan_out;
mod faults_table;
mod golden;
mod jobs;
mod layout;
mod mistakes;
mod network;
mod paths;
mod roles;
mod roll_out;
mod room;
mod send;
mod standing;
mod store_conformance;
mod system_calls;
mod tools;
mod trust;

#[test]
fn every_file_here_is_listed() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("it");
    let main = std::fs::read_to_string(directory.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(name == "main" || main.contains(&format!("mod {name};")), "{name} is not in main.rs: its tests never run");
    }
}
