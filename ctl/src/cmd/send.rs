//! `imgctl send IMAGE HOST…`

use proto::Reference;
use proto::control::{Hosts, Request, Retry, Send, TransferState};

use super::{job, platforms, transfer};
use crate::context::Context;
use crate::format::shell;
use crate::report::{Direction, Origin, Report};
use crate::value;

/// Make an image present on other hosts, under the same name
///
/// Only layers that a host lacks travel. Success means that the store of the host shows the image under its name, with the image ID
/// that was expected. The same command again sends only what is still missing, also after an interruption.
#[derive(Debug, clap::Args)]
#[command(override_usage = "imgctl send [OPTIONS] <IMAGE> <HOST>...
       imgctl send [OPTIONS] <IMAGE> --all
       imgctl send --retry-failed <JOB> [--detach]")]
#[command(after_help = "Examples:
  imgctl send demo:nautilus stapp03
  imgctl send demo:nautilus 'web[01-40]' @db --limit 50MB/s
  imgctl send demo:nautilus --all --except '@db' --canary 2
  imgctl send demo:nautilus @web --from web01
  imgctl send -i app:2 -i proxy:7 demo:nautilus --all --dry-run
  imgctl send --retry-failed 12")]
pub(crate) struct Args {
    /// Name or ID of the image
    #[arg(required_unless_present = "retry_failed")]
    image: Option<String>,
    /// Hosts: names, @groups, ranges like web[01-40], patterns like 'web*'
    #[arg(value_name = "HOST", required_unless_present_any = ["all", "retry_failed"], conflicts_with = "all")]
    hosts: Vec<String>,
    /// To every host of the fleet
    #[arg(long)]
    all: bool,
    /// Not to this host; named like the others, may be given several times
    #[arg(long, value_name = "HOST")]
    except: Vec<String>,
    /// A further image; may be given several times
    #[arg(long = "image", short = 'i', value_name = "IMAGE")]
    images: Vec<String>,
    /// From this host instead of from here: the bytes go from there to the others
    #[arg(long, value_name = "HOST")]
    from: Option<String>,
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
    /// Bytes a second that any one host receives
    #[arg(long, value_name = "RATE", value_parser = value::rate)]
    limit_per_host: Option<u64>,
    /// Hosts at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_parallel: Option<u32>,
    /// To so many hosts first; to the others only when all of these have it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    canary: Option<u32>,
    /// When one host fails, stop those that do not have it yet
    #[arg(long)]
    stop_on_failure: bool,
    /// Wait so long for hosts that do not answer yet: 10m, 2h
    #[arg(long, value_name = "DURATION", value_parser = value::duration_s, conflicts_with_all = ["from", "dry_run"])]
    wait: Option<u64>,
    /// Return at once; imgctl status --watch shows how it goes
    #[arg(long)]
    detach: bool,
    /// Again what failed of an earlier send, in the same way; its number is in imgctl status
    #[arg(long, value_name = "JOB", conflicts_with_all = WHOLE)]
    retry_failed: Option<u64>,
}

/// What an earlier send has said already.
const WHOLE: [&str; 17] = [
    "image",
    "hosts",
    "all",
    "except",
    "images",
    "from",
    "rename",
    "platform",
    "all_platforms",
    "all_tags",
    "dry_run",
    "limit",
    "limit_per_host",
    "max_parallel",
    "canary",
    "stop_on_failure",
    "wait",
];

/// Sends, and says how it goes.
pub(crate) fn run(context: &Context, args: Args) -> super::Result {
    if let Some(id) = args.retry_failed {
        return retry(context, Retry { id, detach: args.detach });
    }
    let (request, report) = prepare(args);
    transfer::run(context, &request, report)
}

/// What to ask for, and how to report it.
pub(crate) fn prepare(args: Args) -> (Request, Report) {
    let mut report = Report::new(Direction::Send, is_one_host(&args));
    report.retry = again(&args);
    report.dry_run = args.dry_run;
    report.detached = args.detach;
    report.several_images = args.all_tags || !args.images.is_empty();
    report.origin = args.from.clone().map_or(Origin::Here, Origin::Host);
    let wait = args.wait;
    let send = Send {
        images: args.image.into_iter().chain(args.images).collect(),
        hosts: Hosts { names: args.hosts, all: args.all, except: args.except },
        rename: args.rename,
        platforms: args.platforms.into(),
        all_tags: args.all_tags,
        dry_run: args.dry_run,
        limit_bytes_per_s: args.limit,
        host_limit_bytes_per_s: args.limit_per_host,
        max_parallel: args.max_parallel,
        canary: args.canary,
        stop_on_failure: args.stop_on_failure,
        detach: args.detach,
        from: args.from,
    };
    let request = match wait {
        Some(wait_s) => Request::SendWaiting { send, wait_s },
        None => Request::Send(send),
    };
    (request, report)
}

/// What failed of an earlier send, again.
fn retry(context: &Context, retry: Retry) -> super::Result {
    let rows = job::known(context, Some(retry.id))?.rows;
    let mut report = job::report(rows.iter().filter(|row| row.state != TransferState::Done));
    report.detached = retry.detach;
    transfer::run(context, &Request::Retry(retry), report)
}

/// A single plain name: its layers are shown. Else every host has a line of its own.
fn is_one_host(args: &Args) -> bool {
    !args.all && args.hosts.len() == 1 && args.hosts.iter().all(|host| !host.contains(['@', '[', '*', '?', ',', '{']))
}

/// The same command without its hosts.
fn again(args: &Args) -> String {
    let mut command = "imgctl send".to_owned();
    args.images.iter().for_each(|image| command += &format!(" -i {}", shell(image)));
    if let Some(name) = &args.rename {
        command += &format!(" --as {}", shell(&name.familiar()));
    }
    command += &args.platforms.words();
    if args.all_tags {
        command += " --all-tags";
    }
    if let Some(host) = &args.from {
        command += &format!(" --from {}", shell(host));
    }
    args.image.iter().for_each(|image| command += &format!(" {}", shell(image)));
    command
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::FromArgMatches;

    use super::*;
    use crate::cli::{self, Cli, Command};

    fn parse(line: &str) -> Result<Args, clap::Error> {
        let matches = cli::command().try_get_matches_from(line.split(' '))?;
        match Cli::from_arg_matches(&matches)?.command {
            Command::Send(args) => Ok(args),
            _ => panic!("not a send: {line}"),
        }
    }

    #[test]
    fn every_option_reaches_the_agent() {
        let line = "imgctl send -i b:1 a:1 web* --except web03 --except @db --limit 1MB/s --limit-per-host 2kB/s --max-parallel 4 --canary 2 \
                    --stop-on-failure --detach --from stapp05 --platform linux/arm64";
        let (request, report) = prepare(parse(line).unwrap());
        let expected = Send {
            images: vec!["a:1".to_owned(), "b:1".to_owned()],
            hosts: Hosts { names: vec!["web*".to_owned()], all: false, except: vec!["web03".to_owned(), "@db".to_owned()] },
            rename: None,
            platforms: proto::control::Platforms::One("linux/arm64".parse().unwrap()),
            all_tags: false,
            dry_run: false,
            limit_bytes_per_s: Some(1_000_000),
            host_limit_bytes_per_s: Some(2_000),
            max_parallel: Some(4),
            canary: Some(2),
            stop_on_failure: true,
            detach: true,
            from: Some("stapp05".to_owned()),
        };
        assert!(request == Request::Send(expected));
        assert!(report.detached && report.several_images && !report.shows_layers());
        assert_eq!(report.retry, "imgctl send -i b:1 --platform linux/arm64 --from stapp05 a:1");
    }

    #[test]
    fn one_host_has_its_layers_shown() {
        for (line, shown) in [("a", true), ("a b", false), ("@a", false), ("--all", false), ("web[1-2]", false)] {
            let (_, report) = prepare(parse(&format!("imgctl send demo:1 {line}")).unwrap());
            assert_eq!(report.shows_layers(), shown, "{line}");
        }
    }

    #[test]
    fn an_earlier_send_has_said_everything() {
        let args = parse("imgctl send --retry-failed 12 --detach --json").unwrap();
        assert_eq!((args.retry_failed, args.detach, args.image), (Some(12), true, None));
        let command = cli::command();
        let send = command.find_subcommand("send").unwrap();
        let own = ["retry_failed", "detach"];
        let others: Vec<&clap::Arg> = send.get_arguments().filter(|option| !own.contains(&option.get_id().as_str())).collect();
        for option in &others {
            let value = match (option.get_id().as_str(), option.get_action().takes_values()) {
                (_, false) => "",
                ("max_parallel" | "canary", _) => "=1",
                ("limit" | "limit_per_host", _) => "=1MB",
                ("platform", _) => "=linux/amd64",
                ("wait", _) => "=1m",
                _ => "=a",
            };
            let word = option.get_long().map_or_else(|| "a".to_owned(), |long| format!("--{long}{value}"));
            let line = format!("imgctl send --retry-failed 12 {word}");
            assert_eq!(parse(&line).unwrap_err().kind(), clap::error::ErrorKind::ArgumentConflict, "{line}");
        }
        assert_eq!(others.len(), WHOLE.len());
    }

    #[test]
    fn what_makes_no_sense() {
        for wrong in [
            "demo:1",
            "demo:1 a --canary 0",
            "demo:1 --except a",
            "demo:1 a --retry-failed 1",
            "--retry-failed x",
            "--detach",
            "demo:1 a --limit-per-host 5",
            "demo:1 a --wait",
            "demo:1 a --wait 10",
            "demo:1 a --wait 10m --from b",
        ] {
            assert_eq!(parse(&format!("imgctl send {wrong}")).unwrap_err().exit_code(), 2, "{wrong}");
        }
        assert!(parse("imgctl send demo:1 --all --except a --wait 1h30m").is_ok());
    }
}
