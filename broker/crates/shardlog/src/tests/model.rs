//! What frames mean, written a second time and as plainly as possible, to hold recovery against.

use bytes::Bytes;

use crate::{Frame, RecoveredRing};

/// Takes one frame.
pub(crate) fn step(ring: &mut RecoveredRing, frame: &Frame) {
    match frame {
        Frame::Entry { index, data } => {
            ring.entries.insert(*index, Bytes::from(data.concat()));
        }
        Frame::Carried { .. } => {
            unreachable!("only the log appends copies, and they change nothing")
        }
        Frame::Truncate { after } => ring.entries.retain(|index, _| index <= after),
        Frame::Vote { data } => ring.vote = Some(data.clone()),
        Frame::Purge { upto, data } => {
            ring.purged = Some((*upto, data.clone()));
            ring.entries.retain(|index, _| index > upto);
        }
    }
}
