//! What a Raft log entry carries: a short head and the record batches it moves, without copying them.

use bytes::{BufMut, Bytes, BytesMut};

/// Most bodies one command may have.
pub const BODIES_MAX: usize = 65_536;

/// An opaque command of a state machine. `head` is encoded by the crate that proposes it (`ring`, `controller`);
/// `bodies` are byte strings that `head` refers to by index (record batches).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    /// What to do.
    pub head: Bytes,
    /// The data it concerns.
    pub bodies: Vec<Bytes>,
}

/// Bytes that are not an encoded command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed command: {0}")]
pub struct CommandError(pub &'static str);

impl Command {
    /// Bytes of the encoded form.
    pub fn encoded_len(&self) -> usize {
        8 + 4 * self.bodies.len()
            + self.head.len()
            + self.bodies.iter().map(Bytes::len).sum::<usize>()
    }

    /// The encoded form, in parts that share the command's memory:
    /// `head_len u32, bodies u32, body_len u32 each` (big endian), head, bodies.
    pub fn encode(&self) -> Vec<Bytes> {
        let mut prefix = BytesMut::with_capacity(8 + 4 * self.bodies.len() + self.head.len());
        prefix.put_u32(self.head.len() as u32);
        prefix.put_u32(self.bodies.len() as u32);
        for body in &self.bodies {
            prefix.put_u32(body.len() as u32);
        }
        prefix.put_slice(&self.head);
        let mut parts = Vec::with_capacity(1 + self.bodies.len());
        parts.push(prefix.freeze());
        parts.extend(self.bodies.iter().cloned());
        parts
    }

    /// Reads the encoded form; head and bodies share `bytes`.
    ///
    /// # Errors
    /// [`CommandError`] when lengths do not fit together.
    pub fn decode(bytes: &Bytes) -> Result<Command, CommandError> {
        let u32_at = |at: usize| -> Result<usize, CommandError> {
            let b = bytes
                .get(at..at + 4)
                .ok_or(CommandError("shorter than its prefix"))?;
            Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
        };
        let (head_len, count) = (u32_at(0)?, u32_at(4)?);
        if count > BODIES_MAX {
            return Err(CommandError("too many bodies"));
        }
        let mut at = 8 + 4 * count;
        let mut take = |len: usize| {
            let end = at.checked_add(len).filter(|end| *end <= bytes.len());
            let end = end.ok_or(CommandError("shorter than its lengths say"))?;
            let part = bytes.slice(at..end);
            at = end;
            Ok(part)
        };
        let head = take(head_len)?;
        let mut bodies = Vec::with_capacity(count);
        for i in 0..count {
            bodies.push(take(u32_at(8 + 4 * i)?)?);
        }
        if at != bytes.len() {
            return Err(CommandError("longer than its lengths say"));
        }
        Ok(Command { head, bodies })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_round_trips_and_refuses_other_lengths() {
        let command = Command {
            head: Bytes::from_static(b"head"),
            bodies: vec![Bytes::from_static(b"one"), Bytes::new()],
        };
        let flat = Bytes::from(command.encode().concat());
        assert_eq!(flat.len(), command.encoded_len());
        assert_eq!(Command::decode(&flat), Ok(command));
        for cut in 0..flat.len() {
            assert!(Command::decode(&flat.slice(..cut)).is_err());
        }
        let longer = Bytes::from([&flat[..], b"x"].concat());
        assert!(Command::decode(&longer).is_err());
    }
}
