//! `imgctl ls [HOST…]`

use proto::control::{Event, Hosts, Request};
use proto::peer::ImageRow;
use proto::text::escape;
use serde_json::{Value, json};

use super::fleet::Silent;
use crate::context::Context;
use crate::format::{ago, size};
use crate::names;

/// List images, here or on other hosts
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Hosts to list instead of this one: names, @groups, ranges, patterns
    #[arg(value_name = "HOST", conflicts_with = "all")]
    hosts: Vec<String>,
    /// Every host of the fleet
    #[arg(long, short)]
    all: bool,
}

/// Lists.
pub(crate) fn run(context: &Context, args: Args) -> super::Result {
    let others = args.all || !args.hosts.is_empty();
    let heading = ["HOST", "NAME", "TAG", "IMAGE ID", "PLATFORM", "SIZE", "TAGGED"];
    let mut rows = vec![heading[usize::from(!others)..].iter().map(|&word| word.to_owned()).collect::<Vec<_>>()];
    let mut silent = Silent::default();
    let mut answers = 0;
    context.each(&Request::List(Hosts { names: args.hosts, all: args.all, except: vec![] }), |event| match event {
        Event::Image { host, row } => {
            answers += 1;
            context.output.object(&object(host.as_deref(), &row));
            if context.output.is_quiet() {
                context.output.answer(&row.image_id.short());
            }
            rows.push(columns(others, host.as_deref(), &row));
        }
        Event::HostSilent { host, failure } => silent.add(context, host, &failure),
        _ => {}
    })?;
    if others {
        // They answer in any order; the images of one host stay as it lists them.
        rows[1..].sort_by(|one, other| names::compare(&one[0], &other[0]));
    }
    context.output.table(&rows);
    if answers == 0 && silent.is_empty() {
        context.output.line("no images; imgctl load or imgctl pull brings one");
    }
    Ok(silent.exit(answers > 0))
}

fn columns(others: bool, host: Option<&str>, row: &ImageRow) -> Vec<String> {
    let none = || "<none>".to_owned();
    let (name, tag) = match &row.reference {
        Some(reference) => (name(reference), reference.tag().map_or_else(none, str::to_owned)),
        None => (none(), none()),
    };
    let platforms: Vec<String> = row.platforms.iter().map(ToString::to_string).collect();
    let platforms = match &platforms[..] {
        [] => "-".to_owned(),
        [first, second, _, ..] => format!("{first}, {second} and {} more", platforms.len() - 2),
        few => few.join(", "),
    };
    let platforms = if row.complete { platforms } else { "incomplete".to_owned() };
    let mut columns = vec![name, tag, row.image_id.short(), platforms, size(row.size_bytes), ago(row.tagged_unix_s)];
    if others {
        columns.insert(0, host.map_or_else(|| "here".to_owned(), escape));
    }
    columns
}

/// The repository as people write it, with a registry that is not Docker's.
fn name(reference: &proto::Reference) -> String {
    let familiar = reference.without_digest().familiar();
    match reference.tag() {
        Some(tag) => familiar.strip_suffix(&format!(":{tag}")).unwrap_or(&familiar).to_owned(),
        None => familiar.split('@').next().unwrap_or(&familiar).to_owned(),
    }
}

fn object(host: Option<&str>, row: &ImageRow) -> Value {
    json!({
        "event": "image", "host": host, "name": row.reference.as_ref().map(proto::Reference::familiar), "image_id": row.image_id.to_string(),
        "digest": row.root.to_string(), "platforms": row.platforms.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "bytes": row.size_bytes, "complete": row.complete, "tagged_unix_s": row.tagged_unix_s,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proto::{Digest, Platform};

    use super::*;

    #[test]
    fn rows_as_docker_images() {
        let row = ImageRow {
            reference: Some("quay.io:443/acme/app:2".parse().unwrap()),
            image_id: Digest::of(b""),
            root: Digest::of(b""),
            platforms: vec![Platform::new("linux", "arm64", "")],
            size_bytes: 187_000_000,
            complete: true,
            tagged_unix_s: crate::format::now_unix_s() - 3 * 86_400,
        };
        let here = columns(false, None, &row);
        assert_eq!(here, ["quay.io:443/acme/app", "2", "e3b0c44298fc", "linux/arm64", "187 MB", "3 days ago"]);
        assert_eq!(columns(true, Some("b"), &ImageRow { reference: None, ..row })[..3], ["b", "<none>", "<none>"]);
    }
}
