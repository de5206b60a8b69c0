//! The limits of instances: what is counted, and what the engine is told.

use wasmtime::Error;

use super::*;

const LIMIT: usize = 1 << 20;

fn limiter(reservation: &Arc<Reservation>) -> Limiter {
    Limiter {
        own_limit: LIMIT,
        own_used: 0,
        reservation: reservation.clone(),
        refused: None,
    }
}

#[test]
fn growth_that_was_never_asked_about_gives_nothing_back() {
    let reservation = Reservation::new(4 * LIMIT);
    let mut limiter = limiter(&reservation);
    assert!(limiter.memory_growing(0, LIMIT, None).unwrap());
    // As the engine does when the new size of a table overflows, or a memory's is past what its type allows.
    limiter.table_grow_failed(Error::msg("overflow")).unwrap();
    limiter.memory_grow_failed(Error::msg("overflow")).unwrap();
    assert!(!limiter.memory_growing(LIMIT, LIMIT + 1, None).unwrap());
    assert_eq!(limiter.own_used, LIMIT);
    assert_eq!(reservation.free(), 3 * LIMIT);
    drop(limiter);
    assert_eq!(reservation.free(), 4 * LIMIT);
}

#[test]
fn growth_past_a_maximum_is_refused_and_not_counted() {
    let reservation = Reservation::new(4 * LIMIT);
    let mut limiter = limiter(&reservation);
    assert!(!limiter.memory_growing(0, 2, Some(1)).unwrap());
    assert!(!limiter.table_growing(0, 2, Some(1)).unwrap());
    assert_eq!((limiter.own_used, reservation.free()), (0, 4 * LIMIT));
    assert!(limiter.refused.is_none(), "it is no matter of the limit");
}

#[test]
fn engine_gives_no_instance_more_than_a_limit_may_be() {
    // A component around a core module with a memory: `(memory i64 1)` for the first, `(memory <pages>)` otherwise.
    let component = |memory: &[u8]| {
        let mut core = b"\0asm\x01\0\0\0\x05".to_vec();
        core.push(memory.len() as u8 + 1);
        core.push(1);
        core.extend_from_slice(memory);
        let mut bytes = b"\0asm\x0d\0\x01\0\x01".to_vec();
        bytes.push(core.len() as u8);
        bytes.extend_from_slice(&core);
        bytes
    };
    let engine = engine().unwrap();
    let compile = |memory: &[u8]| engine.precompile_component(&component(memory));
    assert!(compile(&[0, 1]).is_ok());
    let error = compile(&[4, 1]).unwrap_err();
    assert!(format!("{error:#}").contains("memory64"), "{error:#}");
    // 8,193 pages of 64 KiB: one more than the largest limit.
    let error = compile(&[0, 0x81, 0x40])
        .and_then(|code| {
            #[allow(unsafe_code, reason = "the engine cannot check machine code")]
            // SAFETY: the code was made by this engine a moment ago.
            unsafe {
                wasmtime::component::Component::deserialize(&engine, code)
            }
        })
        .unwrap_err();
    assert!(format!("{error:#}").contains("memory"), "{error:#}");
}
