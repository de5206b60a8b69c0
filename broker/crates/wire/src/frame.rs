//! Frames: a 32-bit size, then that many bytes.

/// Largest request (Kafka's `socket.request.max.bytes`), in bytes.
pub const FRAME_BYTES_MAX: usize = 100 * 1024 * 1024;
/// Smallest request: API key, version and correlation id.
pub const FRAME_BYTES_MIN: usize = 8;

/// A frame size that cannot be; the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "frame of {0} bytes; a request has {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX} bytes (is the client speaking TLS or HTTP?)"
)]
pub struct FrameSizeError(pub i32);

/// Checks the size in front of a frame, before memory is taken for it.
///
/// # Errors
/// [`FrameSizeError`].
pub fn check_size(size: [u8; 4]) -> Result<usize, FrameSizeError> {
    let size = i32::from_be_bytes(size);
    let in_bounds = |n: &usize| (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(n);
    usize::try_from(size)
        .ok()
        .filter(in_bounds)
        .ok_or(FrameSizeError(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_outside_the_bounds_are_refused() {
        assert_eq!(check_size((-1i32).to_be_bytes()), Err(FrameSizeError(-1)));
        assert_eq!(check_size(7i32.to_be_bytes()), Err(FrameSizeError(7)));
        assert_eq!(check_size(8i32.to_be_bytes()), Ok(8));
        let max = FRAME_BYTES_MAX as i32;
        assert_eq!(check_size(max.to_be_bytes()), Ok(FRAME_BYTES_MAX));
        assert_eq!(
            check_size((max + 1).to_be_bytes()),
            Err(FrameSizeError(max + 1))
        );
        assert!(check_size(*b"GET ").is_err());
    }
}
