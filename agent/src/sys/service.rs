//! systemd: sockets that it opened, and news for it.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::UnixListener;

/// The first descriptor that systemd passes (sd_listen_fds(3)).
const FIRST_FD: i32 = 3;

/// The socket of `imgd.socket`, when systemd started us for it. Only the first call gets it.
#[allow(unsafe_code)]
pub fn inherited_listener() -> std::io::Result<Option<UnixListener>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let count = sd_notify::listen_fds().map(|fds| fds.count()).unwrap_or(0);
    if count == 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    // SAFETY: systemd opened descriptor 3 for this process (LISTEN_PID was checked), and `TAKEN` makes us its only owner.
    let socket = std::os::unix::net::UnixListener::from(unsafe { OwnedFd::from_raw_fd(FIRST_FD) });
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket).map(Some)
}

/// Ready to serve.
pub fn ready(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// About to stop.
pub fn stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}

/// Tells the watchdog that the runtime still turns, twice in each of its periods. Ends at once where there is no watchdog.
pub async fn feed_watchdog() {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval((period / 2).max(Duration::from_millis(100)));
    loop {
        tick.tick().await;
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
    }
}
