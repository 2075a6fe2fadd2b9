//! Whether there is room for what is about to arrive.

use proto::peer::Refusal;

use crate::store::Room;

/// Room that is left on the disk of the store whatever arrives.
const SPARE_BYTES: u64 = 16 * 1024 * 1024;

/// Staging takes every byte that arrives; the store what it says, on the same file system or on others.
pub(super) fn check(arriving_bytes: u64, staging: Room, store: &[Room]) -> Result<(), Refusal> {
    let mut rooms = vec![staging];
    store.iter().for_each(|room| room.add_to(&mut rooms));
    for room in rooms {
        let needed_bytes = (arriving_bytes / 100).saturating_mul(room.needed_percent) + arriving_bytes % 100 + SPARE_BYTES;
        if needed_bytes > room.free_bytes {
            return Err(Refusal::NoSpace { needed_bytes, free_bytes: room.free_bytes });
        }
    }
    Ok(())
}
