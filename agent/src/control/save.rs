//! `imgctl save`: images go out as an archive.

use bytes::Bytes;
use proto::Platform;
use proto::control::{Event, FailureKind, Platforms, Save};
use proto::image::Selection;
use tokio::sync::mpsc;

use super::client::Client;
use super::{Done, failure, images};
use crate::archive;
use crate::store::Store;
use crate::transfer::Context;

/// Finds all images first: nothing is written when one of them is not there.
pub(super) async fn save<S: Store>(context: &Context<S>, client: &Client, request: Save) -> Done {
    let selection = match &request.platforms {
        Platforms::Receiver => Selection::Present,
        Platforms::One(platform) => Selection::One(Platform::clone(platform)),
        Platforms::All => Selection::All,
    };
    let mut held = vec![];
    for image in &request.images {
        let query = images::query(image)?;
        let found = context.store.resolve(&query, selection.clone()).await;
        let found = found.and_then(|found| found.can_read(&found.unpacked_only).map(|()| found.clone()));
        held.push(found.map_err(|error| failure::store(format!("cannot save {image}"), &error))?);
    }
    client.event(Event::Data).await;
    let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
    let saving = archive::save(&*context.store, &held, request.format, request.compression, sender);
    let sending = async move {
        while let Some(bytes) = receiver.recv().await {
            if !client.data(bytes).await {
                break;
            }
        }
    };
    let (saved, ()) = tokio::join!(saving, sending);
    client.data(Bytes::new()).await;
    saved.map_err(|error| match &error {
        archive::ArchiveError::Store(error) => failure::store("cannot save the archive", error),
        _ => failure::because("cannot save the archive".to_owned(), FailureKind::Other, &error),
    })
}
