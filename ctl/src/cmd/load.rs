//! `imgctl load`

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use proto::control::{Event, Failure, Request};
use proto::limits::DATA_BYTES;
use proto::text::escape;
use serde_json::json;

use crate::connection::DataSender;
use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Take images out of a tar archive
///
/// Archives of docker save, podman save, skopeo and imgctl save, in docker-archive form or as OCI image layout, plain or compressed
/// with gzip or zstd. The file is read with your rights, not with the agent's.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  imgctl load -i demo.tar.gz
  docker save demo:nautilus | imgctl load")]
pub(crate) struct Args {
    /// Archive to read, instead of standard input
    #[arg(long, short, value_name = "FILE")]
    pub(super) input: Option<PathBuf>,
}

/// Loads, and names what came in.
pub(crate) fn run(context: &Context, args: &Args) -> super::Result {
    let source: Box<dyn Read + Send> = match &args.input {
        Some(path) => Box::new(File::open(path).map_err(|error| Error::file("cannot open", path, &error))?),
        None if std::io::stdin().is_terminal() => {
            return Err(
                Error::usage("an archive is not typed at a terminal").hint("imgctl load -i FILE, or docker save IMAGE | imgctl load")
            );
        }
        None => Box::new(std::io::stdin()),
    };
    let mut connection = context.ask(&Request::Load)?;
    let feeder = feed(connection.data_sender()?, source);
    let (mut result, mut any_loaded) = (Ok(()), false);
    loop {
        match connection.event() {
            Ok(Some(Event::Loaded { reference, image_id })) => {
                loaded(context, reference.as_ref(), &image_id);
                any_loaded = true;
            }
            Ok(Some(Event::NotLoaded { image, failure })) => not_loaded(context, &image, &failure),
            Ok(Some(Event::Check(check))) => {
                context.output.object(&json!({"event": "note", "note": check.finding}));
                context.output.line(&format!("note: {}", escape(&check.finding)));
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => {
                let error = match &args.input {
                    Some(path) => error.under(path.display().to_string()),
                    None => error,
                };
                result = Err(if any_loaded { Error { exit: Exit::SomeFailed, ..error } } else { error });
                break;
            }
        }
    }
    // The agent is done, or has failed before it read everything: then the feeder may still wait for bytes that nobody needs.
    if feeder.is_finished()
        && let Ok(Some(error)) = feeder.join()
    {
        return Err(Error::new(Exit::Failed, "cannot read the archive").because(error));
    }
    result.map(|()| Exit::Done)
}

fn loaded(context: &Context, reference: Option<&proto::Reference>, image_id: &proto::Digest) {
    let name = reference.map(proto::Reference::familiar);
    context.output.object(&json!({"event": "loaded", "image": name, "image_id": image_id.to_string()}));
    let id = image_id.short();
    match name {
        _ if context.output.is_quiet() => context.output.answer(&image_id.to_string()),
        Some(name) => context.output.line(&format!("loaded {name}  sha256:{id}")),
        None => context.output.line(&format!("loaded sha256:{id}, which has no name: imgctl tag {id} NAME")),
    }
}

fn not_loaded(context: &Context, image: &str, failure: &Failure) {
    let causes = Error::from(failure).to_string();
    context.output.object(&json!({"event": "not_loaded", "image": image, "reason": causes}));
    context.output.line(&format!("not loaded {}: {causes}", escape(image)));
}

/// Sends the archive on a thread of its own, while events are read here. Comes to the error when the archive cannot be read.
fn feed(mut sender: DataSender, mut source: Box<dyn Read + Send>) -> std::thread::JoinHandle<Option<std::io::Error>> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; DATA_BYTES];
        loop {
            match source.read(&mut buffer) {
                // That the agent listens no more is said by its last event.
                Ok(read_bytes) if sender.send(&buffer[..read_bytes]).is_err() || read_bytes == 0 => return None,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    sender.abandon();
                    return Some(error);
                }
            }
        }
    })
}
