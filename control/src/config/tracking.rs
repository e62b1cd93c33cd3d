//! `timeouts:` and `half_open_percent:`: how the dataplane follows conversations.

use sarcenet_dataplane_api::{MAX_TIMEOUT, Timeouts, Tracking};

use super::reader::Reader;
use super::tree::{At, Node};

impl Reader {
    /// Reads both. What is wrong is remembered; what is missing has its default.
    pub(super) fn tracking(
        &mut self,
        timeouts: Option<At<Node>>,
        half_open_percent: Option<At<Node>>,
    ) -> Tracking {
        let mut tracking = Tracking::default();
        if let Some(read) = timeouts.and_then(|node| self.timeouts(node)) {
            tracking.timeouts = read;
        }
        let percent = half_open_percent.and_then(|node| {
            let hint = "part of the flow table for one container's unanswered conversations";
            self.number(node, "half_open_percent", 1..=100, hint)
        });
        if let Some(percent) = percent {
            tracking.half_open_percent = percent.value as u8;
        }
        tracking
    }

    fn timeouts(&mut self, node: At<Node>) -> Option<Timeouts> {
        let mut entry = self.map(node, "timeouts", Timeouts::NAMES)?;
        let mut timeouts = Timeouts::default();
        for name in Timeouts::NAMES {
            let seconds = entry.take(name).and_then(|node| {
                self.number(node, name, 1..=MAX_TIMEOUT.into(), "seconds of silence")
            });
            if let Some((timeout, seconds)) = timeouts.named_mut(name).zip(seconds) {
                *timeout = seconds.value as u32;
            }
        }
        Some(timeouts)
    }
}
