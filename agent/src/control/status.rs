//! `imgctl status` and `imgctl cancel`.

use proto::control::{Event, FailureKind, Status};

use super::Done;
use super::client::Client;
use super::failure::{self, failure};
use super::jobs::Jobs;
use crate::staging::Unclaimed;
use crate::sys;
use crate::transfer::Context;

/// Transfers that run, and the last ones that ran; or one send, until it is over. Who looks on stops nothing by going away.
pub(super) async fn status<S>(context: &Context<S>, jobs: &Jobs, client: &Client, request: &Status) -> Done {
    if request.watch {
        return jobs.find(request.id)?.follow(&client.events()).await;
    }
    let rows = context.transfers.rows();
    let rows: Vec<_> = rows.into_iter().filter(|row| request.id.is_none_or(|id| row.id == id)).collect();
    if let (Some(id), true) = (request.id, rows.is_empty()) {
        return Err(failure(FailureKind::TransferNotFound(id), format!("no transfer {id} is running, or was of late")));
    }
    for row in rows {
        client.event(Event::Transfer(row)).await;
    }
    if request.id.is_none() {
        let staging = context.staging.clone();
        let unclaimed = sys::blocking(move || staging.unclaimed(&[])).await;
        let Unclaimed { blobs, bytes } = unclaimed.map_err(|error| failure::store("cannot tell what is kept", &error))?;
        if blobs > 0 {
            client.event(Event::Unfinished { blobs, bytes }).await;
        }
    }
    Ok(())
}

/// Cancels all transfers of a number. What was verified until now stays for the next one.
pub(super) async fn cancel<S>(context: &Context<S>, jobs: &Jobs, id: u64) -> Done {
    if context.transfers.cancel(id) {
        // An agent that ends now does not go on with it when it is started again.
        jobs.cancelled(id).await;
        Ok(())
    } else {
        Err(failure(FailureKind::TransferNotFound(id), format!("no transfer {id} is running")))
    }
}
