//! `imgctl status` and `imgctl cancel`.

use proto::control::{Event, FailureKind};

use super::Done;
use super::client::Client;
use super::failure::failure;
use crate::transfer::Context;

/// Transfers that run, and the last ones that ran.
pub(super) async fn status<S>(context: &Context<S>, client: &Client) -> Done {
    for row in context.transfers.rows() {
        client.event(Event::Transfer(row)).await;
    }
    Ok(())
}

/// Cancels a transfer. What was verified until now stays for the next one.
pub(super) fn cancel<S>(context: &Context<S>, id: u64) -> Done {
    if context.transfers.cancel(id) {
        Ok(())
    } else {
        Err(failure(FailureKind::HostNotFound(id.to_string()), format!("no transfer {id} is running")))
    }
}
