//! Changes of the addresses of this host, as the kernel tells them.

use std::io;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::net::UnixDatagram;

/// Groups of rtnetlink(7): addresses of IPv4 and of IPv6 (`RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR`).
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;

/// Changes come in flocks: an address goes, and another one comes.
const SETTLED: Duration = Duration::from_millis(100);

/// Of a message, and the scope from which on an address counts on one link only (`RT_SCOPE_LINK`).
const HEADER_BYTES: usize = 16;
const SCOPE_LINK: u8 = 253;

/// Hears of changes.
#[derive(Debug)]
pub struct AddressChanges(UnixDatagram);

impl AddressChanges {
    /// From now on.
    pub fn watch() -> io::Result<Self> {
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, ADDRESS_GROUPS))?;
        // A socket of datagrams that is only read from: which family it is of does not matter for that.
        Ok(Self(UnixDatagram::from_std(StdDatagram::from(socket))?))
    }

    /// Resolves a moment after addresses have come or gone. What exactly is for the caller to look up.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.heard().await?;
        let flock = async {
            while let Ok(heard) = tokio::time::timeout(SETTLED, self.heard()).await {
                heard?;
            }
            Ok(())
        };
        tokio::time::timeout(10 * SETTLED, flock).await.unwrap_or(Ok(()))
    }

    async fn heard(&mut self) -> io::Result<()> {
        let mut messages = [0; 8192];
        loop {
            match self.0.recv(&mut messages).await {
                // Too many at once for the kernel to keep them: that something has changed is all that matters.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => return Ok(()),
                Err(error) => return Err(error),
                Ok(length) if is_of_network(&messages[..length]) => return Ok(()),
                // Every container that starts brings a link-local address.
                Ok(_) => {}
            }
        }
    }
}

/// Whether one of these messages is about an address that other networks know (`nlmsghdr`, then `ifaddrmsg`, whose fourth byte is the scope).
fn is_of_network(mut messages: &[u8]) -> bool {
    while let Some((header, rest)) = messages.split_first_chunk::<HEADER_BYTES>() {
        if rest.get(3).is_some_and(|scope| *scope < SCOPE_LINK) {
            return true;
        }
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        messages = messages.get(length.max(HEADER_BYTES).next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_link_do_not_count() {
        let message = |scope: u8| {
            let mut message = vec![24, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 24, 0, scope, 1, 0, 0, 0];
            message[..4].copy_from_slice(&24u32.to_ne_bytes());
            message
        };
        assert!(is_of_network(&message(0)) && is_of_network(&[message(253), message(0)].concat()));
        assert!(!is_of_network(&message(253)) && !is_of_network(&message(254)) && !is_of_network(&[0; 40][..15]) && !is_of_network(&[]));
    }
}
