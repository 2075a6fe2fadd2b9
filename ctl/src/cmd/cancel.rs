//! `imgctl cancel ID`

use proto::control::Request;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;

/// Stop a transfer
///
/// What has arrived is kept for a day: the same send or pull goes on from there.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of the transfer, from imgctl status
    id: u64,
}

/// Cancels.
pub(crate) fn run(context: &Context, args: &Args) -> super::Result {
    let asked = context.each(&Request::Cancel(args.id), |_| {});
    asked.map_err(|error| error.hint("imgctl status shows the transfers and their numbers"))?;
    context.output.object(&json!({"event": "cancelled", "id": args.id}));
    context.output.line(&format!("cancelled {}", args.id));
    Ok(Exit::Done)
}
