//! The HTTP admin API: what `transform`, dashboards and Prometheus speak to.
//!
//! It lives on the control thread, a thread of its own with a tokio runtime, so that nothing asked here
//! can hold a shard up. Nobody is authenticated yet; what keeps web pages out is [`guard`].

mod connection;
pub(crate) mod guard;
pub(crate) mod records;
mod routes;
pub(crate) mod server;
pub(crate) mod service;
pub(crate) mod types;

pub(crate) use guard::Guard;
pub(crate) use server::start;
pub(crate) use service::{AdminService, Answer, ApiError, BoxFuture};
