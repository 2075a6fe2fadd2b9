//! `imgctl fleet remove HOST…`

use proto::control::{Fleet, Request};
use proto::text::escape;
use serde_json::json;

use super::told::Told;
use crate::context::Context;
use crate::exit::Exit;

/// Throw hosts out
///
/// Their connections end at once, and they are never let in again with the same key. Images that they have stay there.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names or IDs
    #[arg(value_name = "HOST", required = true)]
    hosts: Vec<String>,
}

/// Removes.
pub(super) fn run(context: &Context, args: Args) -> super::super::Result {
    let mut told = Told::default();
    context.each(&Request::Fleet(Fleet::Remove(args.hosts.clone())), |event| told.take(event))?;
    for host in &args.hosts {
        context.output.object(&json!({"event": "member_removed", "host": host, "known_by": told.reached, "not_reached": told.not_reached}));
        context.output.line(&format!("{} is no member any more", escape(host)));
    }
    told.print(context);
    Ok(Exit::Done)
}
