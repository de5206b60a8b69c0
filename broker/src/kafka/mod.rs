//! The Kafka front: connections, dispatch, one handler per API.

mod answers;
mod connection;
mod dispatch;
mod error_map;
mod handlers;
mod listener;

pub(crate) use listener::listen;
