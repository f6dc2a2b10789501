//! System tests against real containerd, runc, registry and CNI.
