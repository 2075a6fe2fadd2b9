//! `imgctl prune`: what is kept of transfers that were not finished goes.

use proto::control::Event;

use super::Done;
use super::client::Client;
use super::failure;
use crate::store::Store;
use crate::sys;
use crate::transfer::Context;

/// Frees what no transfer brings at the moment.
pub(super) async fn prune<S: Store>(context: &Context<S>, client: &Client) -> Done {
    let what = "cannot free what is kept of transfers";
    let staging = context.staging.clone();
    let staged = sys::blocking(move || staging.reclaim(u64::MAX, &[])).await;
    let staged_bytes = staged.map_err(|error| failure::store(what, &error))?;
    let stored = context.store.reclaim().await;
    // What staging held is free, whatever the store says.
    client.event(Event::Pruned { staged_bytes, stored_bytes: *stored.as_ref().unwrap_or(&0) }).await;
    stored.map(drop).map_err(|error| failure::store(what, &error))
}
