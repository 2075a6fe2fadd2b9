//! `imgctl pull`: an image from a host that has it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use proto::control::{Event, FailureKind, Pull, Summary};
use tokio::task::JoinSet;

use super::client::Client;
use super::failure::{self, failure};
use super::{Done, diff, hosts, send};
use crate::net::Peer;
use crate::store::Store;
use crate::transfer::{self, Context};

/// Pulls from the named host, or from the nearest of those that have the image.
pub(super) async fn pull<S: Store>(context: &Arc<Context<S>>, client: &Client, who: &str, request: Pull) -> Done {
    let started = Instant::now();
    send::check_rename(request.rename.as_ref())?;
    let image = request.image.familiar();
    let peer = match &request.from {
        Some(host) => named(context, host, &image).await?,
        None => nearest(context, &request).await?,
    };
    let id = context.transfers.number();
    let transfer = context.transfers.start(id, true, &image, peer.name(), &context.shutdown);
    client.event(Event::Accepted { id }).await;
    let what = || format!("cannot pull {image} from {}", peer.name());
    let done = transfer::pull(context, &peer, &request, who, &transfer, &client.events()).await;
    let done = done.map_err(|error| failure::transfer(what(), peer.name(), &error))?;
    let egress_bytes = done.sent_bytes;
    client.event(Event::Done(done)).await;
    let elapsed_ms = started.elapsed().as_millis() as u64;
    client.event(Event::Summary(Summary { total: 1, done: 1, failed: 0, egress_bytes, elapsed_ms })).await;
    Ok(())
}

async fn named<S: Store>(context: &Arc<Context<S>>, host: &str, image: &str) -> Result<Peer, proto::control::Failure> {
    let members = context.trust.members().ok_or_else(|| failure(FailureKind::NoFleet, "this host is in no fleet"))?;
    let member = hosts::one(&members, &context.peers, host, "--from")?;
    if member.id == context.trust.id() {
        return Err(failure(FailureKind::Usage, format!("{} is this host", member.name)));
    }
    let what = || format!("cannot pull {image} from {}", member.name);
    context.net.connect_awake(&member.id).await.map_err(|error| failure::net(what(), &member.name, &error))
}

/// Everybody is asked at once; of those that have the image the one with the shortest round trip is taken. Where the name means
/// different images, nobody guesses.
async fn nearest<S: Store>(context: &Arc<Context<S>>, request: &Pull) -> Result<Peer, proto::control::Failure> {
    let members = context.trust.members().ok_or_else(|| failure(FailureKind::NoFleet, "this host is in no fleet"))?;
    let mut asked = JoinSet::new();
    for member in members.members.iter().filter(|member| member.id != context.trust.id()).cloned() {
        let (context, reference) = (context.clone(), request.image.clone());
        asked.spawn(async move { (diff::describe(&context, &member, reference).await, member) });
    }
    let (mut have, mut silent) = (vec![], vec![]);
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((Ok((peer, Some(image))), _)) => have.push((peer, image)),
            Ok((Ok((_, None)), _)) => {}
            Ok((Err(_), member)) => silent.push(member.name),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    have.sort_by_key(|(peer, _)| peer.round_trip_us());
    let image = request.image.familiar();
    if have.iter().any(|(_, other)| other.root.digest != have[0].1.root.digest) {
        // Engines that keep layers unpacked show a manifest of their own for the same image, whose layers are what the config says. Where all have that
        // config, such a manifest, as it is described, says the same to everybody.
        let is_common = |image: &proto::Image| {
            let configs = |image: &proto::Image| image.manifests.iter().map(|manifest| manifest.config.digest).collect::<HashSet<_>>();
            is_plain(image) && have.iter().all(|(_, other)| configs(image).is_subset(&configs(other)))
        };
        if let Some(common) = have.iter().position(|(_, image)| is_common(image)) {
            return Ok(have.swap_remove(common).0);
        }
        let found: Vec<String> = have.iter().map(|(peer, image)| format!("{} has {}", peer.name(), image.root.digest.short())).collect();
        let what = format!("{image} is not the same image everywhere: {}", found.join(", "));
        return Err(failure(FailureKind::Usage, what + ": --from HOST says which is meant"));
    }
    silent.sort();
    match have.into_iter().next() {
        Some((peer, _)) => Ok(peer),
        None if silent.is_empty() => Err(failure(FailureKind::ImageNotFound, format!("no host of the fleet has {image}"))),
        // Whoever did not answer may have it.
        None => {
            let what = format!("no host that answers has {image}; no answer from {}", silent.join(", "));
            Err(failure(FailureKind::HostUnreachable(silent.swap_remove(0)), what))
        }
    }
}

/// True for an image of one manifest whose layers are plain: their digests are in the config.
fn is_plain(image: &proto::Image) -> bool {
    let mut layers = image.manifests.iter().flat_map(|manifest| &manifest.layers);
    image.indexes.is_empty() && layers.all(|layer| layer.diff_id == Some(layer.descriptor.digest))
}
