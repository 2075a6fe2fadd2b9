//! The passphrase of a backup.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::Error;

/// Bytes of a passphrase file that are read: more is no passphrase.
const BYTES: u64 = 4096;

/// Reads a passphrase: the first line of a file. It is never an argument, which other users of this host could read.
pub(super) fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    let mut text = Zeroizing::new(String::new());
    let read = File::open(path).and_then(|file| file.take(BYTES).read_to_string(&mut text));
    read.map_err(|error| Error::file("cannot read the passphrase from", path, &error))?;
    let passphrase = text.lines().next().unwrap_or_default();
    if passphrase.is_empty() {
        return Err(Error::usage(format!("the first line of {} is empty: it is the passphrase", path.display())));
    }
    Ok(Zeroizing::new(passphrase.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_passphrase() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passphrase");
        for text in ["correct horse", "correct horse\n", "correct horse\r\nnext\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(*read(&path).unwrap(), "correct horse");
        }
        std::fs::write(&path, "\nsecond\n").unwrap();
        assert!(read(&path).is_err() && read(directory.path()).is_err());
    }
}
