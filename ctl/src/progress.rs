//! Bars on a terminal. The only file that names indicatif.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use proto::Digest;
use proto::control::{Event, Planned, Progress};

use crate::format::{duration_ms, size};
use crate::report::{Fleet, lines, view};
use crate::terminal::{self, Size};

/// Often enough to seem smooth.
const TICK: Duration = Duration::from_millis(100);

/// No more often than that, however many bars there are.
const DRAWS_PER_S: u8 = 10;

/// What is drawn while images travel.
pub(crate) enum Bars {
    /// To one host: a bar for every layer and, with several, one for all of them.
    Layers(Layers),
    /// To many: as much of them as fits.
    Hosts(Hosts),
}

/// The layers of images on their way to one host.
pub(crate) struct Layers {
    all: MultiProgress,
    hosts: HashMap<(String, String), Host>,
    /// What the source does before bytes come.
    hashing: Option<ProgressBar>,
}

/// The hosts of a fan-out. How they are shown is not decided here.
pub(crate) struct Hosts(ProgressBar);

/// An image on its way to a host.
struct Host {
    /// Layer by layer.
    layers: HashMap<Digest, ProgressBar>,
    /// The sum, when it is shown.
    total: Option<ProgressBar>,
    verified: HashMap<Digest, u64>,
    sizes: HashMap<Digest, u64>,
    /// Of which bytes have come since the plan.
    started: HashSet<Digest>,
}

impl Bars {
    /// A bar for every layer.
    pub(crate) fn layers() -> Self {
        Self::Layers(Layers { all: MultiProgress::with_draw_target(target()), hosts: HashMap::new(), hashing: None })
    }

    /// The hosts of `fleet` as they are at every tick; `started` is when its times begin.
    pub(crate) fn hosts(fleet: Arc<Mutex<Fleet>>, started: Instant) -> Self {
        let size = || terminal::size(std::io::stderr());
        Self::Hosts(Hosts::draw(target(), fleet, started, size))
    }

    /// Moves the bars.
    pub(crate) fn event(&mut self, event: &Event) {
        match self {
            Self::Layers(layers) => layers.event(event),
            // They are drawn at their tick, however many events there are.
            Self::Hosts(_) => {}
        }
    }

    /// How long at least is between two prints: every one of them draws everything again.
    pub(crate) fn pause(&self) -> Duration {
        match self {
            // Few, and each says where a layer has gone.
            Self::Layers(_) => Duration::ZERO,
            Self::Hosts(_) => TICK,
        }
    }

    /// Prints without tearing the bars.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        match self {
            Self::Layers(layers) => layers.all.suspend(print),
            Self::Hosts(hosts) => hosts.0.suspend(print),
        }
    }
}

impl Hosts {
    fn draw(
        target: ProgressDrawTarget,
        fleet: Arc<Mutex<Fleet>>,
        started: Instant,
        size: impl Fn() -> Size + Clone + Send + Sync + 'static,
    ) -> Self {
        // Only ever one key, and a test draws it: the default is never used.
        let style = ProgressStyle::with_template("{hosts}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("hosts", move |_: &ProgressState, text: &mut dyn Write| {
            let fleet = fleet.lock().unwrap_or_else(PoisonError::into_inner);
            let lines = view::lines(&fleet, size(), started.elapsed().as_millis() as u64);
            let _ = text.write_str(&lines.join("\n"));
        });
        let bar = ProgressBar::with_draw_target(None, target).with_style(style);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }
}

/// A line of words.
fn message() -> ProgressStyle {
    ProgressStyle::with_template("  {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Layers {
    fn event(&mut self, event: &Event) {
        if matches!(event, Event::Progress(_) | Event::Done(_) | Event::HostFailed { .. })
            && let Some(hashing) = self.hashing.take()
        {
            hashing.finish_and_clear();
        }
        match event {
            Event::Hashing(hashing) => {
                let bar = self.hashing.get_or_insert_with(|| self.all.add(ProgressBar::no_length().with_style(message())));
                bar.set_message(lines::hashing(hashing));
            }
            Event::Planned(planned) => self.planned(planned),
            Event::Progress(progress) => self.progress(progress),
            Event::Done(done) => self.finish(&done.host, &done.image),
            // The image is written there as it was asked for, which may not be its name: all bars of the host end.
            Event::HostFailed { host, .. } => {
                let images: Vec<String> = self.hosts.keys().filter(|key| key.0 == *host).map(|key| key.1.clone()).collect();
                images.iter().for_each(|image| self.finish(host, image));
            }
            _ => {}
        }
    }

    fn planned(&mut self, planned: &Planned) {
        self.finish(&planned.host, &planned.image);
        let missing: Vec<_> = planned.layers.iter().filter(|layer| layer.present_bytes < layer.size_bytes).collect();
        if missing.is_empty() {
            return;
        }
        let mut host =
            Host { layers: HashMap::new(), total: None, verified: HashMap::new(), sizes: HashMap::new(), started: HashSet::new() };
        for layer in &missing {
            host.sizes.insert(layer.digest, layer.size_bytes);
            host.verified.insert(layer.digest, layer.present_bytes);
            let bar = self.bar(&layer.digest.short(), layer.size_bytes, layer.present_bytes);
            host.layers.insert(layer.digest, bar);
        }
        if missing.len() > 1 {
            let present_bytes = host.verified.values().sum();
            host.total = Some(self.bar("total", host.sizes.values().sum(), present_bytes));
        }
        self.hosts.insert((planned.host.clone(), planned.image.clone()), host);
    }

    fn progress(&mut self, progress: &Progress) {
        let Some(host) = self.hosts.get_mut(&(progress.host.clone(), progress.image.clone())) else { return };
        let Some(&size_bytes) = host.sizes.get(&progress.digest) else { return };
        let started = !host.started.is_empty();
        let first = host.started.insert(progress.digest);
        let verified = host.verified.entry(progress.digest).or_default();
        *verified = (*verified).max(progress.verified_bytes.min(size_bytes));
        if let Some(bar) = host.layers.get(&progress.digest) {
            if first {
                bar.reset_elapsed();
            }
            bar.set_position(*verified);
            if *verified >= size_bytes {
                bar.finish_and_clear();
                self.all.remove(bar);
            }
        }
        if let Some(total) = &host.total {
            if !started {
                total.reset_elapsed();
            }
            total.set_position(host.verified.values().sum());
        }
    }

    fn finish(&mut self, host: &str, image: &str) {
        if let Some(host) = self.hosts.remove(&(host.to_owned(), image.to_owned())) {
            for bar in host.layers.values().chain(&host.total) {
                bar.finish_and_clear();
                self.all.remove(bar);
            }
        }
    }

    fn bar(&self, name: &str, size_bytes: u64, present_bytes: u64) -> ProgressBar {
        let bar = self.all.add(ProgressBar::new(size_bytes).with_style(style(present_bytes)).with_prefix(format!("{name:<12}")));
        bar.set_position(present_bytes);
        bar.enable_steady_tick(TICK);
        bar
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        let _ = self.all.clear();
    }
}

/// Stderr, so that what is on stdout stays free of bars.
fn target() -> ProgressDrawTarget {
    ProgressDrawTarget::stderr_with_hz(DRAWS_PER_S)
}

/// For something of which `present_bytes` were there before.
fn style(present_bytes: u64) -> ProgressStyle {
    const TEMPLATE: &str = "  {prefix}  {bar:28}  {done} / {all}  {rate}  {left}";
    // The template is written above, and a test draws it: the default is never used.
    ProgressStyle::with_template(TEMPLATE)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
        .with_key("done", |state: &ProgressState, line: &mut dyn Write| {
            let _ = line.write_str(&size(state.pos()));
        })
        .with_key("all", |state: &ProgressState, line: &mut dyn Write| {
            let _ = line.write_str(&size(state.len().unwrap_or(0)));
        })
        .with_key("rate", move |state: &ProgressState, line: &mut dyn Write| {
            if let Some(bytes_per_s) = rate(state, present_bytes) {
                let _ = write!(line, "{}/s", size(bytes_per_s as u64));
            }
        })
        .with_key("left", move |state: &ProgressState, line: &mut dyn Write| {
            let left_bytes = state.len().unwrap_or(0).saturating_sub(state.pos());
            let left_s = rate(state, present_bytes).map(|bytes_per_s| (left_bytes as f64 / bytes_per_s) as u64);
            if let Some(left_s) = left_s.filter(|&left_s| left_s > 0) {
                let left = if left_s < 60 { format!("{left_s} s") } else { duration_ms(left_s * 1000) };
                let _ = write!(line, "{left} left");
            }
        })
}

/// Since the first byte came. What was there before says nothing about it, and neither do the first moments.
fn rate(state: &ProgressState, present_bytes: u64) -> Option<f64> {
    let elapsed_s = state.elapsed().as_secs_f64();
    let new_bytes = state.pos().saturating_sub(present_bytes);
    (new_bytes > 0 && elapsed_s >= 0.2).then(|| new_bytes as f64 / elapsed_s)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;

    use indicatif::TermLike;
    use proto::control::PlannedLayer;

    use super::*;
    use crate::report::{Direction, Report};

    /// Everything that was written to a terminal.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl Screen {
        fn push(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.push(text).and_then(|()| self.push("\n"))
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.push(text)
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bar_for_every_layer_and_one_for_all() {
        let screen = Screen::default();
        let mut bars = Layers { all: MultiProgress::new(), hosts: HashMap::new(), hashing: None };
        bars.all.set_draw_target(ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255));
        let layer = |name: &str, size_bytes| PlannedLayer { digest: Digest::of(name.as_bytes()), size_bytes, present_bytes: 0 };
        let layers = vec![layer("a", 40_000_000), layer("b", 2_000_000)];
        let (host, image) = ("b".to_owned(), "demo:1".to_owned());
        bars.event(&Event::Planned(Planned { host: host.clone(), image: image.clone(), layers, send_bytes: 42_000_000, present_bytes: 0 }));
        let digest = Digest::of(b"a");
        bars.event(&Event::Progress(Progress { host: host.clone(), image: image.clone(), digest, verified_bytes: 20_000_000 }));
        // Bars are drawn at their tick, however many events there are.
        std::thread::sleep(TICK * 3);
        bars.event(&Event::Progress(Progress { host, image, digest, verified_bytes: 40_000_000 }));
        assert_eq!(bars.hosts.values().next().unwrap().total.as_ref().unwrap().position(), 40_000_000);
        let drawn = screen.0.lock().unwrap().clone();
        assert!(drawn.contains(&digest.short()) && drawn.contains("total") && drawn.contains("20.0 MB / 42.0 MB"), "{drawn}");
    }

    #[test]
    fn many_hosts_are_drawn_at_their_tick_and_cleared() {
        let screen = Screen::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), DRAWS_PER_S);
        let mut report = Report::new(Direction::Send, false);
        let hosts = Hosts::draw(target, report.shared_fleet(), Instant::now(), || Size { rows: 5, columns: 40 });
        for number in 0..500 {
            report.event(&Event::Queued { host: format!("web{number:03}"), image: "demo:1".to_owned() }, 0);
        }
        std::thread::sleep(TICK * 3);
        hosts.0.suspend(|| screen.push("said in between").unwrap());
        drop(hosts);
        let drawn = screen.0.lock().unwrap().clone();
        assert!(drawn.contains("demo:1 → 500 hosts") && drawn.contains("… and 499 more"), "{drawn}");
        assert!(drawn.matches("web000").count() < 20 && !drawn.contains("web001"), "{drawn}");
        assert!(drawn.contains("said in between"));
    }
}
