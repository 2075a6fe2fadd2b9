//! `imgctl completions SHELL`

use crate::context::Context;
use crate::exit::Exit;

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// bash, zsh, fish, elvish or powershell
    shell: clap_complete::Shell,
}

/// Prints what the shell reads.
pub(crate) fn run(context: &Context, args: &Args) -> super::Result {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut crate::cli::command(), "imgctl", &mut script);
    context.output.text(&script);
    Ok(Exit::Done)
}
