//! `imgctl tag`, `rm` and `inspect`, and how the words of a person become images.

use std::sync::Arc;

use proto::control::{Event, Failure, FailureKind};
use proto::image::Selection;
use proto::{Image, Platform, Reference};
use serde_json::json;

use super::Done;
use super::client::Client;
use super::failure::{self, failure};
use crate::store::{Held, Import, Query, Store, StoreError};
use crate::sys;
use crate::transfer::{self, Context};
use crate::trust::Arrival;

/// What a person wrote, as a question to the store.
pub(super) fn query(image: &str) -> Result<Query, Failure> {
    Query::parse(image).map_err(|error| failure(FailureKind::Usage, error.to_string()))
}

/// The images that are meant by one word: itself, or every tag of its repository, which has to have one.
pub(super) async fn queries<S: Store>(context: &Context<S>, image: &str, all_tags: bool) -> Result<Vec<Query>, Failure> {
    let query = query(image)?;
    let what = || format!("cannot send {image}");
    if !all_tags {
        return Ok(vec![query]);
    }
    let repository = query.reference().map(Reference::repository);
    let rows = context.store.list().await.map_err(|error| failure::store(what(), &error))?;
    let references = rows.into_iter().filter_map(|row| row.reference).filter(|own| Some(own.repository()) == repository);
    let queries: Vec<Query> = references.map(Query::from).collect();
    if queries.is_empty() { Err(failure::store(what(), &StoreError::NotFound(query))) } else { Ok(queries) }
}

/// A further name for an image: an import that lacks nothing.
pub(super) async fn tag<S: Store>(context: &Arc<Context<S>>, who: &str, image: &str, name: Reference) -> Done {
    let what = || format!("cannot tag {image}");
    if name.digest().is_some() {
        return Err(failure(FailureKind::Usage, format!("cannot tag {image}: a name with a digest cannot be given")));
    }
    let query = query(image)?;
    let tagging = async {
        let held = context.store.resolve(&query, Selection::Present).await?;
        let mut import = context.store.import(Image { reference: Some(name.clone()), ..held.image.clone() }).await?;
        if let Some(missing) = import.missing().await?.first() {
            held.can_read([&missing.digest])?;
            return Err(StoreError::BlobMissing(missing.digest));
        }
        let line = (Arrival::Tagged, who.to_owned(), String::new());
        let tagged = transfer::commit(context.trust.audit(), import, Some(name.clone()), line, None).await?;
        context.senders.forget(&[name]).await;
        Ok(tagged)
    };
    tagging.await.map(drop).map_err(|error| failure::store(what(), &error))
}

/// Takes names away; goes on with the others when one is not there, and fails then.
pub(super) async fn remove<S: Store>(context: &Arc<Context<S>>, client: &Client, who: &str, images: &[String]) -> Done {
    let mut first = None;
    for image in images {
        let (context, who, query) = (context.clone(), who.to_owned(), query(image)?);
        let removing = async move {
            let removed = context.store.remove(&query).await;
            if let (Ok(_) | Err(StoreError::NotFreed { .. }), Some(name)) = (&removed, query.reference()) {
                context.senders.forget(std::slice::from_ref(name)).await;
            }
            match &removed {
                Ok(removed) => context.trust.audit().image_removed(&who, &removed.name, Some(&removed.image_id)),
                // The name is gone all the same.
                Err(StoreError::NotFreed { name, .. }) => context.trust.audit().image_removed(&who, name, None),
                Err(_) => {}
            }
            removed
        };
        match sys::to_the_end(removing).await {
            Ok(removed) => {
                let deleted = removed.freed_bytes > 0;
                client.event(Event::Removed { name: removed.name, deleted }).await;
            }
            Err(error) => {
                first.get_or_insert(failure::store(format!("cannot remove {image}"), &error));
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// Everything that is known of images, as one JSON object each.
pub(super) async fn inspect<S: Store>(context: &Context<S>, client: &Client, images: &[String]) -> Done {
    for image in images {
        let what = || format!("cannot inspect {image}");
        let held = context.store.resolve(&query(image)?, Selection::Present).await.map_err(|error| failure::store(what(), &error))?;
        let names = names(context, &held).await.map_err(|error| failure::store(what(), &error))?;
        let described = describe(context, &held, names).await.map_err(|error| failure::store(what(), &error))?;
        client.event(Event::Inspected(described)).await;
    }
    Ok(())
}

async fn names<S: Store>(context: &Context<S>, held: &Held) -> Result<Vec<String>, StoreError> {
    let rows = context.store.list().await?;
    let same = rows.into_iter().filter(|row| row.root == held.image.root.digest);
    Ok(same.filter_map(|row| row.reference).map(|reference| reference.familiar()).collect())
}

async fn describe<S: Store>(context: &Context<S>, held: &Held, names: Vec<String>) -> Result<String, StoreError> {
    let image = &held.image;
    let descriptor = |d: &proto::Descriptor| json!({"mediaType": d.media_type, "digest": d.digest.to_string(), "size": d.size_bytes});
    let manifest = |m: &proto::Manifest| {
        let layers = m.layers.iter().map(|layer| {
            let mut described = descriptor(&layer.descriptor);
            described["diffId"] = layer.diff_id.map(|diff_id| diff_id.to_string()).into();
            described
        });
        json!({
            "platform": m.platform.as_ref().map(Platform::to_string),
            "manifest": descriptor(&m.descriptor),
            "config": descriptor(&m.config),
            "layers": layers.collect::<Vec<_>>(),
        })
    };
    let mut config = serde_json::Value::Null;
    if let Some(shown) = image.manifest_for(&Platform::host()) {
        let bytes = context.store.read(&shown.config, 0..shown.config.size_bytes).await?.all().await?;
        config = serde_json::from_slice(&bytes).unwrap_or_default();
    }
    let described = json!({
        "id": held.image_id.to_string(),
        "names": names,
        "root": descriptor(&image.root),
        "size": image.size_bytes(),
        "platforms": image.manifests.iter().map(manifest).collect::<Vec<_>>(),
        "config": config,
    });
    Ok(described.to_string())
}
