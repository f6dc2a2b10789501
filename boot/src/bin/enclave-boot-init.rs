//! `/bin/init` of the boot instance, inside Occlum; see [`boot::occlum`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match boot::occlum::boot_app() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => boot::report::failure("enclave-boot-init", &error, None),
    }
}
