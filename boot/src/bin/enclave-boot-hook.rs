//! OCI `createContainer` hook of mode NONE; see [`boot::hook`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use boot::hook;

fn main() -> ExitCode {
    let done = hook::Args::parse(std::env::args_os().skip(1))
        .and_then(|args| hook::run(&args, std::io::stdin().lock()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => boot::report::failure("enclave-boot-hook", &error),
    }
}
