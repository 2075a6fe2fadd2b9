//! How much fits on the terminal.

use std::os::fd::AsFd;

/// Lines and characters of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Lines.
    pub(crate) rows: usize,
    /// Characters of a line.
    pub(crate) columns: usize,
}

/// What every terminal had, and what is taken for one that does not say.
const USUAL: Size = Size { rows: 24, columns: 80 };

/// The size that the terminal has now: it may change at any time.
pub(crate) fn size(terminal: impl AsFd) -> Size {
    let Ok(said) = rustix::termios::tcgetwinsize(terminal) else { return USUAL };
    let or = |said: u16, usual| if said == 0 { usual } else { usize::from(said) };
    Size { rows: or(said.ws_row, USUAL.rows), columns: or(said.ws_col, USUAL.columns) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_terminal_has_the_usual_size() {
        assert_eq!(std::fs::File::open("/dev/null").map(size).ok(), Some(USUAL));
    }
}
