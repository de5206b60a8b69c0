//! The Kafka front: connections, dispatch, one handler per API.

mod answers;
mod connection;
mod dispatch;
mod error_map;
mod handlers;
mod listener;
mod memory;

pub(crate) use listener::listen;
pub(crate) use memory::Budgets;
