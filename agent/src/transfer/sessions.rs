//! Sessions that bring images at the moment. A store gives an image, or a layer, to one of them at a time, for as long as that brings it: one that stands
//! still makes room for a session of another host that waits for the same.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use proto::{Digest, HostId, Image};
use tokio_util::sync::CancellationToken;

use crate::sys;

/// How often whoever waits for the store looks who holds it up.
const LOOK_MS: u64 = 250;

/// Who has got no further for this long, while another host waits, stands still.
const STANDSTILL: Duration = Duration::from_millis(1_500);

/// What has to come in that time to be of account: one of so many parts of what is left.
const PART: u64 = 200;

/// How long a host whose session had to make room comes after others who bring the same.
const AFTER_OTHERS: Duration = Duration::from_secs(60);

/// Of so many sessions that is remembered.
const REMEMBERED: usize = 64;

/// The sessions of this host.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    running: Vec<Weak<Running>>,
    /// Whose session it was, and what it brought.
    made_room: Vec<(HostId, Arc<HashSet<Digest>>, Instant)>,
}

/// One session. It is over when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    host: HostId,
    /// Its layers and configs.
    contents: Arc<HashSet<Digest>>,
    /// Of these, what the store has given to it.
    held: Mutex<HashSet<Digest>>,
    state: Mutex<State>,
    /// Another host waits, and this one stands still.
    make_room: CancellationToken,
}

#[derive(Debug)]
struct State {
    verified_bytes: u64,
    further: Instant,
    /// All bytes have come: what it waits for now is the store.
    complete: bool,
}

impl Sessions {
    /// A session begins. `None`: it was made to stop before, and another host brings the same now.
    pub(super) fn begin(&self, host: HostId, image: &Image) -> Option<Arc<Running>> {
        let layers = image.layers().into_iter().map(|layer| layer.descriptor.digest);
        let contents: HashSet<Digest> = layers.chain(image.manifests.iter().map(|manifest| manifest.config.digest)).collect();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.running.retain(|running| running.strong_count() > 0);
        known.made_room.retain(|(.., since)| since.elapsed() < AFTER_OTHERS);
        let comes_after = known.made_room.iter().any(|(of, same, _)| *of == host && !same.is_disjoint(&contents));
        let is_taken = |running: Arc<Running>| running.host != host && !running.contents.is_disjoint(&contents);
        if comes_after && known.running.iter().filter_map(Weak::upgrade).any(is_taken) {
            return None;
        }
        let state = Mutex::new(State { verified_bytes: 0, further: Instant::now(), complete: false });
        let contents = Arc::new(contents);
        let running = Arc::new(Running { host, contents, held: Mutex::default(), state, make_room: CancellationToken::new() });
        known.running.push(Arc::downgrade(&running));
        Some(running)
    }

    /// Waits until the store gives these contents to a session: sessions of other hosts that have one of them, and stand still, make room.
    pub(super) async fn wait<T>(&self, waiting: Option<&Running>, wanted: &[Digest], store: impl Future<Output = T>) -> T {
        let Some(waiting) = waiting else { return store.await };
        let mut store = std::pin::pin!(store);
        loop {
            if let Some(done) = sys::deadline(LOOK_MS, &mut store).await {
                return done;
            }
            self.make_room(waiting, wanted, Instant::now());
        }
    }

    fn make_room(&self, waiting: &Running, wanted: &[Digest], now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let holds_up = |running: &Arc<Running>| running.host != waiting.host && running.holds(wanted) && running.stands_still(now);
        let stalled: Vec<Arc<Running>> = known.running.iter().filter_map(Weak::upgrade).filter(holds_up).collect();
        for running in stalled.into_iter().filter(|running| !running.make_room.is_cancelled()) {
            running.make_room.cancel();
            if known.made_room.len() == REMEMBERED {
                known.made_room.remove(0);
            }
            known.made_room.push((running.host, running.contents.clone(), now));
        }
    }
}

/// Resolves when a session of another host waits for what this one keeps from it.
pub(super) async fn makes_room(running: Option<&Arc<Running>>) {
    match running {
        Some(running) => running.make_room.cancelled().await,
        None => std::future::pending().await,
    }
}

impl Running {
    /// The store has given these contents to it.
    pub(super) fn hold(&self, contents: &[Digest]) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).extend(contents);
    }

    /// So many bytes of its layers, of so many, are verified, whoever brought them.
    pub(super) fn verified(&self, verified_bytes: u64, total_bytes: u64) {
        self.verified_at(verified_bytes, total_bytes, Instant::now());
    }

    fn holds(&self, wanted: &[Digest]) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().any(|content| held.contains(content))
    }

    /// A trickle is nothing: in five minutes it would have to be there.
    fn verified_at(&self, verified_bytes: u64, total_bytes: u64, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (complete, enough_bytes) = (verified_bytes >= total_bytes, total_bytes.saturating_sub(verified_bytes) / PART);
        if verified_bytes.saturating_sub(state.verified_bytes) > enough_bytes || complete != state.complete {
            (state.verified_bytes, state.further, state.complete) = (verified_bytes, now, complete);
        }
    }

    fn stands_still(&self, now: Instant) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        !state.complete && now.duration_since(state.further) >= STANDSTILL
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proto::{Descriptor, Layer, Manifest};

    use super::*;

    fn host(name: &str) -> HostId {
        HostId::of_public_key(name.as_bytes())
    }

    fn image(layer: &str) -> Image {
        let descriptor = |name: &str| Descriptor::of("x", name.as_bytes());
        let layers = vec![Layer { descriptor: descriptor(layer), diff_id: None }];
        let manifest = Manifest { descriptor: descriptor("m"), platform: None, config: descriptor(&format!("config of {layer}")), layers };
        Image { reference: None, root: descriptor("m"), indexes: vec![], manifests: vec![manifest] }
    }

    #[test]
    fn who_stands_still_makes_room_for_another_host() {
        const LEFT: u64 = 1_000_000;
        let (sessions, begun) = (Sessions::default(), Instant::now());
        let wanted = [Digest::of(b"a")];
        let rogue = sessions.begin(host("rogue"), &image("a")).unwrap();
        let other = sessions.begin(host("rogue"), &image("b")).unwrap();
        let honest = sessions.begin(host("honest"), &image("a")).unwrap();
        let late = begun + STANDSTILL + Duration::from_secs(1);
        let make_room = |now| sessions.make_room(&honest, &wanted, now);
        // It has nothing of the store, or has not had it for long.
        make_room(late);
        rogue.hold(&wanted);
        other.hold(&[Digest::of(b"b")]);
        make_room(begun);
        // It gets further, or has everything and waits for the store.
        rogue.verified_at(LEFT / 100, LEFT, late);
        make_room(late);
        rogue.verified_at(LEFT, LEFT, late);
        make_room(late + STANDSTILL);
        assert!(!rogue.make_room.is_cancelled());
        rogue.verified_at(LEFT, 2 * LEFT, late);
        rogue.verified_at(LEFT + 1_000, 2 * LEFT, late + STANDSTILL);
        make_room(late + STANDSTILL);
        assert!(rogue.make_room.is_cancelled() && !other.make_room.is_cancelled() && !honest.make_room.is_cancelled());
        (0..1000).for_each(|_| make_room(late + STANDSTILL));
        assert_eq!(sessions.0.lock().unwrap().made_room.len(), 1, "once is enough");
        drop(rogue);
        assert!(sessions.begin(host("rogue"), &image("a")).is_none(), "it comes after the other one");
        drop(honest);
        assert!(sessions.begin(host("rogue"), &image("a")).is_some());
    }
}
