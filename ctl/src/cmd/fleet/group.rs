//! `imgctl fleet group add|rm GROUP HOST…`

use clap::Subcommand;
use proto::control::{Fleet, Request};
use proto::text::escape;
use serde_json::json;

use super::told::Told;
use crate::context::Context;
use crate::exit::Exit;

/// Put hosts into groups: send IMAGE @GROUP
///
/// A group is there as long as a host is in it. imgctl fleet ls shows them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put hosts into a group
    Add(Members),
    /// Take hosts out of a group
    Rm(Members),
}

#[derive(Debug, clap::Args)]
struct Members {
    /// Name of the group, with or without @
    #[arg(value_parser = group)]
    group: String,
    /// Names of hosts
    #[arg(value_name = "HOST", required = true)]
    hosts: Vec<String>,
}

/// Changes a group.
pub(super) fn run(context: &Context, args: Args) -> super::super::Result {
    let (add, Members { group, hosts }) = match args.command {
        Command::Add(members) => (true, members),
        Command::Rm(members) => (false, members),
    };
    let mut told = Told::default();
    context.each(&Request::Fleet(Fleet::Group { group: group.clone(), hosts: hosts.clone(), add }), |event| told.take(event))?;
    context.output.object(
        &json!({"event": "group", "group": group, "hosts": hosts, "added": add, "known_by": told.reached, "not_reached": told.not_reached}),
    );
    let hosts: Vec<String> = hosts.iter().map(|host| escape(host)).collect();
    let (verb, word) = if hosts.len() == 1 { ("is", "not") } else { ("are", "not") };
    let state = if add { format!("{verb} in") } else { format!("{verb} {word} in") };
    context.output.line(&format!("{} {state} @{group}", hosts.join(", ")));
    told.print(context);
    Ok(Exit::Done)
}

fn group(text: &str) -> Result<String, proto::host::InvalidHostName> {
    let name = text.strip_prefix('@').unwrap_or(text);
    proto::host::check_name(name)?;
    Ok(name.to_owned())
}
