//! A network interface whose packets a program carries (`Documentation/networking/tuntap.rst` of the kernel).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// Makes an interface of this name in the network namespace of this thread. Each read and write is one IP packet; neither waits.
pub fn open(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut request = [0u8; size_of::<libc::ifreq>()];
    let name = name.as_bytes();
    assert!(name.len() < libc::IFNAMSIZ);
    request[..name.len()].copy_from_slice(name);
    // `ifr_flags`, behind the name.
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    request[libc::IFNAMSIZ..][..2].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the request is as long as an `ifreq`, of which the kernel reads the name and the flags, and writes the name.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}
