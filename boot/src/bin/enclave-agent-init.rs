//! `/bin/init` of the agent instance, inside Occlum; see [`boot::occlum`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match boot::occlum::boot_agent() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => boot::report::failure("enclave-agent-init", &error, None),
    }
}
