//! System tests: each scenario is a claim about pods on a node, see `tests/src/lib.rs` for the node.
#![forbid(unsafe_code)]

mod crash;
mod exits;
mod failures;
mod fork;
mod harness;
mod images;
mod lifecycle;
mod network;
mod parity;
mod plain;
mod secrecy;

use std::process::ExitCode;

use tests::{namespace::Unified, suite};

fn main() -> ExitCode {
    let scenarios = [
        harness::SCENARIOS,
        lifecycle::SCENARIOS,
        exits::SCENARIOS,
        images::SCENARIOS,
        network::SCENARIOS,
        fork::SCENARIOS,
        failures::SCENARIOS,
        crash::SCENARIOS,
        plain::SCENARIOS,
        secrecy::SCENARIOS,
        parity::SCENARIOS,
    ]
    .concat();
    suite::main(Unified::Keep, &scenarios)
}
