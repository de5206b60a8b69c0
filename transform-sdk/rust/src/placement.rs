//! Which partition of an output topic a record goes to.

/// Which partition of an output topic a record goes to. Records that are placed alike keep their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Placement {
    /// That with the input partition's number, modulo the output's partitions: what a record has that keeps its key.
    #[default]
    ByInput,
    /// That which Kafka's clients choose for the record's key (murmur2): what a record has whose key was changed. A record without a
    /// key goes where [`Placement::ByInput`] would put it.
    ByKey,
    /// This one. The record fails where the output has no such partition.
    Partition(u32),
}
