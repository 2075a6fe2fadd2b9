//! `imgctl load`: an archive comes in as it is read.

use std::convert::Infallible;
use std::sync::Arc;

use proto::control::{Event, FailureKind};
use tokio::sync::mpsc;

use super::Done;
use super::client::Client;
use super::failure;
use crate::archive;
use crate::store::{Imported, Store};
use crate::transfer::Context;
use crate::trust::Arrival;

/// Loads what the client sends. A client that goes before the end has sent a truncated archive.
pub(super) async fn load<S: Store>(context: &Arc<Context<S>>, client: &Client, who: &str) -> Done {
    let (sender, receiver) = mpsc::channel(4);
    let feed = async {
        loop {
            match client.read_data().await {
                Ok(bytes) if bytes.is_empty() => break,
                Ok(bytes) => {
                    if sender.send(Ok(bytes)).await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                    break;
                }
            }
        }
        drop(sender);
        // The archive is in, or the client is gone: what remains is for the loader to say.
        std::future::pending::<Infallible>().await
    };
    let mut visible = vec![];
    let loading = archive::load(&*context.store, &context.staging, receiver, |image| {
        let imported = Imported { image_id: image.image_id, replaced: image.replaced };
        context.trust.audit().arrived(Arrival::Loaded, who, image.reference.as_ref(), &imported, "");
        visible.push(image.clone());
    });
    let result = tokio::select! {
        result = loading => result,
        never = feed => match never {},
        () = context.shutdown.cancelled() => return Err(failure::shutting_down()),
    };
    // Also after a failure: what became visible before it is there.
    for image in visible {
        client.event(Event::Loaded { reference: image.reference, image_id: image.image_id }).await;
    }
    result.map(drop).map_err(|error| match &error {
        archive::ArchiveError::Store(error) => failure::store("cannot load the archive", error),
        _ => failure::because("cannot load the archive".to_owned(), FailureKind::InvalidArchive, &error),
    })
}
