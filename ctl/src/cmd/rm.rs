//! `imgctl rm IMAGE…`

use proto::control::{Event, Request};
use proto::text::escape;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;

/// Remove names, and images with their last name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or IDs of the images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Removes.
pub(crate) fn run(context: &Context, args: Args) -> super::Result {
    context.each(&Request::Remove(args.images), |event| {
        if let Event::Removed { name, deleted } = event {
            context.output.object(&json!({"event": "removed", "image": name, "deleted": deleted}));
            let blobs = if deleted { " and its blobs" } else { "" };
            context.output.line(&format!("removed {}{blobs}", escape(&name)));
        }
    })?;
    Ok(Exit::Done)
}
