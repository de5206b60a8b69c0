//! Accepting connections on one shard and handing them to all, in turn.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tidemill_model::ShardId;
use tidemill_rt::net::Listener;
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time::{self, Instant};

use super::connection;
use crate::shard::Shard;

/// How long to wait after a failed accept: descriptors have run out, and accepting again at once would only spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often failing accepts are logged at most.
const ACCEPT_LOG_EVERY: Duration = Duration::from_secs(60);

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

/// Whether a failed accept was about one connection only, which had gone again (accept(2)): the next one may be good.
fn passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

async fn accept_all(shard: Rc<Shard>, listener: Listener) {
    let mut logged: Option<Instant> = None;
    for turn in 0u64.. {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !passing(&error) {
                    if logged.is_none_or(|at| at.elapsed() >= ACCEPT_LOG_EVERY) {
                        logged = Some(Instant::now());
                        tracing::warn!(%error, "cannot accept Kafka connections; trying again (is `ulimit -n` too small?)");
                    }
                    time::sleep(ACCEPT_RETRY).await;
                }
                continue;
            }
        };
        let target = ShardId((turn % u64::from(shard.info.shards)) as u16);
        let serve =
            move |shard: Rc<Shard>| async move { connection::serve(shard, stream, peer).await };
        // The answer comes when the connection ends; nobody waits for it.
        if shard.handle.submit(target, serve).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepting_pauses_when_descriptors_run_out_but_not_for_a_client_that_left() {
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert!(!passing(&io::Error::from_raw_os_error(code)));
        }
        assert!(passing(&io::Error::from_raw_os_error(libc::ECONNABORTED)));
    }
}
