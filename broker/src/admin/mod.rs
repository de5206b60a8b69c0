//! The HTTP admin API: what `transform`, dashboards and Prometheus speak to.

pub mod records;
pub mod service;
pub mod types;

pub use service::{AdminService, Answer, ApiError, BoxFuture};
