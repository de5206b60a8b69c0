//! The Kafka front: connections, dispatch, one handler per API.

mod admission;
mod answers;
mod client;
mod connection;
mod dispatch;
mod error_map;
mod handlers;
mod limits;
mod listener;
mod memory;
mod sessions;

pub(crate) use limits::ConnectionLimits;
pub(crate) use listener::listen;
pub(crate) use memory::Budgets;
pub(crate) use sessions::FetchSessions;
