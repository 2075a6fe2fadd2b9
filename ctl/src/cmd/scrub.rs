//! `imgctl scrub`

use proto::control::{Event, Request};
use serde_json::json;

use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::format::{count, size};

/// Hashes every blob again.
pub(crate) fn run(context: &Context) -> super::Result {
    let mut damaged_blobs = 0;
    context.each(&Request::Scrub, |event| match event {
        Event::Damaged(digest) => {
            context.output.object(&json!({"event": "damaged", "digest": digest.to_string()}));
            context.output.line(&format!("✘ damaged, put aside: {digest}"));
        }
        Event::Scrubbed { blobs, bytes, damaged } => {
            damaged_blobs = damaged;
            context.output.object(&json!({"event": "scrubbed", "blobs": blobs, "bytes": bytes, "damaged": damaged}));
            context.output.line(&format!("{}, {}: {damaged} damaged", count(blobs, "blob"), size(bytes)));
        }
        _ => {}
    })?;
    if damaged_blobs > 0 {
        let error = Error::new(Exit::Failed, format!("{} damaged", count(damaged_blobs, "blob")));
        return Err(error.hint(
            "imgctl ls shows which images are incomplete now; imgctl load, imgctl pull, or imgctl send from another host heals them",
        ));
    }
    Ok(Exit::Done)
}
