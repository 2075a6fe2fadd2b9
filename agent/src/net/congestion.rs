//! How many bytes may be on the way: CUBIC (RFC 9438), which hears of those losses alone that congestion may have caused.
//!
//! Where a buffer overflows, packets have waited in it: their round trip is longer than the shortest one. Packets that are lost without that (a damaged cable, radio, a
//! path that reorders) say nothing about how much the path carries, as long as they are few. Where many are lost, something drops what is too much without keeping it.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};

/// How much longer than the shortest one a round trip is that has waited: an eighth of it, twice by how much round trips differ, and at least so much. Below that it
/// is noise of two busy hosts, or of the path.
const QUEUE_LEAST: Duration = Duration::from_micros(500);
const QUEUE_PART: u32 = 8;

/// Of so many bytes on the way, this part may be lost without being taken for congestion (as in BBR v3).
const LOST_PART: f64 = 0.02;
/// Fewer losses than this say nothing about a part.
const LOST_PACKETS: u64 = 8;
/// Losses are counted over so many packets, and half of what was counted before.
const COUNTED_PACKETS: u64 = 1024;

/// Round trips of a round that say something.
const SAMPLES: u32 = 4;

/// Makes them.
#[derive(Debug, Default)]
pub(super) struct Factory(Arc<CubicConfig>);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = self.0.clone().build(now, current_mtu);
        Box::new(Hearing { cubic, judge: Judge::new(now, current_mtu) })
    }
}

struct Hearing {
    cubic: Box<dyn Controller>,
    judge: Judge,
}

impl Controller for Hearing {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.judge.acknowledged(now, sent, bytes, rtt.get(), rtt.min());
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_packet_num_acked: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        // Without a lost byte it is what a router says (ECN).
        if self.judge.is_congestion(lost_bytes) || is_persistent_congestion || lost_bytes == 0 {
            self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.judge.packet_bytes = new_mtu.into();
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { cubic: self.cubic.clone_box(), judge: self.judge.clone() })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Tells a loss by congestion from another one.
#[derive(Debug, Clone)]
struct Judge {
    packet_bytes: u64,
    /// The shortest round trip of all.
    least: Duration,
    round_began: Instant,
    /// The shortest one of this round so far, of how many; and that of the round before.
    round_least: Duration,
    samples: u32,
    before: Duration,
    /// By how much round trips differ from their mean.
    deviation: Duration,
    acknowledged_bytes: u64,
    lost_bytes: u64,
}

impl Judge {
    fn new(now: Instant, packet_bytes: u16) -> Self {
        Self {
            packet_bytes: packet_bytes.into(),
            least: Duration::ZERO,
            round_began: now,
            round_least: Duration::MAX,
            samples: 0,
            before: Duration::ZERO,
            deviation: Duration::ZERO,
            acknowledged_bytes: 0,
            lost_bytes: 0,
        }
    }

    fn acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64, smoothed: Duration, least: Duration) {
        self.least = least;
        if now.saturating_duration_since(self.round_began) > smoothed {
            self.before = if self.samples > 0 { self.round_least } else { self.before };
            (self.round_began, self.round_least, self.samples) = (now, Duration::MAX, 0);
        }
        let round_trip = now.saturating_duration_since(sent);
        self.deviation = self.deviation * 15 / 16 + round_trip.abs_diff(smoothed) / 16;
        self.round_least = self.round_least.min(round_trip);
        self.samples += 1;
        self.count(bytes, 0);
    }

    fn is_congestion(&mut self, lost_bytes: u64) -> bool {
        self.count(0, lost_bytes);
        let round_trip = if self.samples >= SAMPLES { self.round_least } else { self.before };
        let waited = round_trip.saturating_sub(self.least) > QUEUE_LEAST.max(self.least / QUEUE_PART).max(self.deviation * 2);
        let part = self.lost_bytes as f64 / (self.lost_bytes + self.acknowledged_bytes).max(1) as f64;
        let are_many = self.lost_bytes > LOST_PACKETS * self.packet_bytes && part > LOST_PART;
        waited || are_many
    }

    fn count(&mut self, acknowledged_bytes: u64, lost_bytes: u64) {
        self.acknowledged_bytes += acknowledged_bytes;
        self.lost_bytes += lost_bytes;
        if self.acknowledged_bytes + self.lost_bytes > COUNTED_PACKETS * self.packet_bytes {
            self.acknowledged_bytes /= 2;
            self.lost_bytes /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: u64 = 1200;

    /// A path with this shortest round trip; `rounds` of a hundred packets, each with this round trip, of which so many are lost. Whether each loss was congestion.
    fn verdicts(least_ms: u64, round_trip_ms: u64, lost: u64) -> Vec<bool> {
        let (least, round_trip) = (Duration::from_millis(least_ms), Duration::from_millis(round_trip_ms));
        let mut now = Instant::now();
        let mut judge = Judge::new(now, PACKET as u16);
        let mut verdicts = vec![];
        for _round in 0..50 {
            now += round_trip + Duration::from_micros(1);
            for _packet in 0..100 - lost {
                judge.acknowledged(now, now - round_trip, PACKET, round_trip, least);
            }
            verdicts.extend((0..lost).map(|_| judge.is_congestion(PACKET)));
        }
        verdicts
    }

    #[test]
    fn what_was_lost_without_waiting_is_no_congestion() {
        assert!(verdicts(100, 101, 1).iter().all(|congestion| !congestion));
        assert!(verdicts(20, 21, 1).iter().all(|congestion| !congestion));
    }

    #[test]
    fn what_was_lost_after_waiting_is() {
        assert!(verdicts(100, 130, 1).iter().all(|congestion| *congestion));
        assert!(verdicts(1, 3, 1).iter().all(|congestion| *congestion));
    }

    #[test]
    fn many_losses_are() {
        let verdicts = verdicts(20, 20, 5);
        assert!(verdicts[..LOST_PACKETS as usize].iter().all(|congestion| !congestion), "few are none");
        assert!(verdicts[20..].iter().all(|congestion| *congestion));
    }
}
