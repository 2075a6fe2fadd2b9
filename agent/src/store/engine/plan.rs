//! Which layers have to be sent to the engine, and which of them are loaded together.
//!
//! Layers are loaded from the lowest upward, in groups: as soon as a group has come in whole, the engine keeps it. All but the last layer of a group
//! are small and wait in memory; the last one is streamed into the engine as it comes. The layers after the last group go with the image itself.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use proto::image::Layer;
use proto::{Descriptor, Digest};

/// A group is loaded when it holds as much: less is not worth a load of its own, more is not worth keeping in memory.
const GROUP_BYTES: u64 = 8 << 20;

/// What is to be done to bring in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Lowest first.
    pub(super) units: Vec<Unit>,
    /// Lowest first.
    pub(super) groups: Vec<Group>,
}

/// A layer that has to be sent, once, however often it is in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// What it is in the engine.
    pub(super) diff_id: Digest,
    /// What comes in.
    pub(super) blob: Descriptor,
}

/// Layers that are loaded together, before the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Which units; never none.
    pub(super) units: Range<usize>,
    /// How many of the image's layers are in the engine after it.
    pub(super) layers: usize,
}

/// What an engine has of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Present {
    /// So many of the lowest layers: a layer counts only on top of those below it.
    Lowest(usize),
    /// Layers with these diff IDs, whatever lies below them.
    DiffIds(HashSet<Digest>),
}

impl Unit {
    /// It comes as the engine wants it, so that its bytes can pass straight through.
    pub(super) fn is_plain(&self) -> bool {
        self.blob.digest == self.diff_id
    }
}

impl Plan {
    /// For the layers of an image, lowest first.
    pub(super) fn new(layers: &[Layer], present: &Present) -> Self {
        let is_missing = |position: usize, diff_id: &Digest| match present {
            Present::Lowest(count) => position >= *count,
            Present::DiffIds(present) => !present.contains(diff_id),
        };
        let mut last: HashMap<Digest, usize> = HashMap::new();
        for (position, layer) in layers.iter().enumerate() {
            last.extend(layer.diff_id.map(|diff_id| (diff_id, position)));
        }
        let mut plan = Self { units: vec![], groups: vec![] };
        let mut seen = HashSet::new();
        let (mut first, mut bytes, mut open_until) = (0, 0, 0);
        for (position, layer) in layers.iter().enumerate() {
            let Some(diff_id) = layer.diff_id.filter(|diff_id| is_missing(position, diff_id)) else { continue };
            if seen.insert(diff_id) {
                bytes += layer.descriptor.size_bytes;
                plan.units.push(Unit { diff_id, blob: layer.descriptor.clone() });
            }
            // A layer that comes again higher up is needed for that load, too: it comes only once, so that both have to be one load.
            open_until = open_until.max(last.get(&diff_id).copied().unwrap_or(position));
            if bytes >= GROUP_BYTES && position >= open_until && first < plan.units.len() {
                plan.groups.push(Group { units: first..plan.units.len(), layers: position + 1 });
                (first, bytes) = (plan.units.len(), 0);
            }
        }
        plan
    }

    /// The group of a unit; `None` for those that go with the image itself.
    pub(super) fn group_of(&self, unit: usize) -> Option<usize> {
        self.groups.iter().position(|group| group.units.contains(&unit))
    }

    /// The units that go with the image itself.
    pub(super) fn rest(&self) -> Range<usize> {
        self.groups.last().map_or(0, |group| group.units.end)..self.units.len()
    }

    /// True for a layer that may wait in memory for its group. A group that has to hold more, because a layer comes again higher up, waits on disk.
    pub(super) fn waits_in_memory(&self, unit: usize) -> bool {
        let first = self.group_of(unit).map_or(self.rest().start, |group| self.groups[group].units.start);
        self.units[first..=unit].iter().map(|unit| unit.blob.size_bytes).sum::<u64>() < GROUP_BYTES
    }

    /// True for the unit after which its group is loaded.
    pub(super) fn ends_group(&self, unit: usize) -> bool {
        self.groups.iter().any(|group| group.units.end == unit + 1)
    }
}

/// How many of the lowest layers are there, by chain ID.
pub(super) fn longest_prefix(chain_ids: &[Digest], is_present: impl Fn(&Digest) -> bool) -> usize {
    chain_ids.iter().take_while(|chain_id| is_present(chain_id)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn layer(name: u8, size_bytes: u64) -> Layer {
        let diff_id = Digest::of(&[name]);
        Layer { descriptor: Descriptor { media_type: "x".to_owned(), digest: diff_id, size_bytes }, diff_id: Some(diff_id) }
    }

    fn groups(layers: &[Layer], present: &Present) -> (Vec<(Range<usize>, usize)>, Range<usize>) {
        let plan = Plan::new(layers, present);
        (plan.groups.iter().map(|group| (group.units.clone(), group.layers)).collect(), plan.rest())
    }

    #[test]
    fn a_group_closes_when_it_is_large_enough() {
        let layers = [layer(1, 2 * MIB), layer(2, 100 * MIB), layer(3, 9 * MIB), layer(4, 5 * MIB), layer(5, MIB)];
        assert_eq!(groups(&layers, &Present::Lowest(0)), (vec![(0..2, 2), (2..3, 3)], 3..5));
        assert_eq!(groups(&layers, &Present::Lowest(2)), (vec![(0..1, 3)], 1..3));
        assert_eq!(groups(&layers, &Present::Lowest(5)), (vec![], 0..0));
        let present = Present::DiffIds([1, 3].map(|name| Digest::of(&[name])).into());
        assert_eq!(groups(&layers, &present), (vec![(0..1, 2)], 1..3));
        assert_eq!(groups(&[], &Present::Lowest(0)), (vec![], 0..0));
    }

    /// A small layer lies around sixty others.
    #[test]
    fn what_waits_in_memory_is_bounded() {
        let mut layers: Vec<Layer> = (0..61).map(|name| layer(name, 7 * MIB)).collect();
        layers.push(layer(0, 7 * MIB));
        let plan = Plan::new(&layers, &Present::Lowest(0));
        assert_eq!(plan.groups.len(), 1);
        let in_memory: u64 = (0..61).filter(|unit| plan.waits_in_memory(*unit)).map(|unit| plan.units[unit].blob.size_bytes).sum();
        assert_eq!(in_memory, 7 * MIB);
        let plan = Plan::new(&[layer(1, MIB), layer(2, MIB), layer(3, MIB)], &Present::Lowest(0));
        assert!((0..3).all(|unit| plan.waits_in_memory(unit)));
    }

    #[test]
    fn a_layer_that_comes_twice_is_sent_once_for_both() {
        let layers = [layer(1, MIB), layer(2, 9 * MIB), layer(1, MIB), layer(3, 9 * MIB)];
        assert_eq!(groups(&layers, &Present::Lowest(0)), (vec![(0..2, 3), (2..3, 4)], 3..3));
        // It is there, but not on top of these layers.
        assert_eq!(groups(&layers, &Present::Lowest(1)), (vec![(0..1, 2), (1..3, 4)], 3..3));
        assert_eq!(Plan::new(&layers, &Present::Lowest(2)).units.len(), 2);
    }

    #[test]
    fn what_ends_a_group() {
        let plan = Plan::new(&[layer(1, MIB), layer(2, 9 * MIB), layer(3, MIB)], &Present::Lowest(0));
        assert_eq!([0, 1, 2].map(|unit| (plan.group_of(unit), plan.ends_group(unit))), [(Some(0), false), (Some(0), true), (None, false)]);
    }

    #[test]
    fn a_prefix_has_no_holes() {
        let ids = [1, 2, 3].map(|name: u8| Digest::of(&[name]));
        assert_eq!(longest_prefix(&ids, |id| *id != ids[1]), 1);
        assert_eq!(longest_prefix(&ids, |_| true), 3);
    }
}
