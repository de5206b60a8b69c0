//! The admin server: its thread, its limits, its end.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::connection::{BoundedListener, Place};
use super::guard::Guard;
use super::routes;
use super::service::AdminService;

/// How long requests under way may take to end once the server is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// A running admin server.
#[derive(Debug)]
pub(crate) struct AdminServer {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl AdminServer {
    /// Takes no new requests, lets those under way end within five seconds, and returns when the thread is gone.
    /// Blocks; never call it on a shard.
    pub(crate) fn stop(self) {
        // The receiver is gone only where the server has ended already.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the admin server's thread panicked");
        }
    }
}

/// Serves `service` on `listener`, at most `connections_max` connections at once, on a thread of its own named `admin`.
///
/// # Errors
/// Where the listener cannot be made non-blocking, or the thread or its runtime cannot be made.
pub(crate) fn start(
    listener: TcpListener,
    guard: Guard,
    service: Arc<dyn AdminService>,
    connections_max: usize,
) -> io::Result<AdminServer> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let listener = {
        let _context = runtime.enter();
        BoundedListener::new(
            tokio::net::TcpListener::from_std(listener)?,
            connections_max,
        )
    };
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            runtime.block_on(serve(listener, guard, service, stopped));
            // Whatever is still blocked somewhere must not hold the broker's end up.
            runtime.shutdown_background();
        })?;
    Ok(AdminServer { stop, thread })
}

async fn serve(
    listener: BoundedListener,
    guard: Guard,
    service: Arc<dyn AdminService>,
    stopped: oneshot::Receiver<()>,
) {
    let (began, grace) = oneshot::channel::<()>();
    let router = routes::router(guard, service).into_make_service_with_connect_info::<Place>();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        // A dropped handle stops the server just as a word from it does.
        let _ = stopped.await;
        let _ = began.send(());
    });
    let out_of_time = async {
        let _ = grace.await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = server.into_future() => if let Err(error) = result {
            tracing::error!(%error, "the admin server ended");
        },
        () = out_of_time => tracing::warn!("admin requests were cut off: they took over {} s to end", GRACE.as_secs()),
    }
}

#[cfg(test)]
mod tests;
