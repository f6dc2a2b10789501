//! Applies OCI image layers below a directory and nowhere else.
