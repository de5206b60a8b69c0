//! What can be wrong with a request, by Kafka's names.

/// Why a group did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The coordinator cannot answer now; try again.
    #[error("the coordinator of the group cannot answer now; try again")]
    CoordinatorNotAvailable,
    /// The coordinator still reads what it has written.
    #[error("the coordinator of the group is being loaded; try again")]
    CoordinatorLoadInProgress,
    /// Another node or partition looks after the group.
    #[error("another coordinator looks after the group; ask who does")]
    NotCoordinator,
    /// The group has no name, or too long a one.
    #[error(
        "the name of the group is empty, or longer than {} bytes",
        super::limits::GROUP_ID_BYTES_MAX
    )]
    InvalidGroupId,
    /// The member speaks of another generation.
    #[error("the generation is not the group's; join again")]
    IllegalGeneration,
    /// The member offers no protocol that all others know, or another type.
    #[error("the member offers no assignment protocol that the other members of the group know")]
    InconsistentGroupProtocol,
    /// Nobody of that id is in the group.
    #[error("the group has no such member; join again")]
    UnknownMemberId,
    /// The session time-out is not within bounds.
    #[error("the session timeout must be {} to {} ms", super::limits::SESSION_MS.start(), super::limits::SESSION_MS.end())]
    InvalidSessionTimeout,
    /// The group rebalances.
    #[error("the group rebalances; join again")]
    RebalanceInProgress,
    /// The member has to come again with the id it was given (KIP-394).
    #[error("join again with the member id given")]
    MemberIdRequired,
    /// The group has as many members, or as large ones, as it may.
    #[error("the group is as large as it may be")]
    GroupMaxSizeReached,
    /// Another member took over the instance id (KIP-345).
    #[error("another member has taken over this group instance id")]
    FencedInstanceId,
    /// The group has members.
    #[error("the group has members; stop them first")]
    NonEmptyGroup,
    /// There is no such group.
    #[error("there is no such group")]
    GroupIdNotFound,
    /// A member reads the topic.
    #[error("a member of the group is subscribed to the topic")]
    GroupSubscribedToTopic,
    /// The text of a commit is too long.
    #[error(
        "the metadata of a commit may have {} bytes",
        super::limits::COMMIT_METADATA_BYTES_MAX
    )]
    OffsetMetadataTooLarge,
    /// A request commits too much, or takes back too much, at once.
    #[error(
        "the offsets of one request may take {} bytes; name fewer partitions in each",
        super::limits::COMMIT_BYTES_MAX
    )]
    CommitTooLarge,
    /// The shard has no room for more.
    #[error(
        "the shard keeps as many groups and offsets as it may; delete groups that are not needed"
    )]
    NoRoom,
}
