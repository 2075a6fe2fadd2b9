//! imgd: arguments, configuration, run, exit code.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent::trust::audit;
use agent::{AuditCommand, Command, Config, Flags};
use clap::Parser;

fn main() -> ExitCode {
    let mut flags = Flags::parse();
    let command = flags.command.take();
    let done = Config::load(flags).map_err(Box::<dyn Error>::from).and_then(|config| match command {
        None => agent::run(&config).map_err(Box::from),
        Some(Command::Audit(AuditCommand::Verify { files })) => verify(files, &config.state_dir),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&*error);
            ExitCode::FAILURE
        }
    }
}

/// Checks the audit log, and says what there is of it.
#[allow(clippy::print_stdout)]
fn verify(files: Vec<PathBuf>, state_dir: &Path) -> Result<(), Box<dyn Error>> {
    let found = audit::verify(files, state_dir)?;
    println!("{found}");
    match found.broken {
        None => Ok(()),
        Some(broken) => Err(broken.to_string().into()),
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
