//! Accepting connections on one shard and handing them to all, in turn.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tidemill_model::ShardId;
use tidemill_rt::net::Listener;
use tidemill_rt::task::{self, Queue};
use tidemill_rt::time::{self, Instant};

use super::admission::{Admission, Refused};
use super::connection;
use crate::shard::Shard;

/// How long to wait after a failed accept: descriptors have run out, and accepting again at once would only spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often failing accepts, and refused connections, are logged at most.
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

/// Says whether something may be logged: the first time, and once every [`ACCEPT_LOG_EVERY`].
#[derive(Debug, Default)]
struct Seldom(Option<Instant>);

impl Seldom {
    fn now(&mut self) -> bool {
        let due = self.0.is_none_or(|at| at.elapsed() >= ACCEPT_LOG_EVERY);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}

async fn accept_all(shard: Rc<Shard>, listener: Listener) {
    let (mut failing, mut refusing) = (Seldom::default(), Seldom::default());
    let mut admission = Admission::new(shard.info.connections);
    for turn in 0u64.. {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !passing(&error) {
                    if failing.now() {
                        tracing::warn!(%error, "cannot accept Kafka connections; trying again (is `ulimit -n` too small?)");
                    }
                    time::sleep(ACCEPT_RETRY).await;
                }
                continue;
            }
        };
        let place = match admission.admit(peer.ip()) {
            Ok(place) => place,
            Err(refused) => {
                shard.metrics.refused_connection(match refused {
                    Refused::Total(_) => "total",
                    Refused::Address(_) => "address",
                });
                if refusing.now() {
                    tracing::warn!(%peer, "Kafka connection refused: {refused}; raise the limit if it is an honest client's");
                }
                continue;
            }
        };
        let target = ShardId((turn % u64::from(shard.info.shards)) as u16);
        let serve = move |shard: Rc<Shard>| async move {
            connection::serve(shard, stream, peer).await;
            drop(place);
        };
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
