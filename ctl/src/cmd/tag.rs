//! `imgctl tag IMAGE NAME`

use proto::Reference;
use proto::control::Request;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;

/// Give an image a further name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or ID of the image
    image: String,
    /// Its further name
    name: Reference,
}

/// Tags.
pub(crate) fn run(context: &Context, args: Args) -> super::Result {
    let (image, name) = (args.image, args.name);
    context.each(&Request::Tag { image: image.clone(), name: name.clone() }, |_| {})?;
    context.output.object(&json!({"event": "tagged", "image": image, "name": name.familiar()}));
    context.output.line(&format!("tagged {} as {}", proto::text::escape(&image), name.familiar()));
    Ok(Exit::Done)
}
