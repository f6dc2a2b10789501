//! Client of the enclave agent: dial, wait until ready, pull.
