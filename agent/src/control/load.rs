//! `imgctl load`: an archive comes in as it is read.

use std::convert::Infallible;
use std::sync::Arc;

use proto::Reference;
use proto::control::{Check, Event, Failure, FailureKind, Verdict};
use proto::image::ImageError;
use proto::text::escape_short;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Done;
use super::client::Client;
use super::failure;
use crate::archive::{self, ArchiveError, NotLoaded, Report};
use crate::store::{Imported, Store, StoreError};
use crate::transfer::Context;
use crate::trust::Arrival;

/// Characters of a name as an archive has it.
const NAME_CHARS: usize = 200;

/// Loads what the client sends. A client that goes before the end has sent a truncated archive.
pub(super) async fn load<S: Store>(context: &Arc<Context<S>>, client: &Client, who: &str) -> Done {
    let (sender, receiver) = mpsc::channel(4);
    let stop = CancellationToken::new();
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
        // The archive is in, or was cut off: what remains is for the loader to say, as long as somebody listens.
        client.gone().await;
        stop.cancel();
        std::future::pending::<Infallible>().await
    };
    let mut visible = vec![];
    let loading = archive::load(&*context.store, &context.staging, receiver, &stop, |image| {
        let imported = Imported { image_id: image.image_id, replaced: image.replaced };
        context.trust.audit().arrived(Arrival::Loaded, who, image.reference.as_ref(), &imported, "");
        visible.push(image.clone());
    });
    let result = tokio::select! {
        result = loading => result.map_err(Some),
        never = feed => match never {},
        () = context.shutdown.cancelled() => Err(None),
    };
    let names: Vec<Reference> = visible.iter().filter_map(|image| image.reference.clone()).collect();
    context.senders.forget(&names).await;
    let result = result.map_err(|error: Option<ArchiveError>| {
        error.map_or_else(failure::shutting_down, |error| failure("cannot load the archive".to_owned(), &error))
    });
    // Also after a failure: what became visible before it is there.
    for image in visible {
        client.event(Event::Loaded { reference: image.reference, image_id: image.image_id }).await;
    }
    let Report { loaded, failed, notes } = result?;
    for note in notes {
        let check = Check { verdict: Verdict::Warning, subject: "archive".to_owned(), finding: note, remedy: None };
        client.event(Event::Check(check)).await;
    }
    let (count, all) = (failed.len(), failed.len() + loaded.len());
    let mut first = None;
    for NotLoaded { name, error } in failed {
        let name = escape_short(&name, NAME_CHARS);
        let failure = failure(format!("cannot load {name}"), &error);
        if all > 1 {
            client.event(Event::NotLoaded { image: name, failure: failure.clone() }).await;
        }
        first.get_or_insert(failure);
    }
    match first {
        None => Ok(()),
        Some(failure) if all == 1 => Err(failure),
        Some(first) => {
            let mut failure = Failure { kind: first.kind, causes: vec![format!("{count} of {all} images and names were not loaded")] };
            failure.causes.extend(first.causes);
            Err(failure)
        }
    }
}

/// What is wrong with an image is the archive's fault here.
fn failure(what: String, error: &ArchiveError) -> Failure {
    match error {
        ArchiveError::Store(StoreError::Image(ImageError::PlatformAbsent { .. })) => {
            failure::because(what, FailureKind::Unsupported, error)
        }
        ArchiveError::Store(StoreError::Image(_)) => failure::because(what, FailureKind::InvalidArchive, error),
        ArchiveError::Store(error) => failure::store(what, error),
        ArchiveError::Stopped => failure::because(what, FailureKind::Cancelled, error),
        _ => failure::because(what, FailureKind::InvalidArchive, error),
    }
}
