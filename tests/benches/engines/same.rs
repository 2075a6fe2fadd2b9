//! Nothing to do: the image is there already. And what an agent takes that has nothing to do.

use std::time::Duration;

use tests::bench::{median, seconds};
use tests::process::Process;

use super::host::{Kind, found};
use super::image::{Files, archive};
use super::table::{at_most, beside, time, title};

/// One of them is short.
const ROUNDS: usize = 21;
/// How long an agent is watched.
const IDLE: Duration = Duration::from_secs(10);

pub(crate) fn measure() {
    title("Nothing to send: a 219 MB image in four layers is there, agents are warm");
    let mut files = Files::new();
    let layers = [170 << 20, 48_000_000, 55_000, 64_000].map(|bytes| files.layer(bytes));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("archive.tar");
    archive(&path, "demo:same", &layers.each_ref(), 0);
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_wanted()) {
        let (Some(one), Some(two)) = (kind.start(), kind.start()) else { continue };
        [&one, &two].iter().for_each(|engine| engine.load(&path));
        let agents = [one.agent("one", None), two.agent("two", None)];
        found(&agents);
        let first = seconds(|| drop(agents[0].json(&["send", "demo:same", "two"], "done")));
        let mut wire = 0;
        let mut send = || wire = agents[0].json(&["send", "demo:same", "two"], "done")["wire_bytes"].as_u64().unwrap();
        let times = (0..ROUNDS).map(|_| seconds(&mut send)).collect();
        let start = median((0..ROUNDS).map(|_| seconds(|| drop(agents[0].must(&["status"])))).collect());
        at_most(&format!("{}: imgctl send, median of {ROUNDS}", kind.name()), median(times) * 1e3, 150.0, " ms");
        at_most("  bytes on the wire", wire as f64 / 1024.0, 16.0, " KiB");
        beside("  the first time", time(first));
        beside("  of it, imgctl's start and one question", time(start));
        idle(&agents);
    }
}

/// After a warm-up, so that it is an agent that has worked.
fn idle(agents: &[Process; 2]) {
    let cpu = || agents.iter().map(Process::cpu_s).sum::<f64>();
    let before = cpu();
    std::thread::sleep(IDLE);
    let resident = agents.iter().map(Process::resident_bytes).max().unwrap();
    at_most("  memory of an idle agent", resident as f64 / (1 << 20) as f64, 16.0, " MiB");
    at_most("  CPU of an idle agent", (cpu() - before) / 2.0 / IDLE.as_secs_f64() * 100.0, 0.1, " %");
}
