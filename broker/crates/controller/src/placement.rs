//! Which ring a new partition goes to (architecture, section 4).

use tidemill_model::RingId;

/// The data rings of a single node of `shards` shards: one for each shard, ids 1 to `shards`, so that ring *r* runs on
/// shard `r % shards`.
pub fn data_rings(shards: u16) -> Vec<RingId> {
    (1..=u32::from(shards)).map(RingId).collect()
}

/// The rings of `partitions` new partitions: `(first + i) mod n`.
pub fn place(first: usize, partitions: usize, rings: &[RingId]) -> Vec<u32> {
    assert!(!rings.is_empty(), "a node has at least one data ring");
    (0..partitions)
        .map(|i| rings[(first + i) % rings.len()].0)
        .collect()
}

/// The placement of an output topic that takes over its input's: partition *i* goes where the input's partition
/// `i mod its count` is, so that a transform's input and output share a ring and an entry.
pub fn place_beside(input: &[u32], partitions: usize) -> Vec<u32> {
    assert!(!input.is_empty(), "a topic has at least one partition");
    (0..partitions).map(|i| input[i % input.len()]).collect()
}

/// The rings of `more` partitions that are added to a topic whose first one is in `first`: they go on round the rings
/// where the topic stands.
pub fn place_more(first: u32, existing: usize, more: usize, rings: &[RingId]) -> Vec<u32> {
    assert!(!rings.is_empty(), "a node has at least one data ring");
    let first = rings.iter().position(|r| r.0 == first).unwrap_or(0);
    place(first + existing, more, rings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_goes_round_the_rings_from_first() {
        let rings = data_rings(3);
        assert_eq!(place(2, 4, &rings), vec![3, 1, 2, 3]);
    }

    #[test]
    fn place_more_goes_on_where_place_ended() {
        let rings = data_rings(3);
        let (all, some) = (place(1, 7, &rings), place(1, 2, &rings));
        assert_eq!(place_more(some[0], 2, 5, &rings), all[2..]);
    }

    #[test]
    fn place_beside_takes_over_the_inputs_rings() {
        assert_eq!(place_beside(&[2, 1], 3), vec![2, 1, 2]);
    }
}
