//! A layer with everything that makes tar archives hard to put together again.

use bytes::Bytes;

/// Hard links, long names, names that are no text, whiteouts, an opaque directory, links, an empty file, extended headers, and what follows the end.
pub(crate) fn layer() -> Bytes {
    let mut tar = tar::Builder::new(vec![]);
    let put = |tar: &mut tar::Builder<Vec<u8>>, path: &[u8], kind: tar::EntryType, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o640 });
        header.set_uid(12);
        header.set_mtime(1_234_567);
        header.set_cksum();
        tar.append(&header, content).unwrap();
    };
    put(&mut tar, b"./", tar::EntryType::Directory, b"");
    put(&mut tar, b"./dir/", tar::EntryType::Directory, b"");
    put(&mut tar, b"./dir/file", tar::EntryType::Regular, &[7; 100_001]);
    put(&mut tar, b"dir/empty", tar::EntryType::Regular, b"");
    put(&mut tar, b"/absolute", tar::EntryType::Regular, b"from the root");
    put(&mut tar, b"dir/caf\xe9", tar::EntryType::Regular, b"latin-1");
    put(&mut tar, b"dir/.wh.gone", tar::EntryType::Regular, b"");
    put(&mut tar, b"opaque/", tar::EntryType::Directory, b"");
    put(&mut tar, b"opaque/.wh..wh..opq", tar::EntryType::Regular, b"");
    put(&mut tar, b"opaque/x", tar::EntryType::Regular, b"x");
    put(&mut tar, b"fifo", tar::EntryType::Fifo, b"");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    header.set_mode(0o640);
    tar.append_link(&mut header, "hard", "dir/file").unwrap();
    header.set_entry_type(tar::EntryType::Symlink);
    tar.append_link(&mut header, "soft", "dir").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o4755);
    tar.append_data(&mut header, format!("{}/long", "n".repeat(180)), &b"gnu\n"[..]).unwrap();
    tar.append_pax_extensions([("SCHILY.xattr.user.note", &b"value"[..]), ("mtime", b"1234567.25")]).unwrap();
    tar.append_data(&mut header, "pax", &b"pax\n"[..]).unwrap();
    let mut bytes = tar.into_inner().unwrap();
    // GNU tar fills its last record.
    bytes.resize(bytes.len().next_multiple_of(10_240), 0);
    bytes.into()
}
