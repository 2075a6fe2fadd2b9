//! The benchmark on real engines: what people do with images, beside what they would do without us, in one run.
//!
//! `cargo bench -p tests --bench engines`, with `-- --mib N` for the size of the cold image (default 1000), `-- --only SECTION` for one of
//! `change`, `cold`, `same` and `read`, `-- --engine NAME` for one receiver, and `-- --rate RATE` for the link of the cold image (default 1gbit). Needs
//! root, Debian's docker.io, containerd, podman, docker-registry, openssh-server and iproute2, and what `.ci/engines` unpacks; what is not installed is
//! said and left out. The machine may be shared, so the ratios say more than the numbers.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod change;
mod cold;
mod host;
mod image;
mod peers;
mod read;
mod same;
mod table;

use tests::bench::{ROUNDS, argument};

fn main() {
    let mib: usize = argument("--mib").map_or(1000, |mib| mib.parse().unwrap());
    let only = argument("--only");
    println!("medians of {ROUNDS} rounds, {} cores\n", std::thread::available_parallelism().unwrap());
    let wanted = |section: &str| only.as_deref().is_none_or(|only| only == section);
    if wanted("change") {
        change::measure();
    }
    if wanted("same") {
        same::measure();
    }
    if wanted("read") {
        read::measure(mib);
    }
    if wanted("cold") {
        cold::measure(mib);
    }
}
