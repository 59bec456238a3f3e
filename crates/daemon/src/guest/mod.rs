//! The host's side of the agent channel: one connection, many streams, everything bounded.
