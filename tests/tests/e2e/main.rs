//! End-to-end tests: real brokers as processes, real clients, on every engine.

#![forbid(unsafe_code)]

mod admin;
mod answers;
mod bad_input;
mod bad_modules;
mod broker_defaults;
mod builtins;
mod clients;
mod command_line;
mod connections;
mod costly_modules;
mod damage;
mod deployments;
mod developing;
mod disks;
mod examples;
mod greedy_clients;
mod group_limits;
mod groups;
mod kafka;
mod kills;
mod languages;
mod log_life;
mod members;
mod messages;
mod module_files;
mod neighbours;
mod operations;
mod outboxes;
mod placement;
mod secrets;
mod sessions;
mod starting;
mod transform_logs;
mod wide_topics;
