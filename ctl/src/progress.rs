//! Bars on a terminal. The only file that names indicatif.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use proto::Digest;
use proto::control::{Event, Planned, Progress};
use proto::text::escape_short;

use crate::format::{duration_ms, size};

/// Often enough to seem smooth.
const TICK: Duration = Duration::from_millis(100);

/// A bar for every layer and, with several, one for all of them; or a bar for every host.
pub(crate) struct Bars {
    all: MultiProgress,
    by_layer: bool,
    hosts: HashMap<(String, String), Host>,
}

/// An image on its way to a host.
struct Host {
    /// Layer by layer, when these are shown.
    layers: HashMap<Digest, ProgressBar>,
    /// The sum, when it is shown.
    total: Option<ProgressBar>,
    verified: HashMap<Digest, u64>,
    sizes: HashMap<Digest, u64>,
}

impl Bars {
    /// On stderr, so that what is on stdout stays free of them.
    pub(crate) fn new(by_layer: bool) -> Self {
        Self { all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()), by_layer, hosts: HashMap::new() }
    }

    /// Moves the bars.
    pub(crate) fn event(&mut self, event: &Event) {
        match event {
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

    /// Prints without tearing the bars.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        self.all.suspend(print);
    }

    fn planned(&mut self, planned: &Planned) {
        self.finish(&planned.host, &planned.image);
        let missing: Vec<_> = planned.layers.iter().filter(|layer| layer.present_bytes < layer.size_bytes).collect();
        if missing.is_empty() {
            return;
        }
        let mut host = Host { layers: HashMap::new(), total: None, verified: HashMap::new(), sizes: HashMap::new() };
        for layer in &missing {
            host.sizes.insert(layer.digest, layer.size_bytes);
            host.verified.insert(layer.digest, layer.present_bytes);
            if self.by_layer {
                let bar = self.bar(&layer.digest.short(), layer.size_bytes, layer.present_bytes);
                host.layers.insert(layer.digest, bar);
            }
        }
        if !self.by_layer || missing.len() > 1 {
            let name = if self.by_layer { "total".to_owned() } else { escape_short(&planned.host, 24) };
            let present_bytes = host.verified.values().sum();
            host.total = Some(self.bar(&name, host.sizes.values().sum(), present_bytes));
        }
        self.hosts.insert((planned.host.clone(), planned.image.clone()), host);
    }

    fn progress(&mut self, progress: &Progress) {
        let Some(host) = self.hosts.get_mut(&(progress.host.clone(), progress.image.clone())) else { return };
        let Some(&size_bytes) = host.sizes.get(&progress.digest) else { return };
        let verified = host.verified.entry(progress.digest).or_default();
        *verified = (*verified).max(progress.verified_bytes.min(size_bytes));
        if let Some(bar) = host.layers.get(&progress.digest) {
            bar.set_position(*verified);
            if *verified >= size_bytes {
                bar.finish_and_clear();
                self.all.remove(bar);
            }
        }
        if let Some(total) = &host.total {
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
        let bar = self.all.add(ProgressBar::new(size_bytes).with_style(style()).with_prefix(format!("{name:<12}")));
        // What was there before says nothing about the rate.
        bar.set_position(present_bytes);
        bar.reset_eta();
        bar.enable_steady_tick(TICK);
        bar
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let _ = self.all.clear();
    }
}

fn style() -> ProgressStyle {
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
        .with_key("rate", |state: &ProgressState, line: &mut dyn Write| {
            let bytes_per_s = state.per_sec();
            // Before the first bytes there is no rate, and no end in sight.
            let _ = if bytes_per_s >= 1.0 { write!(line, "{}/s", size(bytes_per_s as u64)) } else { line.write_str("-") };
        })
        .with_key("left", |state: &ProgressState, line: &mut dyn Write| {
            if state.per_sec() >= 1.0 && state.eta() >= Duration::from_secs(1) {
                let _ = write!(line, "{} left", duration_ms(state.eta().as_secs() * 1000));
            }
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;
    use proto::control::PlannedLayer;

    use super::*;

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
        let mut bars = Bars::new(true);
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
}
