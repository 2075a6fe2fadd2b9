//! One file per verb: its arguments, which are its help, and what it does. The same names as in the agent's `control`.

pub(crate) mod cancel;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod fleet;
pub(crate) mod inspect;
mod job;
pub(crate) mod load;
pub(crate) mod ls;
pub(crate) mod manual;
pub(crate) mod peers;
pub(crate) mod platforms;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod rm;
pub(crate) mod save;
pub(crate) mod scrub;
pub(crate) mod send;
pub(crate) mod status;
pub(crate) mod tag;
pub(crate) mod transfer;
pub(crate) mod who_has;

use std::ffi::OsString;

use clap::FromArgMatches;

use crate::cli::{self, Cli, Command};
use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::hint::Asked;
use crate::output::{self, Output};
use crate::signal::{self, Interrupt};

/// What a command comes to.
pub(crate) type Result = std::result::Result<Exit, Error>;

/// From the words of the command line to the exit code.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> Exit {
    let parsed = cli::command().try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches));
    let Cli { global, command } = match parsed {
        Ok(cli) => cli,
        Err(error) => return output::parsed(&error),
    };
    let (json, quiet) = (global.json, global.quiet);
    let interrupt = Interrupt::default();
    let context = Context::new(global.socket, Output::new(json, quiet), interrupt.clone());
    let error = interrupted(&command);
    match signal::run(&interrupt, move || finish(&context, command)) {
        Some(exit) => exit,
        None if interrupt.came() => {
            Output::new(json, quiet).failure(&error);
            Exit::Interrupted
        }
        None => Exit::Failed,
    }
}

fn finish(context: &Context, command: Command) -> Exit {
    let (interrupted, asked) = (interrupted(&command), asked(&command));
    let exit = match run(context, command) {
        Ok(exit) => exit,
        Err(_) if context.interrupt.came() => {
            context.output.failure(&interrupted);
            return Exit::Interrupted;
        }
        Err(error) => {
            let error = error.of(asked);
            context.output.failure(&error);
            error.exit
        }
    };
    if exit == Exit::Done && context.output.is_broken() {
        context.output.failure(&Error::new(Exit::Failed, "cannot write to standard output"));
        return Exit::Failed;
    }
    exit
}

fn asked(command: &Command) -> Asked {
    match command {
        Command::Send(_) | Command::Pull(_) | Command::Status(_) | Command::Cancel(_) => Asked::Transfer,
        Command::Load(_) => Asked::Load,
        Command::Save(_) => Asked::Save,
        _ => Asked::Other,
    }
}

/// What is said after a signal: what becomes of that which was under way.
fn interrupted(command: &Command) -> Error {
    let error = Error::interrupted();
    match command {
        Command::Send(_) | Command::Pull(_) => error.because("what has arrived is kept, the same command goes on from there"),
        Command::Status(args) => match args.goes_on() {
            Some(what) => error.because(what),
            None => error,
        },
        _ => error,
    }
}

fn run(context: &Context, command: Command) -> Result {
    match command {
        Command::Send(args) => send::run(context, args),
        Command::Pull(args) => pull::run(context, args),
        Command::Status(args) => status::run(context, &args),
        Command::Cancel(args) => cancel::run(context, &args),
        Command::Ls(args) => ls::run(context, args),
        Command::Load(args) => load::run(context, &args),
        Command::Save(args) => save::run(context, args),
        Command::Tag(args) => tag::run(context, args),
        Command::Rm(args) => rm::run(context, args),
        Command::Inspect(args) => inspect::run(context, args),
        Command::Diff(args) => diff::run(context, args),
        Command::WhoHas(args) => who_has::run(context, args),
        Command::Scrub => scrub::run(context),
        Command::Prune => prune::run(context),
        Command::Fleet(args) => fleet::run(context, args),
        Command::Peers => peers::run(context),
        Command::Doctor(args) => doctor::run(context, args),
        Command::Demo(args) => demo::run(context, &args),
        Command::Completions(args) => completions::run(context, &args),
        Command::Manual(args) => manual::run(context, &args),
    }
}
