//! `imgctl inspect IMAGE…`

use proto::control::{Event, Request};
use serde_json::Value;

use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Show all that is known of an image, as JSON
///
/// An array with one object for each image; with --json one object per line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or IDs of the images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Shows what the agent knows.
pub(crate) fn run(context: &Context, args: Args) -> super::Result {
    let mut images: Vec<Value> = vec![];
    let mut broken = None;
    context.each(&Request::Inspect(args.images), |event| {
        if let Event::Inspected(text) = event {
            match serde_json::from_str(&text) {
                Ok(image) => images.push(image),
                Err(error) => broken = Some(error),
            }
        }
    })?;
    if let Some(error) = broken {
        return Err(Error::new(Exit::Failed, "the agent's answer is not JSON").because(error));
    }
    images.iter().for_each(|image| context.output.object(image));
    context.output.pretty(&Value::Array(images));
    Ok(Exit::Done)
}
