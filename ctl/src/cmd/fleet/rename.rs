//! `imgctl fleet rename OLD NEW`

use proto::control::{Fleet, Request};
use proto::text::escape;
use serde_json::json;

use super::told::Told;
use crate::context::Context;
use crate::exit::Exit;

/// Give a host another name in the fleet
///
/// It stays the same host: its key, its images and its groups stay. Policies that name it by its old name do not mean it any more.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name or ID
    #[arg(value_name = "OLD")]
    member: String,
    /// Its new name
    #[arg(value_name = "NEW")]
    name: String,
}

/// Renames.
pub(super) fn run(context: &Context, args: Args) -> super::super::Result {
    let Args { member, name } = args;
    let mut told = Told::default();
    context.each(&Request::Fleet(Fleet::Rename { member: member.clone(), name: name.clone() }), |event| told.take(event))?;
    context.output.object(
        &json!({"event": "member_renamed", "host": member, "name": name, "known_by": told.reached, "not_reached": told.not_reached}),
    );
    context.output.line(&format!("{} is called {} now", escape(&member), escape(&name)));
    told.print(context);
    Ok(Exit::Done)
}
