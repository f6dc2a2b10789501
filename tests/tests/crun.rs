//! The scenarios that crun, as the OCI backend, has to pass; it refuses hybrid cgroups, so the node hides one.
#![forbid(unsafe_code)]

#[path = "system/exits.rs"]
mod exits;
#[path = "system/lifecycle.rs"]
mod lifecycle;
#[path = "system/parity.rs"]
mod parity;

use std::process::ExitCode;

use tests::{
    handlers::{CRUN, PLAIN_CRUN},
    namespace::Unified,
    suite,
};

fn main() -> ExitCode {
    let scenarios: Vec<_> = [lifecycle::SCENARIOS, exits::SCENARIOS, parity::SCENARIOS].concat();
    let scenarios: Vec<_> =
        scenarios.into_iter().map(|scenario| scenario.only(&[PLAIN_CRUN, CRUN])).collect();
    suite::main(Unified::Hide, &scenarios)
}
