//! The states of one process of a container, and the only steps between them.
//!
//! ```text
//!  Added ──start──▶ Running ──pause──▶ Paused
//!    (exec)           ▲  │ ◀──resume──   │
//!  Created ──start────┘  └──exit──┐      │exit
//!    (init) ─────────exit────────▶ Stopped ◀┘
//! ```
//! An exec begins as `Added` (registered, no process yet), a container's init as
//! `Created` (process exists, program not yet started).

use thiserror::Error;

use crate::process::Exit;

/// Where a process of a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// An exec that was registered and not started.
    Added,
    /// The container's init exists and waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// The container is frozen.
    Paused,
    /// The process has exited and its exit was announced.
    Stopped(Exit),
}

/// What may happen to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The program is started.
    Start,
    /// The container is frozen.
    Pause,
    /// The container is thawed.
    Resume,
    /// The process ended, or could not be started.
    Exit(Exit),
    /// An exec is added to the container.
    Exec,
    /// The container's resources are changed.
    Update,
    /// The container is checkpointed.
    Checkpoint,
    /// The process is forgotten.
    Delete,
}

/// A step that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("cannot {step} a {state} process")]
pub struct IllegalStep {
    /// The step, as a verb.
    pub step: &'static str,
    /// The state, as an adjective.
    pub state: &'static str,
}

impl State {
    /// The state after a step.
    ///
    /// # Errors
    /// [`IllegalStep`] where the diagram of the module has no such arrow.
    pub fn after(self, step: Step) -> Result<State, IllegalStep> {
        use State::{Added, Created, Paused, Running, Stopped};
        match (self, step) {
            (Added | Created, Step::Start) => Ok(Running),
            (Running, Step::Pause) => Ok(Paused),
            (Paused, Step::Resume) => Ok(Running),
            (Added | Created | Running | Paused, Step::Exit(exit)) => Ok(Stopped(exit)),
            (Created | Running, Step::Exec) => Ok(self),
            (Created | Running | Paused, Step::Update) => Ok(self),
            (Running | Paused, Step::Checkpoint) => Ok(self),
            (Added | Created | Stopped(_), Step::Delete) => Ok(self),
            (state, step) => Err(IllegalStep { step: step.verb(), state: state.adjective() }),
        }
    }

    fn adjective(self) -> &'static str {
        match self {
            State::Added => "not started",
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Stopped(_) => "stopped",
        }
    }
}

impl Step {
    fn verb(self) -> &'static str {
        match self {
            Step::Start => "start",
            Step::Pause => "pause",
            Step::Resume => "resume",
            Step::Exit(_) => "exit",
            Step::Exec => "exec in",
            Step::Update => "update",
            Step::Checkpoint => "checkpoint",
            Step::Delete => "delete",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ExitCode;
    use std::time::SystemTime;

    #[test]
    fn every_pair_of_state_and_step_is_as_the_diagram_says() {
        let exit = Exit { code: ExitCode::new(7), at: SystemTime::UNIX_EPOCH };
        let states = [State::Added, State::Created, State::Running, State::Paused, State::Stopped(exit)];
        let steps = [
            Step::Start,
            Step::Pause,
            Step::Resume,
            Step::Exit(exit),
            Step::Exec,
            Step::Update,
            Step::Checkpoint,
            Step::Delete,
        ];
        // One row a state, one column a step; `-` is illegal, `=` stays.
        let table = [
            // start pause resume exit exec update checkpoint delete
            ["R", "-", "-", "S", "-", "-", "-", "="], // added
            ["R", "-", "-", "S", "=", "=", "-", "="], // created
            ["-", "P", "-", "S", "=", "=", "=", "-"], // running
            ["-", "-", "R", "S", "-", "=", "=", "-"], // paused
            ["-", "-", "-", "-", "-", "-", "-", "="], // stopped
        ];
        for (state, row) in states.iter().zip(table) {
            for (step, want) in steps.iter().zip(row) {
                let got = state.after(*step);
                let expected = match want {
                    "R" => Ok(State::Running),
                    "P" => Ok(State::Paused),
                    "S" => Ok(State::Stopped(exit)),
                    "=" => Ok(*state),
                    _ => Err(IllegalStep { step: step.verb(), state: state.adjective() }),
                };
                assert_eq!(got, expected, "{state:?} {step:?}");
            }
        }
    }
}
