//! Where the two shims differ, each time on purpose. A scenario that holds for both has no entry here.

use ttrpc::Code;

use crate::bench::Bench;

/// What each shim does, and why ours is not as the other.
pub struct Difference<T> {
    runc: T,
    rune: T,
    /// The reason.
    #[allow(dead_code)] // Read by people.
    pub why: &'static str,
}

impl<T: Copy> Difference<T> {
    /// What the shim under test does.
    pub fn of(&self, bench: &Bench<'_>) -> T {
        if bench.is_runc() { self.runc } else { self.rune }
    }
}

/// Whether the socket of a shim that was killed may outlive `delete`.
pub const KILLED_SHIMS_SOCKET: Difference<bool> = Difference {
    runc: true,
    rune: false,
    why: "the Go shim's delete leaves the socket of a killed shim, one file in /run for each",
};

/// The code for a step that the state does not allow.
pub const WRONG_STATE: Difference<&[Code]> = Difference {
    runc: &[Code::UNKNOWN, Code::FAILED_PRECONDITION],
    rune: &[Code::FAILED_PRECONDITION],
    why: "the Go shim answers most with an untyped error, of which a client can make nothing",
};

/// The code for a Create of an id that exists.
pub const CREATED_TWICE: Difference<&[Code]> = Difference {
    runc: &[Code::UNKNOWN, Code::ALREADY_EXISTS],
    rune: &[Code::ALREADY_EXISTS],
    why: "the Go shim leaves it to runc, whose words it passes on",
};

/// The code for CloseIO of an exec that does not exist.
pub const CLOSE_OF_NOBODY: Difference<&[Code]> = Difference {
    runc: &[Code::UNKNOWN, Code::NOT_FOUND],
    rune: &[Code::NOT_FOUND],
    why: "the Go shim wraps the error once more here and loses its code",
};

/// Whether an exec that could not be started may be started again, to be refused.
pub const START_AFTER_FAILURE: Difference<bool> = Difference {
    runc: false,
    rune: true,
    why: "the Go shim of containerd 1.6 dereferences a null pointer and is gone, with all its containers' output",
};

/// The exec id in the answer to State of the exec `e`.
pub const STATES_EXEC_ID: Difference<&str> = Difference {
    runc: "",
    rune: "e",
    why: "the Go shim of containerd 1.6 leaves the field empty, which later ones fill",
};

/// The code for options of an unknown type.
pub const UNKNOWN_OPTIONS: Difference<&[Code]> = Difference {
    runc: &[Code::NOT_FOUND, Code::UNKNOWN],
    rune: &[Code::INVALID_ARGUMENT],
    why: "the Go shim's type registry says not found, which for a Create means that the container is gone",
};

/// Whether a backend that writes noise to its log leads to an answer at all.
pub const NOISE_IS_ANSWERED: Difference<bool> = Difference {
    runc: false,
    rune: true,
    why: "the Go shim puts the noise into its answer, which is no valid message then, and the connection ends",
};

/// The verbs, of a running container, whose failure is told in the backend's own words.
pub const PASSED_ON: Difference<&[&str]> = Difference {
    runc: &["pause"],
    rune: &["pause", "update", "kill"],
    why: "the Go shim tells the exit status of runc's update and kill, and not what runc said",
};
