//! Generates the gRPC code in pure Rust; no protoc is needed.

fn main() {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["snapshots.proto", "state.proto"], ["proto"])
        .unwrap_or_else(|error| panic!("{error:?}"));
    tonic_prost_build::configure()
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .compile_fds(files)
        .expect("OUT_DIR is writable");
}
