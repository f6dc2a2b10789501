//! The contract between containerd and a shim, claim by claim, with the shim driven as containerd drives it.
//!
//! Each claim is proved with runc's own shim and holds for ours; [`differences`] lists where they part.
#![forbid(unsafe_code)]

mod bench;
mod control;
mod crash;
mod differences;
mod exec;
mod faults;
mod options;
mod order;
mod states;
mod stdio;
mod verbs;

use std::process::ExitCode;

use tests::{namespace::Unified, suite};

fn main() -> ExitCode {
    let scenarios = [
        states::SCENARIOS,
        exec::SCENARIOS,
        control::SCENARIOS,
        options::SCENARIOS,
        order::SCENARIOS,
        stdio::SCENARIOS,
        faults::SCENARIOS,
        verbs::SCENARIOS,
        crash::SCENARIOS,
    ]
    .concat();
    suite::main(Unified::Keep, &scenarios)
}
