//! `imgctl fleet restore`

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use proto::control::Fleet;
use proto::limits::FRAME;

use crate::context::Context;
use crate::error::Error;

/// Make this host hold the key of the fleet, from a backup
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Backup to read, instead of standard input
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// Restores.
pub(super) fn run(context: &Context, args: &Args) -> super::super::Result {
    let mut backup = vec![];
    // One byte more than a request holds is enough to see that it is too long.
    let limit = FRAME as u64;
    let read = match &args.input {
        Some(path) => File::open(path).and_then(|file| file.take(limit).read_to_end(&mut backup)),
        None if std::io::stdin().is_terminal() => {
            return Err(Error::usage("a backup is not typed at a terminal").hint("imgctl fleet restore -i FILE"));
        }
        None => std::io::stdin().take(limit).read_to_end(&mut backup),
    };
    let path = args.input.as_deref().unwrap_or(Path::new("standard input"));
    read.map_err(|error| Error::file("cannot read", path, &error))?;
    if backup.len() as u64 == limit {
        return Err(Error::usage(format!("{} is too long for a backup", path.display())));
    }
    super::enter(context, Fleet::Restore(backup))
}
