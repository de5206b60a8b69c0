//! Frames: a 32-bit size, then that many bytes.

/// Largest request (Kafka's `socket.request.max.bytes`), in bytes.
pub const FRAME_BYTES_MAX: usize = 100 * 1024 * 1024;
/// Smallest request: API key, version and correlation id.
pub const FRAME_BYTES_MIN: usize = 8;

/// A frame size that cannot be; the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "frame of {size} bytes; a request has {FRAME_BYTES_MIN} to {max} bytes (is the client speaking TLS or HTTP?)"
)]
pub struct FrameSizeError {
    /// The size, as a client wrote it.
    pub size: i32,
    /// The largest that is taken, in bytes.
    pub max: usize,
}

/// Checks the size in front of a frame, before memory is taken for it: at most `max` bytes, and never more than
/// [`FRAME_BYTES_MAX`].
///
/// # Errors
/// [`FrameSizeError`].
pub fn check_size(size: [u8; 4], max: usize) -> Result<usize, FrameSizeError> {
    let max = max.min(FRAME_BYTES_MAX);
    let size = i32::from_be_bytes(size);
    let in_bounds = |n: &usize| (FRAME_BYTES_MIN..=max).contains(n);
    usize::try_from(size)
        .ok()
        .filter(in_bounds)
        .ok_or(FrameSizeError { size, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(size: i32, max: usize) -> Result<usize, FrameSizeError> {
        Err(FrameSizeError { size, max })
    }

    #[test]
    fn sizes_outside_the_bounds_are_refused() {
        assert_eq!(
            check_size((-1i32).to_be_bytes(), FRAME_BYTES_MAX),
            refused(-1, FRAME_BYTES_MAX)
        );
        assert_eq!(
            check_size(7i32.to_be_bytes(), FRAME_BYTES_MAX),
            refused(7, FRAME_BYTES_MAX)
        );
        assert_eq!(check_size(8i32.to_be_bytes(), FRAME_BYTES_MAX), Ok(8));
        let max = FRAME_BYTES_MAX as i32;
        assert_eq!(
            check_size(max.to_be_bytes(), FRAME_BYTES_MAX),
            Ok(FRAME_BYTES_MAX)
        );
        assert_eq!(
            check_size((max + 1).to_be_bytes(), FRAME_BYTES_MAX),
            refused(max + 1, FRAME_BYTES_MAX)
        );
        assert_eq!(check_size(101i32.to_be_bytes(), 100), refused(101, 100));
        assert!(check_size(*b"GET ", FRAME_BYTES_MAX).is_err());
    }
}
