//! `imgctl fleet …`: who belongs together.

mod backup;
mod group;
mod init;
mod invite;
mod join;
mod list;
mod passphrase;
mod remove;
mod rename;
mod restore;
mod silent;
mod told;

use clap::Subcommand;
use proto::HostId;
use proto::control::{Event, Fleet, Request};
use serde_json::json;

pub(super) use silent::Silent;

use self::told::Told;
use crate::context::Context;
use crate::exit::Exit;
use crate::format::count;

/// Say who belongs together: trust and groups
///
/// Hosts of one fleet trust each other. The first one makes it and holds its key: it alone lets hosts in and throws them out.
/// Everything else works without it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a fleet, with this host as its first member
    Init,
    Invite(invite::Args),
    Join(join::Args),
    /// List the members
    Ls,
    Remove(remove::Args),
    Rename(rename::Args),
    Group(group::Args),
    Backup(backup::Args),
    Restore(restore::Args),
}

/// One of the fleet commands.
pub(crate) fn run(context: &Context, args: Args) -> super::Result {
    match args.command {
        Command::Init => init::run(context),
        Command::Invite(args) => invite::run(context, args),
        Command::Join(args) => join::run(context, args),
        Command::Ls => list::run(context),
        Command::Remove(args) => remove::run(context, args),
        Command::Rename(args) => rename::run(context, args),
        Command::Group(args) => group::run(context, args),
        Command::Backup(args) => backup::run(context, &args),
        Command::Restore(args) => restore::run(context, &args),
    }
}

/// Asks for something after which this host is in a fleet, and says so; a new fleet may have got a policy file.
fn enter(context: &Context, request: Fleet) -> super::Result {
    let mut told = Told::default();
    context.each(&Request::Fleet(request), |event| match event {
        Event::Joined { fleet, name, members } => joined(context, &fleet, &name, members),
        Event::Check(check) => super::doctor::show(context, &check),
        event => told.take(event),
    })?;
    if !told.is_empty() {
        context.output.object(&json!({"event": "told", "known_by": told.reached, "not_reached": told.not_reached}));
    }
    told.print(context);
    Ok(Exit::Done)
}

fn joined(context: &Context, fleet: &HostId, name: &str, members: u64) {
    context.output.object(&json!({"event": "joined", "fleet": fleet.to_string(), "name": name, "members": members}));
    let name = proto::text::escape(name);
    context.output.line(&format!("✔ this host is {name} in the fleet {}, {}", fleet.short(), count(members, "member")));
}
