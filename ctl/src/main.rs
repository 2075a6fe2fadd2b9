//! `imgctl`: asks the `imgd` of this host, and shows what it answers. Parse, connect, print events, exit code: nothing else is here.

mod age;
mod archive;
mod cli;
mod cmd;
mod connection;
mod context;
mod error;
mod exit;
mod format;
mod hint;
mod names;
mod output;
mod progress;
mod report;
mod signal;
mod terminal;
mod value;

use std::process::ExitCode;

fn main() -> ExitCode {
    cmd::main(std::env::args_os()).into()
}
