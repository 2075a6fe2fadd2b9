//! `imgctl diff` and `imgctl who-has`: what is behind one name on several hosts.

use std::collections::HashSet;
use std::sync::Arc;

use proto::control::{Difference, Event, FailureKind, Hosts};
use proto::host::Member;
use proto::image::Selection;
use proto::peer::{Answer, Request};
use proto::{Digest, Image, Platform, Reference};
use tokio::task::JoinSet;

use super::client::Client;
use super::failure::{self, failure};
use super::{ANSWER_MS, Done, hosts, images};
use crate::net::{NetError, Peer};
use crate::store::Store;
use crate::sys;
use crate::transfer::Context;

/// Compares the image here with what other hosts have under its name.
pub(super) async fn diff<S: Store>(context: &Arc<Context<S>>, client: &Client, image: &str, request: &Hosts) -> Done {
    let query = images::query(image)?;
    let held = context.store.resolve(&query, Selection::Present).await;
    let held = held.map_err(|error| failure::store(format!("cannot compare {image}"), &error))?;
    let reference = held.image.reference.clone();
    let reference = reference.ok_or_else(|| failure(FailureKind::Usage, format!("{image} has no name to compare by")))?;
    let members = context.trust.members().ok_or_else(|| failure(FailureKind::NoFleet, "this host is in no fleet"))?;
    let selected = hosts::select(&members, &context.peers, request, &context.trust.name())?;
    client.event(Event::Difference(compare(None, &held.image, Some(&held.image)))).await;
    ask_all(context, client, selected, &reference, Some(&held.image)).await
}

/// Which hosts have an image, this one included.
pub(super) async fn who_has<S: Store>(context: &Arc<Context<S>>, client: &Client, image: &str) -> Done {
    let reference: Reference =
        image.parse().map_err(|error: proto::reference::InvalidReference| failure(FailureKind::Usage, error.to_string()))?;
    let members = context.trust.members().ok_or_else(|| failure(FailureKind::NoFleet, "this host is in no fleet"))?;
    let here = context.store.resolve(&reference.clone().into(), Selection::Present).await.ok();
    if let Some(held) = &here {
        let difference = compare(Some(context.trust.name()), &held.image, Some(&held.image));
        client.event(Event::Difference(difference)).await;
    }
    let others = members.members.iter().filter(|member| member.id != context.trust.id()).cloned().collect();
    ask_all(context, client, others, &reference, here.as_ref().map(|held| &held.image)).await
}

/// Asks one host what it has under a name.
pub(super) async fn describe<S: Store>(
    context: &Context<S>,
    member: &Member,
    reference: Reference,
) -> Result<(Peer, Option<Image>), NetError> {
    let reference = &reference;
    let asking = context.net.ask(&member.id, |peer| async move {
        let mut stream = peer.request(&Request::Describe(reference.clone())).await?;
        match stream.receive().await? {
            Answer::Described(image) => Ok((peer, image)),
            Answer::Refused(refusal) => Err(NetError::Answer(refusal)),
            _ => Err(proto::session::OutOfTurn("an answer to a question").into()),
        }
    });
    sys::deadline(ANSWER_MS, asking).await.unwrap_or(Err(NetError::Silent(ANSWER_MS / 1000)))
}

async fn ask_all<S: Store>(
    context: &Arc<Context<S>>,
    client: &Client,
    members: Vec<Member>,
    reference: &Reference,
    here: Option<&Image>,
) -> Done {
    let mut asked = JoinSet::new();
    for member in members.into_iter().filter(|member| member.id != context.trust.id()) {
        let (context, reference) = (context.clone(), reference.clone());
        asked.spawn(async move { (describe(&context, &member, reference).await, member) });
    }
    while let Some(answer) = asked.join_next().await {
        let (answer, member) = answer.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let event = match answer {
            Ok((_, there)) => match here.or(there.as_ref()) {
                Some(here) => Event::Difference(compare(Some(member.name), here, there.as_ref())),
                None => Event::Difference(absent(member.name)),
            },
            Err(error) => {
                let failure = failure::net(format!("cannot ask {}", member.name), &member.name, &error);
                Event::HostSilent { host: member.name, failure }
            }
        };
        client.event(event).await;
    }
    Ok(())
}

fn compare(host: Option<String>, here: &Image, there: Option<&Image>) -> Difference {
    let layers = |image: &Image| image.layers().iter().map(|layer| layer.descriptor.digest).collect::<HashSet<Digest>>();
    let theirs = there.map(&layers).unwrap_or_default();
    let ours = here.layers();
    let lacking = || ours.iter().filter(|layer| !theirs.contains(&layer.descriptor.digest));
    Difference {
        host,
        image_id: there.and_then(|image| image.id(&Platform::host())),
        layers_shared: (ours.len() - lacking().count()) as u64,
        layers_total: ours.len() as u64,
        missing_bytes: lacking().map(|layer| layer.descriptor.size_bytes).sum(),
        layers_extra: theirs.difference(&layers(here)).count() as u64,
    }
}

fn absent(host: String) -> Difference {
    Difference { host: Some(host), image_id: None, layers_shared: 0, layers_total: 0, missing_bytes: 0, layers_extra: 0 }
}
