//! `imgctl who-has IMAGE`

use proto::control::{Event, Request};
use proto::text::escape;

use super::diff;
use super::fleet::Silent;
use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::names;

/// Show which hosts hold an image
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the image
    image: String,
}

/// Asks every host of the fleet.
pub(crate) fn run(context: &Context, args: Args) -> super::Result {
    let mut rows = vec![["HOST", "IMAGE ID"].map(str::to_owned).to_vec()];
    let mut silent = Silent::default();
    let mut here = None;
    let mut answers = 0;
    context.each(&Request::WhoHas(args.image.clone()), |event| match event {
        Event::Difference(difference) => {
            answers += 1;
            if difference.host.is_none() {
                here = difference.image_id;
            }
            context.output.object(&diff::object(&difference, here));
            if let Some(id) = difference.image_id {
                rows.push(vec![difference.host.as_deref().map_or_else(|| "(here)".to_owned(), escape), id.short()]);
            }
        }
        Event::HostSilent { host, failure } => silent.add(context, host, &failure),
        _ => {}
    })?;
    if rows.len() == 1 && silent.is_empty() {
        let error = Error::new(Exit::ImageNotFound, format!("no host has {}", args.image));
        return Err(error.hint("imgctl ls --all shows the images of every host"));
    }
    rows[1..].sort_by(|one, other| names::compare(&one[0], &other[0]));
    context.output.table(&rows);
    Ok(silent.exit(answers > 0))
}
