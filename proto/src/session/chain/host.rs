//! A host of a chain: what it has, and how fast it is.

use crate::limits::SOURCE_SILENCE_MS;

/// How long a host may take to get up to speed after its source has changed.
const SETTLE_MS: u64 = 150;

/// The same later, when its source has been busy with others and the link is full.
const SETTLE_AGAIN_MS: u64 = 1_000;

/// How long a host may be behind that has kept up before; and one that stood behind a slow one until now, or whose source did, and has to catch up.
const PATIENCE_MS: u64 = 1_500;
const PATIENCE_FIRST_MS: u64 = 500;

/// How long it may take until the first byte comes from there.
const REACH_MS: u64 = 1_500;

/// The same after a further change of the source. That one may say nothing: a host reports it as lost after [`SOURCE_SILENCE_MS`], and half a second
/// is for the way of the word and of the report. With less, the hosts behind a silent source change places before any of them reports it, for ever.
const REACH_AGAIN_MS: u64 = SOURCE_SILENCE_MS + 500;

/// What a rate is an average of: at least, and at most.
const RATE_MS: u64 = 100;
const RATE_MOST_MS: u64 = 500;

/// A host that was not heard of for so long stands still.
const UNHEARD_MS: u64 = 500;

/// What is known of a host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) joined_ms: u64,
    pub(super) done_ms: Option<u64>,
    /// When it joined.
    pub(super) had_bytes: u64,
    pub(super) have_bytes: u64,
    pub(super) from_head_bytes: u64,
    /// When and at how much the rate was taken last.
    mark: (u64, u64),
    /// Since its source is this one.
    pub(super) bytes_per_s: Option<u64>,
    moved_ms: u64,
    moved_bytes: u64,
    /// How often its source has changed; the first one counts.
    moves: u32,
    pub(super) lags_since_ms: Option<u64>,
    /// It was seen with its source when that was fast, and not only because neither had received much.
    pub(super) has_kept_up: bool,
    /// When somebody last said that it was lost.
    pub(super) lost_ms: Option<u64>,
    pub(super) pace: Pace,
    pub(super) state: State,
}

/// What is known of how fast a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// It has kept up so far.
    Fit,
    /// It fell behind once, at this rate; `None`: it was lost.
    Doubtful(Option<u64>),
    /// It fell behind again, at this rate.
    Slow(u64),
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Receiving,
    Done,
    Gone,
}

impl Host {
    /// One that joins with so much of the image.
    pub(super) fn new(had_bytes: u64, has_all: bool, pace: Pace, now_ms: u64) -> Self {
        Self {
            joined_ms: now_ms,
            done_ms: None,
            had_bytes,
            have_bytes: had_bytes,
            from_head_bytes: 0,
            mark: (now_ms, had_bytes),
            bytes_per_s: None,
            moved_ms: now_ms,
            moved_bytes: had_bytes,
            moves: 0,
            lags_since_ms: None,
            has_kept_up: false,
            lost_ms: None,
            pace,
            state: if has_all { State::Done } else { State::Receiving },
        }
    }

    /// It has had the time to get up to speed since its source changed.
    pub(super) fn is_settled(&self, now_ms: u64) -> bool {
        let least_ms = match self.have_bytes > self.moved_bytes {
            // At the beginning all do that together.
            true if self.moved_bytes == self.had_bytes => SETTLE_MS,
            true => SETTLE_AGAIN_MS,
            false if self.moves > 1 => REACH_AGAIN_MS,
            false => REACH_MS,
        };
        now_ms >= self.moved_ms + least_ms || self.state != State::Receiving
    }

    /// Its rate; of one that says nothing any more, what it has come to since.
    pub(super) fn pace_now(&self, now_ms: u64) -> Option<u64> {
        let (since_ms, had_bytes) = self.mark;
        let elapsed_ms = now_ms.saturating_sub(since_ms);
        match elapsed_ms > UNHEARD_MS {
            true => Some(self.have_bytes.saturating_sub(had_bytes) * 1000 / elapsed_ms),
            false => self.bytes_per_s,
        }
    }

    /// How long it may be behind its source until it is slow.
    pub(super) fn patience_ms(&self, source: &Self) -> u64 {
        let catches_up = self.moves > 1 || source.moved_ms > self.moved_ms;
        match self.has_kept_up || self.moved_bytes > self.had_bytes {
            true => PATIENCE_MS,
            false if catches_up || self.pace != Pace::Fit => PATIENCE_FIRST_MS,
            false => 0,
        }
    }

    /// It has so much now.
    pub(super) fn progress(&mut self, have_bytes: u64, now_ms: u64) {
        self.have_bytes = have_bytes;
        if have_bytes == self.moved_bytes {
            // The way to a new source is not part of its pace.
            self.mark = (now_ms, have_bytes);
        }
        let elapsed_ms = now_ms.saturating_sub(self.mark.0);
        if elapsed_ms >= RATE_MS {
            self.bytes_per_s = Some(have_bytes.saturating_sub(self.mark.1) * 1000 / elapsed_ms);
        }
        if elapsed_ms >= RATE_MOST_MS {
            self.mark = (now_ms, have_bytes);
        }
    }

    /// Its source is another one: what its rate was says nothing any more.
    pub(super) fn moved(&mut self, now_ms: u64) {
        (self.moved_ms, self.moved_bytes, self.lags_since_ms) = (now_ms, self.have_bytes, None);
        self.moves = self.moves.saturating_add(1);
        (self.bytes_per_s, self.mark) = (None, (now_ms, self.have_bytes));
    }
}
