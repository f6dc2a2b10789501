//! System tests: each scenario is a claim about pods on a node, see `tests/src/lib.rs` for the node.
#![forbid(unsafe_code)]

mod exits;
mod images;
mod lifecycle;
mod parity;

use std::process::ExitCode;

use tests::{namespace::Unified, suite};

fn main() -> ExitCode {
    let scenarios = [lifecycle::SCENARIOS, exits::SCENARIOS, images::SCENARIOS, parity::SCENARIOS].concat();
    suite::main(Unified::Keep, &scenarios)
}
