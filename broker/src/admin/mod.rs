//! The HTTP admin API: what `transform`, dashboards and Prometheus speak to.
//!
//! It lives on the control thread, a thread of its own with a tokio runtime, so that nothing asked here
//! can hold a shard up. Nobody is authenticated yet; what keeps web pages out is [`guard`].

mod connection;
pub mod guard;
pub mod records;
mod routes;
pub mod server;
pub mod service;
pub mod types;

pub use guard::Guard;
pub use server::{AdminServer, start};
pub use service::{AdminService, Answer, ApiError, BoxFuture};
