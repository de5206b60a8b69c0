//! The way to other nodes. A node that runs alone has none: every call fails at once and says so.

use std::future::Future;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{RaftNetworkFactory, RaftNetworkV2};

use crate::error::NoPeer;
use crate::state_machine::CheckpointToken;
use crate::types::TypeConfig;

/// Peers of a node that runs alone: none.
#[derive(Debug)]
pub(crate) struct Alone;

/// The connection to a peer that does not exist.
#[derive(Debug)]
pub(crate) struct NoConnection(NoPeer);

impl NoConnection {
    fn refused(&self) -> Unreachable<TypeConfig> {
        Unreachable::new(&self.0)
    }
}

impl RaftNetworkFactory<TypeConfig> for Alone {
    type Network = NoConnection;

    async fn new_client(&mut self, target: u64, _node: &()) -> NoConnection {
        NoConnection(NoPeer { node: target })
    }
}

impl RaftNetworkV2<TypeConfig> for NoConnection {
    type SnapshotData = CheckpointToken;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.refused().into())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.refused().into())
    }

    async fn pre_vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.refused().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<TypeConfig>,
        _snapshot: SnapshotOf<TypeConfig, CheckpointToken>,
        _cancel: impl Future<Output = ReplicationClosed> + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(self.refused().into())
    }
}
