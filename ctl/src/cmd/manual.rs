//! `imgctl manual [DIR]`

use std::path::PathBuf;

use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Print the manual page, or write all pages to a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory for imgctl.1 and a page for every command
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Prints or writes roff.
pub(crate) fn run(context: &Context, args: &Args) -> super::Result {
    match &args.directory {
        Some(directory) => {
            clap_mangen::generate_to(crate::cli::command(), directory)
                .map_err(|error| Error::file("cannot write pages to", directory, &error))?;
        }
        None => {
            let mut page = vec![];
            let rendered = clap_mangen::Man::new(crate::cli::command()).render(&mut page);
            rendered.map_err(|error| Error::new(Exit::Failed, "cannot make the page").because(error))?;
            context.output.text(&page);
        }
    }
    Ok(Exit::Done)
}
