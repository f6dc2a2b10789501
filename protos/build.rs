//! Generates the ttrpc code in pure Rust; no protoc is needed.

use std::{env, fs, path::PathBuf};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for name in ["image", "shim_image", "runtimeoptions"] {
        let input = format!("proto/{name}.proto");
        println!("cargo:rerun-if-changed={input}");
        let dir = out.join(name);
        fs::create_dir_all(&dir).expect("OUT_DIR is writable");
        Codegen::new()
            .input(&input)
            .include("proto")
            .rust_protobuf()
            .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(true))
            .customize(Customize { async_all: true, gen_mod: true, ..Default::default() })
            .out_dir(&dir)
            .run()
            .unwrap_or_else(|e| panic!("{input}: {e}"));
        // `include!` takes no file that begins with inner attributes.
        let module = dir.join("mod.rs");
        let text = fs::read_to_string(&module).expect("the generator writes mod.rs");
        let plain: Vec<&str> = text.lines().filter(|line| !line.starts_with("#![")).collect();
        fs::write(&module, plain.join("\n")).expect("OUT_DIR is writable");
    }
}
