//! Room on the disks of this host, reserved at admission for what is about to arrive: two images that fit one by one, and not together, do not
//! fill a disk between them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use proto::Descriptor;
use proto::peer::{Missing, Refusal};
use tracing::{info, warn};

use super::{Context, refusal};
use crate::store::{Room, SPARE_BYTES, Store};
use crate::sys;

/// What the sessions of this host have reserved.
#[derive(Debug, Default)]
pub struct Reservations(Mutex<Vec<Weak<Reserved>>>);

/// Who brings less than this part of what is outstanding in this time keeps no room from others: it may go on, and finds none perhaps. Without that a host
/// could say that it brings as much as the disk holds, and bring nothing.
const STANDSTILL: Duration = Duration::from_millis(1_500);
const PART: u64 = 4_000;

/// Room for one image. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation(#[allow(dead_code)] Arc<Reserved>);

#[derive(Debug)]
struct Reserved {
    /// Bytes on each device that are still to be written, when nothing has arrived.
    needed: HashMap<u64, u64>,
    /// The device of staging, on which what has arrived is written already.
    staging_device: u64,
    arriving_bytes: u64,
    arrived: Mutex<Arrived>,
}

#[derive(Debug)]
struct Arrived {
    bytes: u64,
    /// When that was enough for [`STANDSTILL`], and how much it was.
    kept_up: (Instant, u64),
}

/// Why there is no room.
#[derive(Debug, PartialEq, Eq)]
enum Shortage {
    /// Even alone it does not fit.
    Full { device: u64, needed_bytes: u64, free_bytes: u64 },
    /// It fits once others have what they have reserved.
    Reserved,
}

impl Reservation {
    /// So many bytes have arrived so far, whoever brought them; `complete`: all of them.
    pub(super) fn arrived(&self, bytes: u64, complete: bool) {
        self.0.arrived_at(if complete { self.0.arriving_bytes } else { bytes }, Instant::now());
    }
}

impl Reserved {
    fn arrived_at(&self, bytes: u64, now: Instant) {
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.bytes = bytes;
        let enough_bytes = self.arriving_bytes.saturating_sub(bytes) / PART;
        if bytes.saturating_sub(arrived.kept_up.1) > enough_bytes {
            arrived.kept_up = (now, bytes);
        }
    }

    fn outstanding_bytes(&self, device: u64, now: Instant) -> u64 {
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has brought everything waits for the store.
        if arrived.bytes < self.arriving_bytes && now.duration_since(arrived.kept_up.0) >= STANDSTILL {
            return 0;
        }
        let needed_bytes = self.needed.get(&device).copied().unwrap_or(0);
        let written_bytes = if device == self.staging_device { arrived.bytes } else { 0 };
        needed_bytes.saturating_sub(written_bytes)
    }
}

impl Reservations {
    /// Reserves room for what is missing of an image. Under pressure what nobody brings goes first, oldest first, and what imports that were given
    /// up have left in the store. `Busy` while others have reserved the room that is missing.
    pub(super) async fn reserve<S: Store>(
        &self,
        context: &Context<S>,
        missing: &[Missing],
        blobs: Vec<Descriptor>,
    ) -> Result<Reservation, Refusal> {
        let arriving_bytes: u64 = missing.iter().map(|blob| blob.size_bytes - blob.staged_bytes).sum();
        match self.take(arriving_bytes, &rooms(context).await?, Instant::now()) {
            Ok(reservation) => return Ok(reservation),
            Err(Shortage::Reserved) => return Err(Refusal::Busy),
            Err(Shortage::Full { .. }) => {}
        }
        let (mut staged_bytes, mut stored_bytes) = (self.reclaim(context, arriving_bytes, &blobs).await?, 0);
        if staged_bytes == 0 {
            // How much that is, is known when it is gone.
            stored_bytes = context.store.reclaim().await.unwrap_or_else(|error| {
                warn!(%error, "the store makes no room");
                0
            });
            staged_bytes = self.reclaim(context, arriving_bytes, &blobs).await?;
        }
        if staged_bytes + stored_bytes > 0 {
            info!(staged_bytes, stored_bytes, "unfinished transfers made room");
        }
        self.take(arriving_bytes, &rooms(context).await?, Instant::now()).map_err(|shortage| match shortage {
            Shortage::Full { needed_bytes, free_bytes, .. } => Refusal::NoSpace { needed_bytes, free_bytes },
            Shortage::Reserved => Refusal::Busy,
        })
    }

    /// Removes what no session brings from staging, where that makes the room that is missing: an image that fits in no case costs others nothing.
    async fn reclaim<S: Store>(&self, context: &Context<S>, arriving_bytes: u64, except: &[Descriptor]) -> Result<u64, Refusal> {
        let rooms = rooms(context).await?;
        match self.take(arriving_bytes, &rooms, Instant::now()) {
            Err(Shortage::Full { device, needed_bytes, free_bytes }) if rooms.first().is_some_and(|staging| staging.device == device) => {
                let (staging, except, lacking_bytes) = (context.staging.clone(), except.to_vec(), needed_bytes - free_bytes);
                let reclaiming = move || match staging.unclaimed(&except)?.bytes >= lacking_bytes {
                    true => staging.reclaim(lacking_bytes, &except),
                    false => Ok(0),
                };
                sys::blocking(reclaiming).await.map_err(|error| refusal(&error))
            }
            _ => Ok(0),
        }
    }

    /// `rooms`: that of staging first.
    fn take(&self, arriving_bytes: u64, rooms: &[Room], now: Instant) -> Result<Reservation, Shortage> {
        let mut together: Vec<Room> = vec![];
        rooms.iter().for_each(|room| room.add_to(&mut together));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|reserved| reserved.strong_count() > 0);
        let mut needed = HashMap::new();
        for room in together.into_iter().filter(|_| arriving_bytes > 0) {
            let needed_bytes = (arriving_bytes / 100).saturating_mul(room.needed_percent) + arriving_bytes % 100;
            let with_spare_bytes = needed_bytes.saturating_add(SPARE_BYTES);
            if with_spare_bytes > room.free_bytes {
                return Err(Shortage::Full { device: room.device, needed_bytes: with_spare_bytes, free_bytes: room.free_bytes });
            }
            let reserved_bytes: u64 = all.iter().filter_map(Weak::upgrade).map(|other| other.outstanding_bytes(room.device, now)).sum();
            if with_spare_bytes.saturating_add(reserved_bytes) > room.free_bytes {
                return Err(Shortage::Reserved);
            }
            needed.insert(room.device, needed_bytes);
        }
        let staging_device = rooms.first().map_or(0, |room| room.device);
        let arrived = Mutex::new(Arrived { bytes: 0, kept_up: (now, 0) });
        let reserved = Arc::new(Reserved { needed, staging_device, arriving_bytes, arrived });
        all.push(Arc::downgrade(&reserved));
        Ok(Reservation(reserved))
    }
}

/// Room in staging, which takes every byte that arrives, and in the store, on the same file system or on others.
async fn rooms<S: Store>(context: &Context<S>) -> Result<Vec<Room>, Refusal> {
    let staging = context.staging.clone();
    let mut rooms = vec![sys::blocking(move || staging.room()).await.map_err(|error| refusal(&error))?];
    rooms.extend(context.store.room().await.map_err(|error| refusal(&error))?);
    Ok(rooms)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn room(device: u64, free_mib: u64, needed_percent: u64) -> Room {
        Room { device, free_bytes: free_mib * MIB, needed_percent }
    }

    #[test]
    fn what_others_have_reserved_is_not_free() {
        let reservations = Reservations::default();
        let (disk, now) = ([room(1, 300, 100)], Instant::now());
        let first = reservations.take(200 * MIB, &disk, now).unwrap();
        assert_eq!(reservations.take(200 * MIB, &disk, now).unwrap_err(), Shortage::Reserved);
        assert!(reservations.take(50 * MIB, &disk, now).is_ok());
        // What has arrived is gone from the free bytes already.
        first.arrived(150 * MIB, false);
        let left = [room(1, 150, 100)];
        assert!(reservations.take(80 * MIB, &left, now).is_ok());
        assert_eq!(reservations.take(90 * MIB, &left, now).unwrap_err(), Shortage::Reserved);
        drop(first);
        assert!(reservations.take(90 * MIB, &left, now).is_ok());
        let full = Shortage::Full { device: 1, needed_bytes: 166 * MIB, free_bytes: 150 * MIB };
        assert_eq!(reservations.take(150 * MIB, &left, now).unwrap_err(), full);
        assert!(reservations.take(0, &[room(1, 0, 100)], now).is_ok(), "nothing to come needs no room");
    }

    #[test]
    fn every_disk_counts_for_itself() {
        let reservations = Reservations::default();
        let now = Instant::now();
        // An engine that unpacks on a disk of its own, and one on the disk of staging.
        let apart = [room(1, 200, 100), room(2, 500, 300)];
        let _first = reservations.take(100 * MIB, &apart, now).unwrap();
        assert_eq!(reservations.take(100 * MIB, &apart, now).unwrap_err(), Shortage::Reserved);
        let together = [room(3, 350, 100), room(3, 350, 300)];
        assert!(matches!(reservations.take(100 * MIB, &together, now).unwrap_err(), Shortage::Full { .. }));
    }

    #[test]
    fn who_brings_nothing_keeps_no_room_from_others() {
        let (reservations, start, disk) = (Reservations::default(), Instant::now(), [room(1, 300, 100)]);
        let first = reservations.take(200 * MIB, &disk, start).unwrap();
        let late = start + STANDSTILL;
        assert_eq!(reservations.take(200 * MIB, &disk, late - Duration::from_millis(1)).unwrap_err(), Shortage::Reserved);
        assert!(reservations.take(200 * MIB, &disk, late).is_ok());
        // A trickle is nothing, and what is brought slowly is something.
        first.0.arrived_at(32 * 1024, late);
        assert!(reservations.take(200 * MIB, &disk, late).is_ok());
        first.0.arrived_at(MIB, late);
        assert_eq!(reservations.take(200 * MIB, &disk, late).unwrap_err(), Shortage::Reserved);
        // Who has brought all of it waits for the store, for as long as that takes.
        first.0.arrived_at(200 * MIB, late);
        let engine = first.0.needed.clone();
        assert_eq!(first.0.outstanding_bytes(2, late + 10 * STANDSTILL), engine.get(&2).copied().unwrap_or(0));
    }
}
