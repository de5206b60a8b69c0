//! Who may connect: so many connections of the node, and so many of one address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::limits::ConnectionLimits;

/// Addresses remembered before those without connections are forgotten.
const ADDRESSES_KEPT: usize = 1024;
/// Bits of an IPv6 address that stand for one client: a site is given at least a /64 (RFC 6177).
const V6_CLIENT_BITS: u32 = 64;

/// Counts connections. Lives on the shard that accepts; the places go with the connections to their shards.
#[derive(Debug)]
pub(super) struct Admission {
    limits: ConnectionLimits,
    /// One reference for each open connection, and one here.
    total: Arc<()>,
    /// The same for each address.
    addresses: BTreeMap<IpAddr, Arc<()>>,
    forget_at: usize,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _total: Arc<()>,
    _address: Arc<()>,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// The node has as many as it may have.
    #[error("the node has {0} connections, as many as it may have")]
    Total(usize),
    /// The address has as many as it may have.
    #[error("its address has {0} connections, as many as one may have")]
    Address(usize),
}

impl Admission {
    /// No connections yet.
    pub(super) fn new(limits: ConnectionLimits) -> Admission {
        Admission {
            limits,
            total: Arc::default(),
            addresses: BTreeMap::new(),
            forget_at: ADDRESSES_KEPT,
        }
    }

    /// A place for a connection from `peer`.
    pub(super) fn admit(&mut self, peer: IpAddr) -> Result<Place, Refused> {
        if open(&self.total) >= self.limits.total {
            return Err(Refused::Total(self.limits.total));
        }
        if self.addresses.len() >= self.forget_at {
            self.addresses.retain(|_, address| open(address) > 0);
            self.forget_at = ADDRESSES_KEPT.max(2 * self.addresses.len());
        }
        let address = self.addresses.entry(client(peer)).or_default();
        if open(address) >= self.limits.per_address {
            return Err(Refused::Address(self.limits.per_address));
        }
        Ok(Place {
            _total: self.total.clone(),
            _address: address.clone(),
        })
    }
}

fn open(counted: &Arc<()>) -> usize {
    Arc::strong_count(counted) - 1
}

/// What stands for the client at `peer`.
fn client(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) >> (128 - V6_CLIENT_BITS) << (128 - V6_CLIENT_BITS);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(total: usize, per_address: usize) -> Admission {
        Admission::new(ConnectionLimits { total, per_address })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_with_all_its_connections_waits_for_one_to_end_and_others_do_not() {
        let mut admission = admission(10, 2);
        let first = admission.admit(ip("10.0.0.1")).unwrap();
        let _second = admission.admit(ip("::ffff:10.0.0.1")).unwrap();
        let refused = admission.admit(ip("10.0.0.1")).unwrap_err();
        assert_eq!(refused, Refused::Address(2));
        let _other = admission.admit(ip("10.0.0.2")).unwrap();
        drop(first);
        assert!(admission.admit(ip("10.0.0.1")).is_ok());
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let mut admission = admission(10, 1);
        let _first = admission.admit(ip("2001:db8::1")).unwrap();
        assert!(admission.admit(ip("2001:db8::ffff:2")).is_err());
        assert!(admission.admit(ip("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn the_node_refuses_above_its_total() {
        let mut admission = admission(2, 2);
        let first = admission.admit(ip("10.0.0.1")).unwrap();
        let _second = admission.admit(ip("10.0.0.2")).unwrap();
        assert_eq!(
            admission.admit(ip("10.0.0.3")).unwrap_err(),
            Refused::Total(2)
        );
        drop(first);
        assert!(admission.admit(ip("10.0.0.3")).is_ok());
    }

    #[test]
    fn addresses_without_connections_are_forgotten() {
        let mut admission = admission(usize::MAX, 1);
        for n in 0..10 * ADDRESSES_KEPT as u32 {
            admission
                .admit(IpAddr::V4(std::net::Ipv4Addr::from(n)))
                .unwrap();
        }
        assert!(admission.addresses.len() <= ADDRESSES_KEPT);
    }
}
