//! Which partition of `__consumer_offsets` a group belongs to.

/// The partition of `group` among `partitions`: the absolute value of Java's `String.hashCode`, modulo. Tools compute it
/// too (`org.apache.kafka.common.utils.Utils.abs`).
pub fn partition_of(group: &str, partitions: i32) -> i32 {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    // Java's smallest integer has no absolute value; Kafka takes 0.
    hash.checked_abs()
        .unwrap_or(0)
        .checked_rem(partitions)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_the_one_of_java() {
        // "hello".hashCode() is 99162322, "polygenelubricants".hashCode() is Integer.MIN_VALUE.
        assert_eq!(partition_of("hello", i32::MAX), 99_162_322);
        assert_eq!(partition_of("polygenelubricants", 50), 0);
        let negative = "zzzzzz"
            .bytes()
            .fold(0i32, |h, b| h.wrapping_mul(31).wrapping_add(i32::from(b)));
        assert!(negative < 0);
        assert_eq!(partition_of("zzzzzz", i32::MAX), -negative);
        assert_eq!(partition_of("ü€", i32::MAX), 252 * 31 + 8364);
        assert_eq!(partition_of("", 50), 0);
    }
}
