//! Config schema, state files and host paths that two programs share.
