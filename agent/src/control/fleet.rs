//! `imgctl fleet …`: who belongs to the fleet, and how a host gets in and out.

use std::sync::Arc;
use std::time::Duration;

use proto::HostId;
use proto::control::{Check, Event, Failure, FailureKind, Fleet, MemberRow, Verdict};
use proto::host::Role;
use tracing::{info, warn};

use super::Done;
use super::client::Client;
use super::failure::{self, failure};
use crate::membership;
use crate::store::Store;
use crate::sys;
use crate::transfer::Context;
use crate::trust::{Invite, Token, TrustError};

/// How long whoever changes the fleet waits for the others: the change is made before, and a removal counts here at once.
const TELL_TIMEOUT_MS: u64 = 1_500;

/// One of the fleet commands. Everything that writes does so off the async threads.
pub(super) async fn fleet<S: Store>(context: &Arc<Context<S>>, client: &Client, request: Fleet) -> Done {
    match request {
        Fleet::Init => init(context, client).await,
        Fleet::Invite { uses, valid_s, for_name, replace } => invite(context, client, uses, valid_s, for_name, replace).await,
        Fleet::Join { token, address } => join(context, client, &token, address).await,
        Fleet::List => list(context, client).await,
        Fleet::Remove(names) => remove(context, client, &names).await,
        Fleet::Group { group, hosts, add } => {
            let what = format!("cannot change group {group}");
            let trust = context.trust.clone();
            sys::blocking(move || trust.group(&group, &hosts, add)).await.map_err(|error| failure::trust(what, &error))?;
            tell(context, client).await;
            Ok(())
        }
        Fleet::Rename { member, name } => {
            let what = format!("cannot rename {member}");
            let trust = context.trust.clone();
            sys::blocking(move || trust.rename(&member, &name)).await.map_err(|error| failure::trust(what, &error))?;
            tell(context, client).await;
            Ok(())
        }
        Fleet::Backup => {
            let trust = context.trust.clone();
            let backup = sys::blocking(move || trust.backup()).await.map_err(|error| failure::trust("cannot back up the fleet", &error))?;
            client.event(Event::Backup(backup.to_vec())).await;
            Ok(())
        }
        Fleet::Restore(backup) => {
            let trust = context.trust.clone();
            let restored = sys::blocking(move || trust.restore(&backup)).await;
            restored.map_err(|error| failure::trust("cannot restore the fleet", &error))?;
            joined(context, client).await;
            tell(context, client).await;
            Ok(())
        }
    }
}

/// Brings the changed list to the others, and says who has it. Who was not reached in time gets it from the task that spreads changes, or with the
/// next connection.
async fn tell<S: Store>(context: &Arc<Context<S>>, client: &Client) {
    for (host, reached) in membership::spread(context, TELL_TIMEOUT_MS).await {
        client.event(Event::Told { host, reached }).await;
    }
}

async fn init<S: Store>(context: &Arc<Context<S>>, client: &Client) -> Done {
    let trust = context.trust.clone();
    sys::blocking(move || trust.init()).await.map_err(|error| failure::trust("cannot make a fleet", &error))?;
    joined(context, client).await;
    if let Some(check) = start_policy(context).await {
        client.event(Event::Check(check)).await;
    }
    Ok(())
}

/// Gives a new fleet a policy file, which holds at once, where there is none. The fleet is made: what fails here is only told.
async fn start_policy<S: Store>(context: &Arc<Context<S>>) -> Option<Check> {
    let started = {
        let context = context.clone();
        sys::blocking(move || context.policy.start()).await
    };
    let (verdict, finding, remedy) = match started {
        Ok(None) => return None,
        Ok(Some(path)) => {
            info!(path = %path.display(), "policy written");
            (Verdict::Ok, format!("wrote {}: a member moves only tags whose image it brought itself", path.display()), None)
        }
        Err(error) => {
            let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            let causes = causes.map(ToString::to_string).collect::<Vec<String>>().join(": ");
            warn!(error = causes, "no policy written");
            let remedy = "write /etc/imgd/policy.toml yourself (README, \"Trust\"), and restart imgd".to_owned();
            (Verdict::Warning, format!("no policy file was written, so every member may move every tag: {causes}"), Some(remedy))
        }
    };
    Some(Check { verdict, subject: "policy".to_owned(), finding, remedy })
}

async fn invite<S: Store>(
    context: &Arc<Context<S>>,
    client: &Client,
    uses: u32,
    valid_s: u64,
    for_name: Option<String>,
    replace: Option<String>,
) -> Done {
    let address = context.net.local_address().and_then(sys::interface::reachable).map(|address| address.to_string());
    let invite = Invite { uses, valid: Duration::from_secs(valid_s), for_name, replace, address };
    let trust = context.trust.clone();
    let invitation = sys::blocking(move || trust.invite(&invite)).await.map_err(|error| failure::trust("cannot invite a host", &error))?;
    let (token, expires_unix_s, uses) = (invitation.token, invitation.expires_unix_s, invitation.uses);
    client.event(Event::Invited { token, expires_unix_s, uses }).await;
    Ok(())
}

async fn join<S: Store>(context: &Arc<Context<S>>, client: &Client, token: &str, address: Option<String>) -> Done {
    let what = || "cannot join the fleet".to_owned();
    let token = Token::parse(token).map_err(|error| failure::trust(what(), &error))?;
    if let Some(fleet) = context.trust.fleet() {
        return Err(failure::trust(what(), &TrustError::InFleet(fleet)));
    }
    membership::join(context, &token, address).await.map_err(|error| failure::net(what(), "", &error))?;
    joined(context, client).await;
    Ok(())
}

async fn list<S: Store>(context: &Arc<Context<S>>, client: &Client) -> Done {
    let members = context.trust.members().ok_or_else(no_fleet)?;
    for member in &members.members {
        let row = MemberRow {
            name: member.name.clone(),
            id: member.id,
            signer: member.roles.contains(&Role::Signer),
            here: member.id == context.trust.id(),
            groups: member.groups.clone(),
        };
        client.event(Event::Member(row)).await;
    }
    Ok(())
}

async fn remove<S: Store>(context: &Arc<Context<S>>, client: &Client, names: &[String]) -> Done {
    let (trust, names) = (context.trust.clone(), names.to_vec());
    let what = format!("cannot remove {}", names.join(", "));
    sys::blocking(move || trust.remove(&names)).await.map_err(|error| failure::trust(what, &error))?;
    tell(context, client).await;
    Ok(())
}

async fn joined<S: Store>(context: &Arc<Context<S>>, client: &Client) {
    let fleet: Option<HostId> = context.trust.fleet();
    let members = context.trust.members().map_or(0, |list| list.members.len() as u64);
    if let Some(fleet) = fleet {
        client.event(Event::Joined { fleet, name: context.trust.name(), members }).await;
    }
}

fn no_fleet() -> Failure {
    failure(FailureKind::NoFleet, "this host is in no fleet")
}
