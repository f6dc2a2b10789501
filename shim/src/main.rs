//! containerd shim for enclave-cc pods (io.containerd.rune.v2).

fn main() {}
