//! How many Kafka connections there may be, and how often they are looked at.

use std::time::Duration;

use tidemill_rt::net;

use crate::config::table::Kafka;

/// Memory of a connection that does nothing, in bytes: tasks, buffers, and the kernel's part.
const CONNECTION_BYTES: u64 = 32 << 10;
/// Connections together take at most this part of the machine's memory.
const CONNECTIONS_MEMORY_PART: u64 = 16;
/// Fewest connections that are let in however small the machine.
const CONNECTIONS_MIN: u64 = 256;

/// Limits of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// Connections of the node; more are closed at once.
    pub(crate) total: usize,
    /// Connections of one address (an IPv6 /64 counts as one); more are closed at once.
    pub(crate) per_address: usize,
}

impl ConnectionLimits {
    /// What `settings` want, as far as the limit of open files allows it, on a machine with `memory` bytes.
    pub(crate) fn new(settings: &Kafka, memory: u64) -> ConnectionLimits {
        ConnectionLimits::of(settings, memory, net::connections_max(1) as u64)
    }

    fn of(settings: &Kafka, memory: u64, descriptors: u64) -> ConnectionLimits {
        let affordable = memory / CONNECTIONS_MEMORY_PART / CONNECTION_BYTES;
        let wanted = settings.connections_max;
        let total = wanted.unwrap_or(affordable.max(CONNECTIONS_MIN));
        let total = total.min(descriptors);
        // One client, however wrong, leaves room for others.
        let per_address = settings.connections_per_address_max;
        let per_address = per_address.unwrap_or(total.div_ceil(2)).min(total);
        ConnectionLimits {
            total: usize::try_from(total).unwrap_or(usize::MAX),
            per_address: usize::try_from(per_address).unwrap_or(usize::MAX),
        }
    }
}

/// How often connections are looked at: so often that no limit is passed by more than a quarter.
pub(super) fn watch_every(settings: &Kafka) -> Duration {
    let shortest = settings
        .idle_timeout
        .min(settings.first_request_timeout)
        .min(settings.write_timeout);
    (shortest / 4).clamp(Duration::from_millis(50), Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn connections_follow_memory_descriptors_and_settings() {
        let mut kafka = Settings::default().kafka;
        let total = |kafka: &Kafka, memory, files| {
            let limits = ConnectionLimits::of(kafka, memory, files);
            (limits.total, limits.per_address)
        };
        assert_eq!(total(&kafka, 512 << 20, 1 << 20), (1024, 512));
        assert_eq!(total(&kafka, 1 << 20, 1 << 20), (256, 128));
        assert_eq!(total(&kafka, 1 << 40, 300), (300, 150));
        kafka.connections_max = Some(5_000);
        assert_eq!(total(&kafka, 512 << 20, 1 << 20), (5_000, 2_500));
        kafka.connections_per_address_max = Some(9_000);
        assert_eq!(total(&kafka, 512 << 20, 1 << 20), (5_000, 5_000));
    }

    #[test]
    fn looking_is_as_often_as_the_shortest_limit_needs() {
        let mut kafka = Settings::default().kafka;
        assert_eq!(watch_every(&kafka), Duration::from_millis(7_500));
        kafka.idle_timeout = Duration::from_secs(1);
        assert_eq!(watch_every(&kafka), Duration::from_millis(250));
    }
}
