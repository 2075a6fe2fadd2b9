//! Bytes that arrive in an async task, for code that reads in a thread of its own.

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// What comes in, for whoever reads in a thread that may wait.
pub(super) struct Blocks {
    blocks: mpsc::Receiver<Bytes>,
    block: Bytes,
}

impl Blocks {
    /// The end of a channel.
    pub(super) fn new(blocks: mpsc::Receiver<Bytes>) -> Self {
        Self { blocks, block: Bytes::new() }
    }
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.len().min(buffer.len());
        self.block.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

impl BufRead for Blocks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.block.is_empty() {
            match self.blocks.blocking_recv() {
                Some(block) => self.block = block,
                None => break,
            }
        }
        Ok(&self.block)
    }

    fn consume(&mut self, amount: usize) {
        self.block.advance(amount);
    }
}
