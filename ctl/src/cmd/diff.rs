//! `imgctl diff IMAGE HOST…`

use proto::Digest;
use proto::control::{Difference, Event, Hosts, Request};
use proto::text::escape;
use serde_json::{Value, json};

use super::fleet::Silent;
use crate::context::Context;
use crate::format::{count, size};
use crate::names;

/// Compare an image here with the ones of that name on other hosts
///
/// `imgctl diff IMAGE --all` shows drift: the same name, another image.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the image
    image: String,
    /// Hosts: names, @groups, ranges, patterns
    #[arg(value_name = "HOST", required_unless_present = "all", conflicts_with = "all")]
    hosts: Vec<String>,
    /// Every host of the fleet
    #[arg(long)]
    all: bool,
}

/// Compares.
pub(crate) fn run(context: &Context, args: Args) -> super::Result {
    let mut rows = vec![["HOST", "IMAGE ID", "STATE", "LAYERS THERE", "MISSING"].map(str::to_owned).to_vec()];
    let mut silent = Silent::default();
    let mut here = None;
    let mut answers = 0;
    context.each(&Request::Diff { image: args.image, hosts: Hosts { names: args.hosts, all: args.all, except: vec![] } }, |event| {
        match event {
            Event::Difference(difference) => {
                if difference.host.is_none() {
                    here = difference.image_id;
                } else {
                    answers += 1;
                }
                context.output.object(&object(&difference, here));
                rows.push(row(&difference, here));
            }
            Event::HostSilent { host, failure } => silent.add(context, host, &failure),
            _ => {}
        }
    })?;
    rows[1..].sort_by(|one, other| names::compare(&one[0], &other[0]));
    context.output.table(&rows);
    Ok(silent.exit(answers > 0))
}

/// How an image compares with the one here.
pub(super) fn state(difference: &Difference, here: Option<Digest>) -> &'static str {
    match difference.image_id {
        _ if difference.host.is_none() => "here",
        None => "absent",
        id if id == here => "same",
        // Another engine shows another ID for the same content.
        Some(_) if difference.missing_bytes == 0 && difference.layers_extra == 0 && difference.layers_shared == difference.layers_total => {
            "same layers, other ID"
        }
        Some(_) => "differs",
    }
}

/// For programs.
pub(super) fn object(difference: &Difference, here: Option<Digest>) -> Value {
    json!({
        "event": "difference", "host": difference.host, "image_id": difference.image_id.map(|id| id.to_string()), "state": state(difference, here),
        "layers_shared": difference.layers_shared, "layers_total": difference.layers_total, "bytes_missing": difference.missing_bytes,
        "layers_extra": difference.layers_extra,
    })
}

fn row(difference: &Difference, here: Option<Digest>) -> Vec<String> {
    let extra = match difference.layers_extra {
        0 => String::new(),
        extra => format!(", {} of its own", count(extra, "layer")),
    };
    vec![
        difference.host.as_deref().map_or_else(|| "(here)".to_owned(), escape),
        difference.image_id.map_or_else(|| "-".to_owned(), |id| id.short()),
        format!("{}{extra}", state(difference, here)),
        format!("{} of {}", difference.layers_shared, difference.layers_total),
        size(difference.missing_bytes),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let id = Digest::of(b"");
        let there = |image_id, layers_shared, layers_extra, missing_bytes| Difference {
            host: Some("b".to_owned()),
            image_id,
            layers_shared,
            layers_total: 3,
            missing_bytes,
            layers_extra,
        };
        let other = Some(Digest::of(b"x"));
        assert_eq!(state(&there(Some(id), 3, 0, 0), Some(id)), "same");
        assert_eq!(state(&there(other, 3, 0, 0), Some(id)), "same layers, other ID");
        assert_eq!(state(&there(None, 1, 0, 9), Some(id)), "absent");
        let row = row(&there(other, 2, 1, 41_000_000), Some(id));
        assert_eq!(row[2..], ["differs, 1 layer of its own", "2 of 3", "41.0 MB"]);
    }
}
