//! `imgctl ls`: images here, or on other hosts, asked side by side.

use std::sync::Arc;

use proto::control::{Event, FailureKind, Hosts};
use proto::host::Member;
use proto::peer::{Answer, ImageRow, Request};
use tokio::task::JoinSet;

use super::client::Client;
use super::failure::{self, failure};
use super::{ANSWER_MS, Done, hosts};
use crate::net::NetError;
use crate::store::Store;
use crate::sys;
use crate::transfer::Context;

/// What the images of one host may take here: more than 50,000 of them.
const ROWS_BYTES: usize = 16 * 1024 * 1024;

/// Lists. A host that does not answer is reported as such, and does not hold up the others.
pub(super) async fn list<S: Store>(context: &Arc<Context<S>>, client: &Client, request: &Hosts) -> Done {
    if request.names.is_empty() && !request.all {
        return here(context, client, None).await;
    }
    let members = context.trust.members().ok_or_else(|| failure(FailureKind::NoFleet, "this host is in no fleet"))?;
    let name = context.trust.name();
    if request.all {
        here(context, client, Some(name.clone())).await?;
    }
    let mut asked = JoinSet::new();
    for member in hosts::select(&members, &context.peers, request, &name)? {
        if member.id == context.trust.id() {
            here(context, client, Some(name.clone())).await?;
            continue;
        }
        let context = context.clone();
        asked.spawn(async move { (ask(&context, &member).await, member) });
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((Ok(rows), member)) => {
                for row in rows {
                    client.event(Event::Image { host: Some(member.name.clone()), row }).await;
                }
            }
            Ok((Err(error), member)) => {
                let failure = failure::net(format!("cannot list the images of {}", member.name), &member.name, &error);
                client.event(Event::HostSilent { host: member.name, failure }).await;
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    Ok(())
}

async fn here<S: Store>(context: &Context<S>, client: &Client, host: Option<String>) -> Done {
    let rows = context.store.list().await.map_err(|error| failure::store("cannot list the images here", &error))?;
    for row in rows {
        client.event(Event::Image { host: host.clone(), row }).await;
    }
    Ok(())
}

async fn ask<S: Store>(context: &Context<S>, member: &Member) -> Result<Vec<ImageRow>, NetError> {
    let asking = context.net.ask(&member.id, |peer| async move {
        let mut stream = peer.request(&Request::List).await?;
        let (mut rows, mut bytes) = (vec![], 0);
        loop {
            match stream.receive().await? {
                Answer::Images(chunk) if chunk.is_empty() => return Ok(rows),
                Answer::Images(chunk) => {
                    bytes += chunk.iter().map(row_bytes).sum::<usize>();
                    if bytes > ROWS_BYTES {
                        return Err(proto::session::OutOfTurn("more images than any host has").into());
                    }
                    rows.extend(chunk);
                }
                Answer::Refused(refusal) => return Err(NetError::Answer(refusal)),
                _ => return Err(proto::session::OutOfTurn("an answer to a list").into()),
            }
        }
    });
    sys::deadline(ANSWER_MS, asking).await.unwrap_or(Err(NetError::Silent(ANSWER_MS / 1000)))
}

/// About what a row takes in memory.
fn row_bytes(row: &ImageRow) -> usize {
    let platforms = row
        .platforms
        .iter()
        .map(|platform| size_of::<proto::Platform>() + platform.os.len() + platform.architecture.len() + platform.variant.len());
    let name = row.reference.as_ref().map_or(0, |reference| reference.to_string().len());
    size_of::<ImageRow>() + platforms.sum::<usize>() + 2 * name
}
