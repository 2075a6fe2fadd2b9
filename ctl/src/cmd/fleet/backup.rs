//! `imgctl fleet backup`

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use proto::control::{Event, Fleet, Request};
use serde_json::json;
use zeroize::Zeroizing;

use super::passphrase;
use crate::age;
use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Write the key of the fleet to a file, for another host or a bad day
///
/// Whoever has the file rules the fleet: keep it where you keep private keys. With --passphrase-file it is of no use without the passphrase.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File to write, which must not exist, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Encrypt with the passphrase in the first line of this file, as age -p does
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Writes the backup, readable only for its owner.
pub(super) fn run(context: &Context, args: &Args) -> super::super::Result {
    if args.output.is_none() && context.output.stdout_is_terminal() {
        return Err(Error::usage("a key is not for a terminal").hint("imgctl fleet backup -o FILE"));
    }
    let passphrase = args.passphrase_file.as_deref().map(passphrase::read).transpose()?;
    let mut backup = Zeroizing::new(vec![]);
    context.each(&Request::Fleet(Fleet::Backup), |event| {
        if let Event::Backup(bytes) = event {
            backup = Zeroizing::new(bytes);
        }
    })?;
    if let Some(passphrase) = &passphrase {
        let encrypted = age::encrypt(&backup, passphrase);
        backup = encrypted.map(Zeroizing::new).map_err(|error| Error::new(Exit::Failed, "cannot encrypt the backup").because(error))?;
    }
    let Some(path) = &args.output else {
        let written = context.output.raw().write_all(&backup);
        return written.map(|()| Exit::Done).map_err(|error| Error::new(Exit::Failed, "cannot write to standard output").because(error));
    };
    write(path, &backup).map_err(|error| Error::file("cannot write", path, &error).hint("imgctl fleet backup -o NEW-FILE"))?;
    context.output.object(&json!({"event": "backup", "file": path.display().to_string()}));
    let path = proto::text::escape(&path.display().to_string());
    context.output.line(&match passphrase {
        None => format!("wrote the key of the fleet to {path}: keep it secret; imgctl fleet restore -i {path} uses it"),
        Some(_) => {
            format!("wrote the key of the fleet to {path}, encrypted; imgctl fleet restore -i {path} --passphrase-file FILE uses it")
        }
    });
    Ok(Exit::Done)
}

/// Never over something that is there: that may be the only other copy.
fn write(path: &Path, backup: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(backup).and_then(|()| file.sync_all()).inspect_err(|_| drop(std::fs::remove_file(path)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_reads_it_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write(&path, b"secret").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(&path, b"other").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
    }
}
