//! OCI `createContainer` hook of mode NONE; see [`boot::hook`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use boot::{hook, report};

const NAME: &str = "enclave-boot-hook";

fn main() -> ExitCode {
    let args = match hook::Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(error) => return report::failure(NAME, &error, None),
    };
    match hook::run(&args, std::io::stdin().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failure(NAME, &error, args.report()),
    }
}
