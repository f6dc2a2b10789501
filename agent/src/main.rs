//! The enclave agent: pulls, verifies, decrypts and stores images.

fn main() {}
