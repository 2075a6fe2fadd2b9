//! `imgctl prune`

use proto::control::{Event, Request};
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;
use crate::format::size;

/// Frees what is kept of transfers that were not finished.
pub(crate) fn run(context: &Context) -> super::Result {
    context.each(&Request::Prune, |event| {
        if let Event::Pruned { staged_bytes, stored_bytes } = event {
            context.output.object(&json!({"event": "pruned", "staged_bytes": staged_bytes, "stored_bytes": stored_bytes}));
            context.output.line(&format!("freed {}", size(staged_bytes + stored_bytes)));
        }
    })?;
    Ok(Exit::Done)
}
