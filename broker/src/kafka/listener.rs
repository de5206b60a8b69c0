//! Accepting connections on one shard and handing them to all, in turn.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tidemill_model::ShardId;
use tidemill_rt::net::Listener;
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time;

use super::connection;
use crate::shard::Shard;

/// Connections a shard serves; further ones are closed at once.
pub(crate) const CONNECTIONS_PER_SHARD_MAX: i64 = 16_384;
/// How long to wait after a failed accept: descriptors have run out, and accepting again at once would only spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Accepts Kafka connections from now on, until `shard` stops. Connections go to the shards in turn.
///
/// # Errors
/// As the operating system says when the socket cannot be taken over.
pub(crate) fn listen(shard: &Rc<Shard>, listener: std::net::TcpListener) -> io::Result<()> {
    let listener = Listener::from_std(listener)?;
    let shard = shard.clone();
    drop(task::spawn(Queue::Kafka, async move {
        let accepting = Box::pin(accept_all(shard.clone(), listener));
        let stopped = Box::pin(shard.stopped());
        futures_util::future::select(accepting, stopped).await;
    }));
    Ok(())
}

async fn accept_all(shard: Rc<Shard>, listener: Listener) {
    let mut failing = false;
    for turn in 0u64.. {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot accept Kafka connections; trying again (file descriptors used up?)");
                }
                time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        failing = false;
        let target = ShardId((turn % u64::from(shard.info.shards)) as u16);
        let serve =
            move |shard: Rc<Shard>| async move { connection::serve(shard, stream, peer).await };
        // The answer comes when the connection ends; nobody waits for it.
        if shard.handle.submit(target, serve).await.is_err() {
            return;
        }
    }
}
