use crate::context::Context;
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_context: &Context, _args: &Args) -> super::Result {
    Ok(crate::exit::Exit::Done)
}
