//! `imgctl save IMAGE…`

use std::io::Write;
use std::path::{Path, PathBuf};

use proto::control::{ArchiveFormat, Compression, Event, Request, Save};
use serde_json::json;

use super::platforms;
use crate::archive::PartFile;
use crate::connection::Connection;
use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::format::size;

/// Write images to a tar archive
///
/// The default form is both docker-archive and OCI image layout, and every engine loads it. The file appears under its name only
/// when it is complete; it is written with your rights, not with the agent's.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  imgctl save -o demo.tar.zst demo:nautilus
  imgctl save demo:nautilus | ssh stapp09 docker load")]
pub(crate) struct Args {
    /// Names or IDs of the images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// File to write, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Form of the archive
    #[arg(long, value_enum, default_value_t = Format::Docker)]
    format: Format,
    /// Compression of the whole archive [default: by the file's suffix: .gz, .tgz, .zst]
    #[arg(long, value_enum, value_name = "HOW")]
    compress: Option<Compress>,
    #[command(flatten)]
    platforms: platforms::Args,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// docker-archive and OCI image layout in one
    Docker,
    /// OCI image layout alone
    Oci,
}

#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum Compress {
    /// Plain tar
    None,
    /// gzip
    Gzip,
    /// zstd, which engines from Docker 23 on read
    Zstd,
}

/// Saves.
pub(crate) fn run(context: &Context, args: Args) -> super::Result {
    if args.output.is_none() && context.output.stdout_is_terminal() {
        return Err(Error::usage("an archive is not for a terminal").hint("imgctl save -o FILE IMAGE, or imgctl save IMAGE | …"));
    }
    let suffix = args.output.as_deref().and_then(Path::extension).and_then(|suffix| suffix.to_str());
    if let (None, Some(suffix @ ("xz" | "bz2" | "lz4" | "lzma" | "zip"))) = (args.compress, suffix) {
        let hint = "imgctl save packs with gzip and zstd (.gz, .tgz, .zst); imgctl save IMAGE | xz > FILE does it by hand, --compress none says that the name is meant so";
        return Err(Error::usage(format!("an archive is not packed as .{suffix} here")).hint(hint));
    }
    let compression = match args.compress.unwrap_or_else(|| by_suffix(args.output.as_deref())) {
        Compress::None => Compression::None,
        Compress::Gzip => Compression::Gzip,
        Compress::Zstd => Compression::Zstd,
    };
    let format = match args.format {
        Format::Docker => ArchiveFormat::Docker,
        Format::Oci => ArchiveFormat::Oci,
    };
    let mut connection =
        context.ask(&Request::Save(Save { images: args.images, format, compression, platforms: args.platforms.into() }))?;
    match &args.output {
        Some(path) => save_file(context, &mut connection, path),
        None => save_stdout(context, &mut connection),
    }
}

fn save_file(context: &Context, connection: &mut Connection, path: &Path) -> super::Result {
    let mut file = PartFile::create(path).map_err(|error| Error::file("cannot write", path, &error))?;
    let written_bytes = receive(connection, &mut file).map_err(|broken| broken.error(&path.display().to_string()))?;
    file.finish().map_err(|error| Error::file("cannot write", path, &error))?;
    context.output.object(&json!({"event": "saved", "file": path.display().to_string(), "bytes": written_bytes}));
    context.output.line(&format!("saved {}, {}", proto::text::escape(&path.display().to_string()), size(written_bytes)));
    Ok(Exit::Done)
}

fn save_stdout(context: &Context, connection: &mut Connection) -> super::Result {
    let mut stdout = context.output.raw();
    match receive(connection, &mut stdout) {
        Ok(_) => Ok(Exit::Done),
        // Whoever read it has had enough, and says itself whether that was a failure.
        Err(Broken::Sink(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Exit::Failed),
        Err(broken) => Err(broken.error("standard output")),
    }
}

/// Which end of a save broke.
enum Broken {
    Agent(Error),
    Sink(std::io::Error),
}

impl Broken {
    fn error(self, sink: &str) -> Error {
        match self {
            Self::Agent(error) => error,
            Self::Sink(error) => Error::new(Exit::Failed, format!("cannot write {sink}")).because(error),
        }
    }
}

/// Writes the archive as it comes. Complete only when the agent said so.
fn receive(connection: &mut Connection, sink: &mut dyn Write) -> Result<u64, Broken> {
    let mut buffer = vec![];
    let mut written_bytes = 0;
    while let Some(event) = connection.event().map_err(Broken::Agent)? {
        if event != Event::Data {
            continue;
        }
        loop {
            let bytes = connection.data(&mut buffer).map_err(Broken::Agent)?;
            if bytes.is_empty() {
                break;
            }
            sink.write_all(bytes).map_err(Broken::Sink)?;
            written_bytes += bytes.len() as u64;
        }
        sink.flush().map_err(Broken::Sink)?;
    }
    Ok(written_bytes)
}

fn by_suffix(path: Option<&Path>) -> Compress {
    match path.and_then(Path::extension).and_then(|suffix| suffix.to_str()) {
        Some("gz" | "tgz") => Compress::Gzip,
        Some("zst" | "tzst") => Compress::Zstd,
        _ => Compress::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_decides() {
        for (name, compress) in [
            ("a.tar.gz", Compress::Gzip),
            ("a.tgz", Compress::Gzip),
            ("a.tar.zst", Compress::Zstd),
            ("a.tar", Compress::None),
            ("gz", Compress::None),
        ] {
            assert_eq!(by_suffix(Some(Path::new(name))), compress, "{name}");
        }
        assert_eq!(by_suffix(None), Compress::None);
    }
}
