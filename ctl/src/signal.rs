//! Ctrl-C and its like: what is under way is told to stop, and the program ends through `main` all the same.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long a command may take to put things in order after a signal. A second signal ends it at once.
const GRACE: Duration = Duration::from_secs(10);

type Hook = Box<dyn FnOnce() + Send>;

/// Says whether a signal came, and what is done when one does.
#[derive(Clone, Default)]
pub(crate) struct Interrupt(Arc<Shared>);

#[derive(Default)]
struct Shared {
    came: AtomicBool,
    hooks: Mutex<Vec<Hook>>,
}

impl Interrupt {
    /// True from the first signal on.
    pub(crate) fn came(&self) -> bool {
        self.0.came.load(Ordering::SeqCst)
    }

    /// Runs `hook` when a signal comes; at once when it came already. Hooks of things that are gone must be harmless.
    pub(crate) fn on_signal(&self, hook: impl FnOnce() + Send + 'static) {
        self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
        if self.came() {
            self.run_hooks();
        }
    }

    fn raise(&self) {
        self.0.came.store(true, Ordering::SeqCst);
        self.run_hooks();
    }

    fn run_hooks(&self) {
        let hooks = std::mem::take(&mut *self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner));
        for hook in hooks {
            hook();
        }
    }
}

/// What the waiting thread hears.
enum News<T> {
    Finished(Option<T>),
    Signal,
}

/// Runs `work` on a thread of its own, so that a signal is heard even while it blocks. `None`: it did not end in time after a
/// signal, or it panicked.
pub(crate) fn run<T: Send + 'static>(interrupt: &Interrupt, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = channel();
    listen(sender.clone());
    // What `work` shares with this thread is behind locks that outlive a panic.
    std::thread::spawn(move || sender.send(News::Finished(catch_unwind(AssertUnwindSafe(work)).ok())));
    wait(interrupt, &receiver)
}

fn listen<T: Send + 'static>(sender: Sender<News<T>>) {
    // Without a handler the signals do what they do by default, which is to end the program: worse, but not wrong.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if sender.send(News::Signal).is_err() {
                return;
            }
        }
    });
}

fn wait<T>(interrupt: &Interrupt, receiver: &Receiver<News<T>>) -> Option<T> {
    match receiver.recv() {
        Ok(News::Finished(result)) => return result,
        Ok(News::Signal) => interrupt.raise(),
        Err(_) => return None,
    }
    match receiver.recv_timeout(GRACE) {
        Ok(News::Finished(result)) => result,
        Ok(News::Signal) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_run_once_and_late_ones_at_once() {
        let interrupt = Interrupt::default();
        let (sender, receiver) = channel();
        let late = sender.clone();
        interrupt.on_signal(move || assert!(sender.send(1).is_ok()));
        assert!(!interrupt.came() && receiver.try_recv().is_err());
        interrupt.raise();
        interrupt.raise();
        interrupt.on_signal(move || assert!(late.send(2).is_ok()));
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2]);
    }
}
