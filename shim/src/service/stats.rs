//! Statistics of a cgroup in the messages that containerd expects.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use runtime::cgroup::Stats;

use super::Error;

pub fn encode(stats: Stats) -> Result<Any, Error> {
    let _ = stats;
    Ok(Any::new())
}
