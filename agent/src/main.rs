//! imgd: arguments, configuration, run, exit code.

use std::error::Error;
use std::process::ExitCode;

use agent::{Config, Flags};
use clap::Parser;

fn main() -> ExitCode {
    let result = Config::load(Flags::parse()).map_err(Box::<dyn Error>::from).and_then(|config| agent::run(&config).map_err(Box::from));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&*error);
            ExitCode::FAILURE
        }
    }
}

/// The error with its causes, for the journal and for whoever started us by hand.
#[allow(clippy::print_stderr)]
fn complain(error: &dyn Error) {
    let mut text = format!("imgd: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    eprintln!("{text}");
}
