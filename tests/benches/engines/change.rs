//! A small change: two small layers of a 219 MB image are others, and the receiver has the old version.

use tests::bench::{ROUNDS, median, seconds};
use tests::engine::docker::Docker;

use super::host::{Engine, Kind, found};
use super::image::{Files, archive, small};
use super::peers::{Registry, Ssh, shell};
use super::table::{at_least, beside, time, title};

pub(crate) fn measure() {
    title("A small change: two layers of 55 and 64 kB of a 219 MB image, Docker to Docker, the old version is there");
    let (Some(Engine::Docker(one)), Some(Engine::Docker(two))) = (Kind::Docker.start(), Kind::Docker.start()) else { return };
    let (Some(ssh), Some(registry)) = (Ssh::start(), Registry::start()) else {
        return println!("  left out: openssh-server or docker-registry is not here");
    };
    let mut files = Files::new();
    let (base, application) = (files.layer(170 << 20), files.layer(48_000_000));
    let directory = tempfile::tempdir().unwrap();
    let versions: Vec<_> = (0..=ROUNDS as u64)
        .map(|version| {
            let changed = [small("etc/demo.conf", 2 * version, 55_000), small("srv/demo", 2 * version + 1, 64_000)];
            let layers = [&base, &application, &changed[0], &changed[1]];
            let (whole, thin) = [("whole", 0), ("thin", 2)]
                .map(|(kind, first)| {
                    let path = directory.path().join(format!("{kind}{version}.tar"));
                    archive(&path, &format!("demo:v{version}"), &layers, first);
                    path
                })
                .into();
            (format!("demo:v{version}"), whole, thin)
        })
        .collect();
    let (old, new) = versions.split_first().unwrap();

    // Both know the old version, and that the registry has it.
    one.must(&["load", "--input", old.1.to_str().unwrap()]);
    let remote = format!("{}/demo", registry.address);
    push(&one, &old.0, &remote);
    two.must(&["pull", &format!("{remote}:v0")]);
    two.must(&["tag", &format!("{remote}:v0"), "demo:v0"]);

    let (one, two) = (Engine::Docker(one), Engine::Docker(two));
    let agents = [one.agent("one", None), two.agent("two", None)];
    found(&agents);
    let (Engine::Docker(one), Engine::Docker(two)) = (&one, &two) else { return };
    let mut times: [Vec<f64>; 4] = Default::default();
    let mut bytes = 0;
    for (name, whole, thin) in new {
        one.must(&["load", "--input", whole.to_str().unwrap()]);
        times[0].push(seconds(|| bytes = agents[0].json(&["send", name, "two"], "done")["bytes_sent"].as_u64().unwrap()));
        assert_eq!(one.id(name), two.id(name));
        two.must(&["rmi", name]);
        let docker = |docker: &Docker| format!("docker -H unix://{}", docker.socket().display());
        times[1].push(seconds(|| shell(&format!("{} save {name} | {} {} load", docker(one), ssh.command(), docker(two)))));
        two.must(&["rmi", name]);
        let tagged = format!("{remote}:{}", name.split_once(':').unwrap().1);
        times[2].push(seconds(|| {
            push(one, name, &remote);
            two.must(&["pull", &tagged]);
        }));
        two.must(&["rmi", &tagged]);
        times[3].push(seconds(|| drop(two.must(&["load", "--input", thin.to_str().unwrap()]))));
        two.must(&["rmi", name]);
    }
    let [ours, over_ssh, over_registry, thin] = times.map(median);
    beside("imgctl send, with its own start", time(ours));
    beside("  bytes of blobs that travelled", format!("{:.0} kB", bytes as f64 / 1e3));
    beside("docker save | ssh docker load, on loopback", time(over_ssh));
    beside("docker push + docker pull with a docker-registry, on loopback", time(over_registry));
    beside("limit: docker load of an archive with only these two layers", time(thin));
    at_least("times faster than docker save | ssh docker load", over_ssh / ours, 10.0, " ×");
    beside("times faster than docker push + docker pull", format!("{:.1} ×", over_registry / ours));
}

fn push(docker: &Docker, name: &str, remote: &str) {
    let tagged = format!("{remote}:{}", name.split_once(':').unwrap().1);
    docker.must(&["tag", name, &tagged]);
    docker.must(&["push", &tagged]);
}
