//! Groups of the system, from whatever source it has them: files, LDAP.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;

/// Room for the members of a group: the lookup is repeated with ten times as much until it fits.
const BUFFER: usize = 16 * 1024;
const BUFFER_MAX: usize = 16 * 1024 * 1024;

/// Number of the group with this name. Blocks. An error is no "not found": it may be a directory server that does not answer.
pub fn id(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    // SAFETY: `name` ends with a zero byte and lives through the call; the rest is as `lookup` promises.
    #[allow(unsafe_code)]
    lookup(|group, buffer, length, found| unsafe { libc::getgrnam_r(name.as_ptr(), group, buffer, length, found) }, |group| group.gr_gid)
}

/// Name of the group with this number. Blocks.
pub fn name(id: u32) -> io::Result<Option<String>> {
    // SAFETY: the pointers are as `lookup` promises.
    #[allow(unsafe_code)]
    let found = |group, buffer, length, found| unsafe { libc::getgrgid_r(id, group, buffer, length, found) };
    // SAFETY: the name of a group that was found is a C string in the buffer, which lives while this runs.
    #[allow(unsafe_code)]
    lookup(found, |group| unsafe { CStr::from_ptr(group.gr_name) }.to_string_lossy().into_owned())
}

/// Calls one of the `getgr…_r` functions with a group, a buffer, its length, and a place for the result, all of which live through the call and
/// through `read`.
fn lookup<T>(
    call: impl Fn(*mut libc::group, *mut c_char, usize, *mut *mut libc::group) -> c_int,
    read: impl FnOnce(&libc::group) -> T,
) -> io::Result<Option<T>> {
    let mut length = BUFFER;
    loop {
        let mut buffer = vec![0 as c_char; length];
        let mut group = std::mem::MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        match call(group.as_mut_ptr(), buffer.as_mut_ptr(), length, &mut found) {
            0 if found.is_null() => return Ok(None),
            // SAFETY: the function has found a group, and written it to `group`, to which `found` points now.
            #[allow(unsafe_code)]
            0 => return Ok(Some(read(unsafe { &*found }))),
            libc::ERANGE if length < BUFFER_MAX => length *= 10,
            // What else "not found" is called (getgrnam(3)).
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_a_number_and_a_name() {
        assert_eq!(id("root").unwrap(), Some(0));
        assert_eq!(name(0).unwrap().as_deref(), Some("root"));
        assert_eq!(id("no-such-group-here").unwrap(), None);
        assert_eq!(name(u32::MAX - 7).unwrap(), None);
        assert!(id("a\0b").is_err());
    }
}
