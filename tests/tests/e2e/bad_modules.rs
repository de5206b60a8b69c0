//! Modules that misbehave (placeholder until the guests are there).
