//! Mechanism of a container runtime shim: OCI backends, bundles, mounts, stdio, processes, cgroups.
