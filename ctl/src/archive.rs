//! A file that appears under its name only when it is complete.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// `.NAME.part` beside `NAME` until it is finished; gone when it is dropped before. What is no regular file (a pipe, a device) is
/// written as it is.
pub(crate) struct PartFile {
    file: File,
    /// `None` when there is nothing to rename.
    path: Option<PathBuf>,
    part: PathBuf,
    finished: bool,
}

impl PartFile {
    /// Begins to write `path`. Refused while another one writes it.
    pub(crate) fn create(path: &Path) -> std::io::Result<Self> {
        let invalid = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a file name");
        // A link is followed, so that the file behind it is replaced and not the link.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if path.metadata().is_ok_and(|data| !data.is_file()) {
            let file = OpenOptions::new().write(true).open(&path)?;
            return Ok(Self { file, path: None, part: PathBuf::new(), finished: false });
        }
        let name = path.file_name().ok_or_else(invalid)?;
        let mut part_name = std::ffi::OsString::from(".");
        part_name.push(name);
        part_name.push(".part");
        let part = path.with_file_name(part_name);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&part)?;
        let busy = |_| std::io::Error::new(std::io::ErrorKind::ResourceBusy, "another imgctl is writing it");
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(busy)?;
        file.set_len(0)?;
        Ok(Self { file, path: Some(path), part, finished: false })
    }

    /// Gives the file its name. It is on disk then.
    pub(crate) fn finish(mut self) -> std::io::Result<()> {
        if let Some(path) = &self.path {
            self.file.sync_all()?;
            std::fs::rename(&self.part, path)?;
        }
        self.finished = true;
        Ok(())
    }
}

impl Write for PartFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if self.path.is_some() && !self.finished {
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let names = || std::fs::read_dir(dir.path()).unwrap().count();
        let mut file = PartFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert!(dir.path().join(".a.tar.part").exists() && !path.exists());
        assert!(PartFile::create(&path).is_err_and(|error| error.to_string().contains("another imgctl")));
        drop(file);
        assert_eq!(names(), 0);
        let mut file = PartFile::create(&path).unwrap();
        file.write_all(b"whole").unwrap();
        file.finish().unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), names()), (b"whole".to_vec(), 1));
    }

    #[test]
    fn devices_are_written_in_place() {
        let mut file = PartFile::create(Path::new("/dev/null")).unwrap();
        file.write_all(b"x").unwrap();
        file.finish().unwrap();
        assert!(PartFile::create(Path::new("/nowhere/a.tar")).is_err());
    }
}
