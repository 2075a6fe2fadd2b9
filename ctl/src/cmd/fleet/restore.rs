//! `imgctl fleet restore`

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use proto::control::Fleet;
use proto::limits::FRAME;

use super::passphrase;
use crate::age::{self, AgeError};
use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Make this host hold the key of the fleet, from a backup
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Backup to read, instead of standard input
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Decrypt with the passphrase in the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Restores.
pub(super) fn run(context: &Context, args: &Args) -> super::super::Result {
    let mut backup = vec![];
    // One byte more than a request holds is enough to see that it is too long.
    let limit = FRAME as u64;
    let read = match &args.input {
        Some(path) => File::open(path).and_then(|file| file.take(limit).read_to_end(&mut backup)),
        None if std::io::stdin().is_terminal() => {
            return Err(Error::usage("a backup is not typed at a terminal").hint("imgctl fleet restore -i FILE"));
        }
        None => std::io::stdin().take(limit).read_to_end(&mut backup),
    };
    let path = args.input.as_deref().unwrap_or(Path::new("standard input"));
    read.map_err(|error| Error::file("cannot read", path, &error))?;
    if backup.len() as u64 == limit {
        return Err(Error::usage(format!("{} is too long for a backup", path.display())));
    }
    super::enter(context, Fleet::Restore(decrypted(backup, path, args.passphrase_file.as_deref())?))
}

fn decrypted(backup: Vec<u8>, path: &Path, passphrase_file: Option<&Path>) -> Result<Vec<u8>, Error> {
    let path = path.display();
    let Some(passphrase_file) = passphrase_file else {
        if age::is_encrypted(&backup) {
            return Err(Error::usage(format!("{path} is encrypted")).hint("imgctl fleet restore -i FILE --passphrase-file FILE"));
        }
        return Ok(backup);
    };
    let passphrase = passphrase::read(passphrase_file)?;
    age::decrypt(&backup, &passphrase).map(|plain| plain.to_vec()).map_err(|error| match error {
        AgeError::NotEncrypted => {
            Error::usage(format!("{path} is not encrypted")).hint("imgctl fleet restore -i FILE, without --passphrase-file")
        }
        error => Error::new(Exit::Failed, format!("cannot decrypt {path}"))
            .because(error)
            .hint("imgctl fleet backup, on a host that holds the key of the fleet, makes a new one"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_decrypted_when_it_is_encrypted() {
        let directory = tempfile::tempdir().unwrap();
        let (right, wrong) = (directory.path().join("right"), directory.path().join("wrong"));
        std::fs::write(
            &right,
            "correct horse
",
        )
        .unwrap();
        std::fs::write(
            &wrong,
            "battery staple
",
        )
        .unwrap();
        let (plain, path) = (
            b"imgd_fleet_backup = 1
"
            .to_vec(),
            Path::new("fleet.backup"),
        );
        let encrypted = age::encrypt(&plain, "correct horse").unwrap();
        let mut damaged = encrypted.clone();
        damaged.truncate(damaged.len() / 2);
        assert_eq!(decrypted(plain.clone(), path, None).unwrap(), plain);
        assert_eq!(decrypted(encrypted.clone(), path, Some(&right)).unwrap(), plain);
        for (backup, passphrase_file, exit, words) in [
            (encrypted.clone(), Some(&wrong), Exit::Failed, "cannot decrypt fleet.backup: the passphrase is wrong"),
            (damaged, Some(&right), Exit::Failed, "cannot decrypt fleet.backup: the file is damaged"),
            (encrypted, None, Exit::Usage, "fleet.backup is encrypted"),
            (plain, Some(&right), Exit::Usage, "fleet.backup is not encrypted"),
        ] {
            let error = decrypted(backup, path, passphrase_file.map(PathBuf::as_path)).unwrap_err();
            assert_eq!((error.exit, error.to_string().as_str()), (exit, words));
            assert!(error.hint.is_some());
        }
    }
}
