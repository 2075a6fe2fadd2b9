//! `imgctl send IMAGE HOST…`

use proto::Reference;
use proto::control::{Hosts, Request, Send};

use super::{platforms, transfer};
use crate::context::Context;
use crate::format::shell;
use crate::report::{Direction, Report};
use crate::value;

/// Make an image present on other hosts, under the same name
///
/// Only layers that a host lacks travel. Success means that the store of the host shows the image under its name, with the image ID
/// that was expected. The same command again sends only what is still missing, also after an interruption.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  imgctl send demo:nautilus stapp03
  imgctl send demo:nautilus 'web[01-40]' @db --limit 50MB/s
  imgctl send -i app:2 -i proxy:7 demo:nautilus --all --dry-run")]
pub(crate) struct Args {
    /// Name or ID of the image
    image: String,
    /// Hosts: names, @groups, ranges like web[01-40], patterns like 'web*'
    #[arg(value_name = "HOST", required_unless_present = "all", conflicts_with = "all")]
    hosts: Vec<String>,
    /// To every host of the fleet
    #[arg(long)]
    all: bool,
    /// A further image; may be given several times
    #[arg(long = "image", short = 'i', value_name = "IMAGE")]
    images: Vec<String>,
    /// Name of the image on the other hosts
    #[arg(long = "as", value_name = "NAME", conflicts_with = "images")]
    rename: Option<Reference>,
    #[command(flatten)]
    platforms: platforms::Args,
    /// Every tag of the repository
    #[arg(long, conflicts_with = "rename")]
    all_tags: bool,
    /// Only say what would travel
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Bytes a second for all hosts together: 50MB/s, 50MiB/s, 400Mbit/s
    #[arg(long, value_name = "RATE", value_parser = value::rate)]
    limit: Option<u64>,
    /// Hosts at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_parallel: Option<u32>,
    /// Return at once; imgctl status shows how it goes
    #[arg(long)]
    detach: bool,
}

/// Sends, and says how it goes.
pub(crate) fn run(context: &Context, args: Args) -> super::Result {
    let (request, report) = prepare(args);
    transfer::run(context, &request, report)
}

/// What to ask for, and how to report it.
pub(crate) fn prepare(args: Args) -> (Request, Report) {
    let mut report = Report::new(Direction::Send, is_one_host(&args));
    report.retry = retry(&args);
    report.detached = args.detach;
    let mut images = vec![args.image];
    images.extend(args.images);
    let request = Request::Send(Send {
        images,
        hosts: Hosts { names: args.hosts, all: args.all, except: vec![] },
        rename: args.rename,
        platforms: args.platforms.into(),
        all_tags: args.all_tags,
        dry_run: args.dry_run,
        limit_bytes_per_s: args.limit,
        host_limit_bytes_per_s: None,
        max_parallel: args.max_parallel,
        canary: None,
        stop_on_failure: false,
        detach: args.detach,
        from: None,
    });
    (request, report)
}

/// A single plain name: its layers are shown. Else every host has a line of its own.
fn is_one_host(args: &Args) -> bool {
    !args.all && args.hosts.len() == 1 && args.hosts.iter().all(|host| !host.contains(['@', '[', '*', '?', ',', '{']))
}

/// The command without its hosts.
fn retry(args: &Args) -> String {
    let mut command = "imgctl send".to_owned();
    args.images.iter().for_each(|image| command += &format!(" -i {}", shell(image)));
    if let Some(name) = &args.rename {
        command += &format!(" --as {}", shell(&name.familiar()));
    }
    command += &args.platforms.words();
    if args.all_tags {
        command += " --all-tags";
    }
    command + " " + &shell(&args.image)
}
