//! `-info`: what the runtime can do, for containerd 2.x.

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::Context;
use containerd_shim_protos::{
    protobuf::{Message, MessageField, well_known_types::any::Any},
    types::introspection::{RuntimeInfo, RuntimeVersion},
};
use runtime::{
    oci::{Backend, BackendConfig},
    process::Reaper,
};
use serde_json::Value;

use crate::service::options::Options;

/// How long the backend may take to tell its features.
const FEATURES: Duration = Duration::from_secs(5);

/// Runs the action.
///
/// # Errors
/// The options on stdin cannot be used.
pub fn run() -> anyhow::Result<()> {
    let any = Any::parse_from_bytes(&super::read_stdin()?).context("runtime options on stdin")?;
    let options = Options::decode(Some(&any))?;
    let mut info = RuntimeInfo::new();
    info.name = "io.containerd.rune.v2".to_owned();
    info.version = MessageField::some(RuntimeVersion {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    });
    if !any.type_url.is_empty() {
        info.options = MessageField::some(any);
    }
    // Without them containerd assumes the least, which is right.
    if let Ok(features) = features(&options) {
        info.features = MessageField::some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features".to_owned(),
            value: serde_json::to_vec(&features).context("encode the features")?,
            ..Default::default()
        });
    }
    let bytes = info.write_to_bytes().context("encode the answer")?;
    let mut stdout = std::io::stdout();
    stdout.write_all(&bytes).and_then(|()| stdout.flush()).context("write the answer")
}

fn features(options: &Options) -> anyhow::Result<Value> {
    let (dialect, program) = crate::pod::backend_program(&options.config.load()?, options);
    let config = BackendConfig {
        dialect,
        program,
        root: PathBuf::from("/run"),
        systemd_cgroup: false,
        criu_path: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let features = runtime.block_on(async {
        let backend = Backend::new(config, Reaper::start()?, std::env::temp_dir());
        anyhow::Ok(backend.features(FEATURES).await?)
    })?;
    Ok(less_confidential(features))
}

/// Takes out what a confidential container cannot have: the boot side cannot read the store from
/// inside a user namespace.
fn less_confidential(mut features: Value) -> Value {
    if let Some(namespaces) = features.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut) {
        namespaces.retain(|namespace| namespace != "user");
    }
    if let Some(idmap) = features.pointer_mut("/linux/mountExtensions/idmap/enabled") {
        *idmap = Value::Bool(false);
    }
    features
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn user_namespaces_are_not_claimed() {
        let backends = json!({"linux": {
            "namespaces": ["pid", "user", "net"],
            "mountExtensions": {"idmap": {"enabled": true}},
            "seccomp": {"enabled": true},
        }});
        let ours = json!({"linux": {
            "namespaces": ["pid", "net"],
            "mountExtensions": {"idmap": {"enabled": false}},
            "seccomp": {"enabled": true},
        }});
        assert_eq!(less_confidential(backends), ours);
        assert_eq!(less_confidential(json!({})), json!({}));
    }
}
