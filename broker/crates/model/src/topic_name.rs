//! topic_name: being written.
