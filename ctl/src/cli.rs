//! The command line. The doc comments here and in `cmd` are the manual that `imgctl --help` shows.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::cmd;

/// Moves container images between the hosts of a LAN, without a registry
///
/// imgctl asks the imgd of this host, which compares what the other host already has, and sends only what is missing, straight into
/// its store. The image arrives under the same name and with the same image ID. Nothing needs sudo: members of the group imgd may
/// do everything.
#[derive(Debug, Parser)]
#[command(name = "imgctl", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = EPILOGUE, disable_help_subcommand = false, max_term_width = 110)]
pub(crate) struct Cli {
    /// What goes with every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What goes with every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "With every command")]
pub(crate) struct Global {
    /// Socket of the agent [env: IMGCTL_SOCKET, default: /run/imgd/imgd.sock]
    #[arg(long, global = true, value_name = "PATH", env = "IMGCTL_SOCKET", default_value = "/run/imgd/imgd.sock")]
    #[arg(hide_env = true, hide_default_value = true)]
    pub(crate) socket: PathBuf,
    /// Print one JSON object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only failures, and what a script needs (image IDs, the token, the number of a job)
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// The verbs. Each has a file of its name in `cmd`, with its help.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Send(cmd::send::Args),
    Pull(cmd::pull::Args),
    Status(cmd::status::Args),
    Cancel(cmd::cancel::Args),
    Ls(cmd::ls::Args),
    Load(cmd::load::Args),
    Save(cmd::save::Args),
    Tag(cmd::tag::Args),
    Rm(cmd::rm::Args),
    Inspect(cmd::inspect::Args),
    Diff(cmd::diff::Args),
    WhoHas(cmd::who_has::Args),
    /// Hash every blob again, and put damaged ones aside
    Scrub,
    /// Free what is kept of transfers that were not finished
    ///
    /// What has arrived of an image is kept for a day, so that the same command goes on from there. It goes by itself when another image needs
    /// the room. imgctl status and imgctl doctor say how much it is.
    Prune,
    Fleet(cmd::fleet::Args),
    /// List the hosts that are seen
    Peers,
    Doctor(cmd::doctor::Args),
    Demo(cmd::demo::Args),
    #[command(hide = true)]
    Completions(cmd::completions::Args),
    #[command(hide = true)]
    Manual(cmd::manual::Args),
}

/// The verbs as people look for them.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Move images", &["send", "pull", "status", "cancel"]),
    ("Images of this host", &["ls", "load", "save", "tag", "rm", "inspect", "diff", "who-has", "scrub", "prune"]),
    ("Hosts", &["fleet", "peers"]),
    ("Help", &["doctor", "demo", "help"]),
];

const EPILOGUE: &str = "\
How to name hosts:
  stapp03        by its name in the fleet (imgctl fleet ls)
  'web[01-40]'   a range of names          'web*'  a pattern
  @web           a group (imgctl fleet group)

Examples:
  imgctl demo                                  see it work, in a few seconds
  imgctl send demo:nautilus stapp03            one image to one host
  imgctl send demo:nautilus --all              to every host of the fleet
  imgctl send --retry-failed 12                again, to those hosts that failed
  imgctl send -n -i app:2 demo:nautilus @web   what would travel, of two images to a group
  imgctl pull demo:nautilus --from stapp01     the other way round
  docker save app:2 | imgctl load              an image from elsewhere
  imgctl save -o app.tar.zst app:2             and out again, for any engine
  imgctl diff demo:nautilus --all              who has another image under this name?

First steps, with imgd running on every host:
  stapp01$ imgctl fleet init                   makes the fleet
  stapp01$ imgctl fleet invite                 prints a token
  stapp02$ imgctl fleet join                   asks for it

Exit codes:
    0  done                           5  not trusted, or denied
    1  failed                         6  refused before a byte moved: space, platform, policy, name
    2  usage                          7  some hosts failed, the output names them
    3  image not found              130  interrupted
    4  host not found or unreachable

imgctl COMMAND --help says more about a command.";

/// The command line with its verbs in groups.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    let mut verbs = String::new();
    for (group, names) in GROUPS {
        let _ = writeln!(verbs, "{group}:");
        for name in names {
            let about = command.find_subcommand(name).and_then(|verb| verb.get_about().map(ToString::to_string));
            let about = about.unwrap_or_else(|| "Say more about a command".to_owned());
            let _ = writeln!(verbs, "  {name:<8}  {about}");
        }
        verbs.push('\n');
    }
    command.help_template(format!("{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{verbs}Options:\n{{options}}{{after-help}}\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_help_names_every_verb_once() {
        let help = command().render_long_help().to_string();
        for verb in command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let line = format!("\n  {:<8}  {}", verb.get_name(), verb.get_about().unwrap());
            assert_eq!(help.matches(&line).count(), 1, "{}\n{help}", verb.get_name());
        }
        assert!(!help.contains("completions"));
        assert!(help.contains("Exit codes:") && help.contains("IMGCTL_SOCKET") && help.contains("Examples:"));
    }

    #[test]
    fn lines_fit_a_terminal() {
        let help = command().render_help().to_string();
        assert!(help.lines().all(|line| line.chars().count() <= 112), "{help}");
    }

    #[test]
    fn hosts_are_last_and_wanted() {
        let parse = |line: &str| command().try_get_matches_from(line.split(' '));
        assert!(parse("imgctl send demo:nautilus stapp03 stapp04 -i b:1 --limit 50MB/s").is_ok());
        assert!(parse("imgctl send demo:nautilus --all --json").is_ok());
        assert!(parse("imgctl pull demo --from a --dry-run").is_ok());
        assert!(parse("imgctl fleet invite --valid 7d --uses 500").is_ok());
        for wrong in [
            "imgctl send demo:nautilus",
            "imgctl send demo a --all",
            "imgctl send demo a --platform linux/amd64 --all-platforms",
            "imgctl send demo a --limit 50",
            "imgctl send demo a --as Demo",
            "imgctl diff demo",
            "imgctl fleet invite --uses 0",
        ] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
