//! Single lines of a report.

use proto::control::{Done, Hashing, Moved, Planned};
use proto::text::escape;

use super::{Direction, Origin, sources};
use crate::format::{duration_ms, size};

/// `demo:nautilus → stapp03 · 2 of 7 layers to send, 41.0 MB of 187 MB`
pub(super) fn header(direction: Direction, planned: &Planned) -> String {
    let (arrow, verb, place) = match direction {
        Direction::Send => ("→", "send", "there"),
        Direction::Pull => ("←", "fetch", "here"),
    };
    let total = planned.layers.len();
    let missing = planned.layers.iter().filter(|layer| layer.present_bytes < layer.size_bytes).count();
    let (bytes, all_bytes) = (size(planned.send_bytes), size(planned.send_bytes + planned.present_bytes));
    let what = match missing {
        0 if planned.send_bytes == 0 => format!("nothing to {verb}, all of {all_bytes} is {place}"),
        0 => format!("no layers to {verb}, {bytes} of {all_bytes}"),
        _ => format!("{missing} of {total} {} to {verb}, {bytes} of {all_bytes}", if total == 1 { "layer" } else { "layers" }),
    };
    format!("{} {arrow} {} · {what}", escape(&planned.image), escape(&planned.host))
}

/// `demo:1 has moved meanwhile: sha256:aaaaaaaaaaaa was sent, the name is sha256:bbbbbbbbbbbb now`
pub(super) fn moved(moved: &Moved) -> String {
    let (image, sent) = (escape(&moved.image), moved.sent.short());
    match &moved.image_id {
        Some(image_id) => format!("{image} has moved meanwhile: sha256:{sent} was sent, the name is sha256:{} now", image_id.short()),
        None => format!("{image} was removed meanwhile: sha256:{sent} was sent"),
    }
}

/// `hashing at stapp01, 3.1 GB of 14.0 GB`
pub(crate) fn hashing(hashing: &Hashing) -> String {
    format!("hashing at {}, {} of {}", escape(&hashing.source), size(hashing.done_bytes), size(hashing.total_bytes))
}

/// The layers that need not travel, in whole or in part. When none has to, the header has said so.
pub(super) fn present(planned: &Planned) -> Vec<String> {
    if planned.layers.iter().all(|layer| layer.present_bytes >= layer.size_bytes) {
        return vec![];
    }
    let lines = planned.layers.iter().filter(|layer| layer.present_bytes > 0 || layer.size_bytes == 0).map(|layer| {
        let what = if layer.present_bytes >= layer.size_bytes {
            "already exists".to_owned()
        } else {
            format!("{} of {} already there", size(layer.present_bytes), size(layer.size_bytes))
        };
        format!("  {}  {what}", layer.digest.short())
    });
    lines.collect()
}

/// `✔ stapp03  demo:nautilus  sha256:1f2e93c0a1b2  same image ID as here`
pub(super) fn result(direction: Direction, origin: &Origin, done: &Done) -> String {
    let host = match direction {
        Direction::Send => escape(&done.host),
        Direction::Pull => "here".to_owned(),
    };
    format!("✔ {host}  {}  {}", escape(&done.image), identity(direction, origin, done))
}

/// `✔ web07  demo:nautilus  sha256:1f2e93c0a1b2  12.3 s  from web06`: one of many.
pub(super) fn short_result(direction: Direction, origin: &Origin, done: &Done) -> String {
    let served = sources::shares(&done.sources);
    let from = if served.is_empty() { String::new() } else { format!("  from {served}") };
    let (identity, time) = (short_identity(direction, origin, done), duration_ms(done.elapsed_ms));
    format!("✔ {}  {}  {identity}  {time}{from}", escape(&done.host), escape(&done.image))
}

/// What the image is at the receiver, beside what it is at the sender.
pub(super) fn identity(direction: Direction, origin: &Origin, done: &Done) -> String {
    let (source, receiver) = match direction {
        Direction::Send => (origin.adverb(), "there"),
        Direction::Pull => (format!("on {}", escape(&done.host)), "here"),
    };
    let mut text = if done.image_id == done.source_image_id {
        format!("sha256:{}  same image ID as {source}", done.image_id.short())
    } else {
        format!("config sha256:{} as {source}, image ID {receiver} is sha256:{}", done.config_digest.short(), done.image_id.short())
    };
    if let Some(replaced) = &done.replaced {
        text += &format!(", replaced sha256:{}", replaced.short());
    }
    text
}

/// The image ID, when it is the same at both ends; else all that there is to say.
pub(super) fn short_identity(direction: Direction, origin: &Origin, done: &Done) -> String {
    if done.image_id == done.source_image_id {
        return format!("sha256:{}", done.image_id.short());
    }
    identity(direction, origin, done)
}
