//! `imgctl pull IMAGE`

use proto::Reference;
use proto::control::{Pull, Request};

use super::{platforms, transfer};
use crate::context::Context;
use crate::report::{Direction, Report};
use crate::value;

/// Get an image from the hosts that have it
///
/// Without --from the nearest host that has the image is asked; where the name means different images on different hosts, nothing
/// is guessed, and the hosts are named.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the image on the other hosts
    image: Reference,
    /// From this host
    #[arg(long, value_name = "HOST")]
    from: Option<String>,
    /// Name of the image here
    #[arg(long = "as", value_name = "NAME")]
    rename: Option<Reference>,
    #[command(flatten)]
    platforms: platforms::Args,
    /// Only say what would travel
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Bytes a second: 50MB/s, 50MiB/s, 400Mbit/s
    #[arg(long, value_name = "RATE", value_parser = value::rate)]
    limit: Option<u64>,
}

/// Pulls, and says how it goes.
pub(crate) fn run(context: &Context, args: Args) -> super::Result {
    let request = Request::Pull(Pull {
        image: args.image,
        from: args.from,
        platforms: args.platforms.into(),
        rename: args.rename,
        dry_run: args.dry_run,
        limit_bytes_per_s: args.limit,
    });
    transfer::run(context, &request, Report::new(Direction::Pull, true))
}
