//! `--platform` and `--all-platforms`, wherever an image may have several.

use proto::Platform;
use proto::control::Platforms;

/// Which platforms of a multi-platform image are meant.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// This platform of a multi-platform image, instead of the receiver's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", conflicts_with = "all_platforms")]
    platform: Option<Platform>,
    /// Every platform of a multi-platform image
    #[arg(long)]
    all_platforms: bool,
}

impl Args {
    /// The words again, for a command that does the same.
    pub(crate) fn words(&self) -> String {
        match (&self.platform, self.all_platforms) {
            (Some(platform), _) => format!(" --platform {platform}"),
            (None, true) => " --all-platforms".to_owned(),
            (None, false) => String::new(),
        }
    }
}

impl From<Args> for Platforms {
    fn from(args: Args) -> Self {
        match args.platform {
            Some(platform) => Self::One(platform),
            None if args.all_platforms => Self::All,
            None => Self::Receiver,
        }
    }
}
