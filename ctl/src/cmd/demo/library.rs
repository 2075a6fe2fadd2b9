//! The files that this program needs beside itself to run: its dynamic loader and shared libraries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file of an image.
#[derive(Debug, PartialEq)]
pub(super) enum Entry {
    /// With the bytes of this file.
    File(PathBuf),
    /// A symbolic link.
    Link(PathBuf),
}

/// Loader and libraries by their path in the image, with the links by which they are found. Empty for a static program.
pub(super) fn entries() -> std::io::Result<BTreeMap<PathBuf, Entry>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut entries = BTreeMap::new();
    for path in mapped(&maps) {
        for link in links_to(&path) {
            entries.insert(link, Entry::Link(path.clone()));
        }
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-")) {
            // Where programs look for the loader depends on the architecture and is written into them; these are the two places.
            for directory in ["/lib64", "/lib"] {
                let link = Path::new(directory).join(path.file_name().unwrap_or_default());
                if link != path {
                    entries.insert(link, Entry::Link(path.clone()));
                }
            }
        }
        entries.insert(path.clone(), Entry::File(path));
    }
    Ok(entries)
}

/// Shared objects in a list of mappings.
fn mapped(maps: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|start| PathBuf::from(&line[start..])))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so")))
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

/// Links beside a library that lead to it: a program asks for `libc.so.6`, the file may be `libc-2.31.so`.
fn links_to(library: &Path) -> Vec<PathBuf> {
    let Some(entries) = library.parent().and_then(|directory| std::fs::read_dir(directory).ok()) else { return vec![] };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()))
        .map(|entry| entry.path())
        .filter(|link| std::fs::canonicalize(link).is_ok_and(|target| target == library))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_objects_once_each() {
        let maps = "7f0 r--p 00000000 08:01 12   /usr/lib/libc.so.6\n7f1 r-xp 0 08:01 12   /usr/lib/libc.so.6\n\
                    7f2 r-xp 0 08:01 13  /usr/bin/imgctl\n7f3 rw-p 0 00:00 0   [heap]\n7f4 r-xp 0 08:01 14  /usr/lib/ld-linux-x86-64.so.2\n";
        assert_eq!(mapped(maps), [PathBuf::from("/usr/lib/ld-linux-x86-64.so.2"), PathBuf::from("/usr/lib/libc.so.6")]);
    }
}
