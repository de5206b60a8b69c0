//! What frames mean, written a second time and as plainly as possible, to hold recovery against.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemill_model::RingId;

use crate::{Frame, RecoveredRing};

/// The rings after `frames`.
pub(crate) fn replay(frames: &[(RingId, Frame)]) -> BTreeMap<RingId, RecoveredRing> {
    let mut rings: BTreeMap<RingId, RecoveredRing> = BTreeMap::new();
    for (ring, frame) in frames {
        step(rings.entry(*ring).or_default(), frame);
    }
    rings
}

pub(crate) fn step(ring: &mut RecoveredRing, frame: &Frame) {
    match frame {
        Frame::Entry { index, data } => {
            ring.entries.insert(*index, Bytes::from(data.concat()));
        }
        Frame::Truncate { after } => ring.entries.retain(|index, _| index <= after),
        Frame::Vote { data } => ring.vote = Some(data.clone()),
        Frame::Purge { upto, data } => {
            ring.purged = Some((*upto, data.clone()));
            ring.entries.retain(|index, _| index > upto);
        }
    }
}
