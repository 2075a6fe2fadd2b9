//! The same events as objects. Field names are stable; new ones may come.

use proto::control::{Done, Drawn, Event, Planned};
use serde_json::{Value, json};

use crate::error::Error;

/// The object of an event of `send` or `pull`.
pub(crate) fn object(event: &Event) -> Option<Value> {
    Some(match event {
        Event::Accepted { id } => json!({"event": "accepted", "id": id}),
        Event::Queued { host, image } => json!({"event": "queued", "host": host, "image": image}),
        Event::Planned(planned) => self::planned(planned),
        Event::Drawn(drawn) => self::drawn(drawn),
        Event::Progress(progress) => json!({
            "event": "progress", "host": progress.host, "image": progress.image, "digest": progress.digest.to_string(),
            "bytes_verified": progress.verified_bytes,
        }),
        Event::Resolved(resolved) => json!({
            "event": "resolved", "image": resolved.image, "digest": resolved.root.to_string(), "image_id": resolved.image_id.to_string(),
        }),
        Event::Moved(moved) => json!({
            "event": "moved", "image": moved.image, "sent_image_id": moved.sent.to_string(),
            "image_id": moved.image_id.map(|image_id| image_id.to_string()),
        }),
        Event::Hashing(hashing) => json!({
            "event": "hashing", "host": hashing.host, "image": hashing.image, "source": hashing.source,
            "bytes": hashing.done_bytes, "size": hashing.total_bytes,
        }),
        Event::Waiting { host, reason } => json!({"event": "waiting", "host": host, "reason": reason}),
        Event::Done(done) => self::done(done),
        Event::HostFailed { host, image, failure } => {
            let error = Error::from(failure);
            let (code, text) = (error.exit.code(), error.to_string());
            json!({"event": "failed", "host": host, "image": image, "exit_code": code, "error": text, "hint": error.hint})
        }
        Event::Summary(summary) => json!({
            "event": "summary", "hosts": summary.total, "done": summary.done, "failed": summary.failed, "egress_bytes": summary.egress_bytes,
            "elapsed_ms": summary.elapsed_ms,
        }),
        _ => return None,
    })
}

/// How something ended, in contrast to how it goes.
pub(crate) fn is_result(event: &Event) -> bool {
    matches!(event, Event::Done(_) | Event::HostFailed { .. } | Event::Summary(_))
}

fn planned(planned: &Planned) -> Value {
    let layers: Vec<Value> = planned
        .layers
        .iter()
        .map(|layer| json!({"digest": layer.digest.to_string(), "bytes": layer.size_bytes, "bytes_present": layer.present_bytes}))
        .collect();
    json!({
        "event": "planned", "host": planned.host, "image": planned.image, "bytes_to_send": planned.send_bytes,
        "bytes_present": planned.present_bytes, "layers": layers,
    })
}

fn drawn(drawn: &Drawn) -> Value {
    let sources: Vec<Value> = drawn.sources.iter().map(|source| json!({"host": source.host, "bytes": source.received_bytes})).collect();
    json!({"event": "drawn", "host": drawn.host, "image": drawn.image, "sources": sources})
}

fn done(done: &Done) -> Value {
    let mut object = json!({
        "event": "done", "host": done.host, "image": done.image, "image_id": done.image_id.to_string(),
        "source_image_id": done.source_image_id.to_string(), "config_digest": done.config_digest.to_string(), "bytes_sent": done.sent_bytes,
        "wire_bytes": done.wire_bytes, "bytes_present": done.present_bytes, "layers_sent": done.layers_sent,
        "layers_total": done.layers_total, "elapsed_ms": done.elapsed_ms,
    });
    if let Some(replaced) = &done.replaced {
        object["replaced"] = replaced.to_string().into();
    }
    if !done.sources.is_empty() {
        let sources = done.sources.iter().map(|source| (source.host.clone(), source.received_bytes.into()));
        object["sources"] = Value::Object(sources.collect());
    }
    if done.dry_run {
        object["dry_run"] = true.into();
    }
    object
}
