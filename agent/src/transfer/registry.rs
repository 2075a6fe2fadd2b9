//! Transfers that run, and the last ones that ran: for `status` and `cancel`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use proto::control::{TransferRow, TransferState};
use tokio_util::sync::CancellationToken;

/// Bytes of ended transfers that are remembered, however many jobs they belong to.
const RECENT_BYTES: usize = 4 * 1024 * 1024;

/// All of them, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Transfers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next_id: AtomicU64,
    entries: Mutex<VecDeque<Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    row: Mutex<TransferRow>,
    started: Instant,
    cancel: CancellationToken,
}

/// One transfer, from the side of whoever does it. Dropped without an end, it was cancelled.
#[derive(Debug)]
pub struct Transfer {
    entry: Arc<Entry>,
}

impl Transfers {
    /// A new number, for all that one command asks for.
    pub fn number(&self) -> u64 {
        self.0.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The next number is a higher one than this.
    pub fn after(&self, id: u64) {
        self.0.next_id.fetch_max(id, Ordering::Relaxed);
    }

    /// One of an earlier life of the agent.
    pub fn remember(&self, row: TransferRow) {
        let entry = Arc::new(Entry { row: Mutex::new(row), started: Instant::now(), cancel: CancellationToken::new() });
        self.push(entry);
    }

    /// A new one, under this number. It is cancelled with `parent`.
    pub fn start(&self, id: u64, incoming: bool, image: &str, host: &str, parent: &CancellationToken) -> Transfer {
        let (image, host) = (image.to_owned(), host.to_owned());
        let row = TransferRow { id, incoming, image, host, state: TransferState::Running, done_bytes: 0, total_bytes: 0, elapsed_ms: 0 };
        let entry = Arc::new(Entry { row: Mutex::new(row), started: Instant::now(), cancel: parent.child_token() });
        self.push(entry.clone());
        Transfer { entry }
    }

    /// It was no transfer: the other side asks again.
    pub fn forget(&self, transfer: &Transfer) {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| !Arc::ptr_eq(entry, &transfer.entry));
    }

    fn push(&self, entry: Arc<Entry>) {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let ended_bytes = |entry: &Arc<Entry>| if entry.is_running() { 0 } else { entry.bytes() };
        let mut bytes: usize = entries.iter().map(ended_bytes).sum();
        if bytes > RECENT_BYTES {
            entries.retain(|entry| {
                let ended = ended_bytes(entry);
                let is_forgotten = bytes > RECENT_BYTES && ended > 0;
                bytes -= if is_forgotten { ended } else { 0 };
                !is_forgotten
            });
        }
        entries.push_back(entry);
    }

    /// Rows for `status`.
    pub fn rows(&self) -> Vec<TransferRow> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|entry| entry.row()).collect()
    }

    /// Cancels what runs under this number. False: nothing does.
    pub fn cancel(&self, id: u64) -> bool {
        let entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let running = entries.iter().filter(|entry| entry.row().id == id && entry.is_running());
        running.map(|entry| entry.cancel.cancel()).count() > 0
    }
}

impl Entry {
    fn row(&self) -> TransferRow {
        let mut row = self.row.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if matches!(row.state, TransferState::Running | TransferState::Waiting) {
            row.elapsed_ms = self.started.elapsed().as_millis() as u64;
        }
        row
    }

    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        let row = self.row.lock().unwrap_or_else(PoisonError::into_inner);
        256 + row.image.len() + row.host.len()
    }

    fn is_running(&self) -> bool {
        matches!(self.row().state, TransferState::Running | TransferState::Waiting)
    }
}

impl Transfer {
    /// False: it has ended.
    pub fn is_running(&self) -> bool {
        self.entry.is_running()
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.entry.row().id
    }

    /// Cancelled by `cancel`, by the client that goes away, or by the end of the agent.
    pub fn cancelled(&self) -> CancellationToken {
        self.entry.cancel.clone()
    }

    /// Bytes that have travelled so far.
    pub fn done_bytes(&self) -> u64 {
        self.entry.row().done_bytes
    }

    /// Since it started.
    pub fn elapsed_ms(&self) -> u64 {
        self.entry.started.elapsed().as_millis() as u64
    }

    /// How many bytes have to travel, and have travelled.
    pub fn progress(&self, done_bytes: u64, total_bytes: u64) {
        let mut row = self.entry.row.lock().unwrap_or_else(PoisonError::into_inner);
        (row.done_bytes, row.total_bytes, row.state) = (done_bytes, total_bytes, TransferState::Running);
    }

    /// So many bytes have travelled.
    pub fn received(&self, done_bytes: u64) {
        let mut row = self.entry.row.lock().unwrap_or_else(PoisonError::into_inner);
        (row.done_bytes, row.state) = (done_bytes, TransferState::Running);
    }

    /// The other host does not answer at the moment.
    pub fn waiting(&self) {
        self.entry.row.lock().unwrap_or_else(PoisonError::into_inner).state = TransferState::Waiting;
    }

    /// The end.
    pub fn end(&self, state: TransferState) {
        let elapsed_ms = self.elapsed_ms();
        let mut row = self.entry.row.lock().unwrap_or_else(PoisonError::into_inner);
        (row.state, row.elapsed_ms) = (state, elapsed_ms);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.entry.is_running() {
            self.end(TransferState::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered_and_running_ones_never_forgotten() {
        let transfers = Transfers::default();
        let root = CancellationToken::new();
        let running = transfers.start(transfers.number(), false, "demo:1", "a", &root);
        transfers.forget(&transfers.start(transfers.number(), true, "demo:1", "b", &root));
        let name = "x".repeat(4000);
        for _ in 0..2 * RECENT_BYTES / 4000 {
            transfers.start(transfers.number(), true, &name, "b", &root).end(TransferState::Done);
        }
        let rows = transfers.rows();
        assert!(rows.len() > 500 && rows.len() < RECENT_BYTES / 4000 + 10, "{}", rows.len());
        assert_eq!(rows[0].id, running.id());
        assert!(transfers.cancel(running.id()) && running.cancelled().is_cancelled());
        assert!(!transfers.cancel(rows[1].id), "an ended transfer cannot be cancelled");
        drop(running);
        assert_eq!(transfers.rows()[0].state, TransferState::Cancelled);
    }
}
