//! The runtime options that come with a container: containerd's `Any` in, one type out.

use std::path::{Path, PathBuf};

use containerd_shim_protos::{
    protobuf::{Message, well_known_types::any::Any},
    shim::oci,
};
use layout::{Config, ConfigError};
use protos::runtimeoptions;
use thiserror::Error;

/// What containerd's configuration says about a container's runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Our config for this runtime handler.
    pub config: ConfigSource,
    /// The OCI backend's program, a name or a path.
    pub program: Option<PathBuf>,
    /// Where the backend keeps its state.
    pub root: Option<PathBuf>,
    /// Cgroups are made through systemd.
    pub systemd_cgroup: bool,
    /// Do not pivot into the root file system.
    pub no_pivot: bool,
    /// Keep the session keyring of the caller.
    pub no_new_keyring: bool,
    /// The cgroup of the shim itself.
    pub shim_cgroup: Option<PathBuf>,
    /// User and group that own the stdio pipes.
    pub io_owner: Option<(u32, u32)>,
    /// Where criu writes its images unless the call says otherwise.
    pub criu_image_path: Option<PathBuf>,
    /// Where criu works.
    pub criu_work_path: Option<PathBuf>,
}

/// Where our config is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ConfigSource {
    /// At its usual place.
    #[default]
    Default,
    /// In a file.
    File(PathBuf),
    /// In containerd's own configuration.
    Inline(String),
}

/// Options that cannot be used.
#[derive(Debug, Error)]
pub enum OptionsError {
    /// The type is none that this shim knows.
    #[error("runtime options of type {0:?} are not supported")]
    UnknownType(String),
    /// The bytes are not a message of the type.
    #[error("decode runtime options of type {type_url:?}")]
    Decode {
        /// The type.
        type_url: String,
        /// What the decoder says.
        #[source]
        source: containerd_shim_protos::protobuf::Error,
    },
    /// The config inside the options is not text.
    #[error("the config in the runtime options is not UTF-8")]
    NotText,
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Options {
    /// Decodes the options of a request; none at all is every default.
    ///
    /// # Errors
    /// [`OptionsError`].
    pub fn decode(any: Option<&Any>) -> Result<Self, OptionsError> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(Options::default()) };
        let decode = |source| OptionsError::Decode { type_url: any.type_url.clone(), source };
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "containerd.runc.v1.Options" => {
                Ok(Self::from_runc(oci::Options::parse_from_bytes(&any.value).map_err(decode)?))
            }
            // The second name is what containerd 1.x's client library registered.
            "runtimeoptions.v1.Options" | "cri.runtimeoptions.v1.Options" => {
                Self::from_generic(runtimeoptions::Options::parse_from_bytes(&any.value).map_err(decode)?)
            }
            _ => Err(OptionsError::UnknownType(any.type_url.clone())),
        }
    }

    fn from_runc(options: oci::Options) -> Self {
        let path = |text: String| Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
        Options {
            config: ConfigSource::Default,
            program: path(options.binary_name),
            root: path(options.root),
            systemd_cgroup: options.systemd_cgroup,
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            shim_cgroup: path(options.shim_cgroup),
            io_owner: (options.io_uid != 0 || options.io_gid != 0)
                .then_some((options.io_uid, options.io_gid)),
            criu_image_path: path(options.criu_image_path),
            criu_work_path: path(options.criu_work_path),
        }
    }

    fn from_generic(options: runtimeoptions::Options) -> Result<Self, OptionsError> {
        let config = if !options.config_path.is_empty() {
            ConfigSource::File(options.config_path.into())
        } else if !options.config_body.is_empty() {
            ConfigSource::Inline(String::from_utf8(options.config_body).map_err(|_| OptionsError::NotText)?)
        } else {
            ConfigSource::Default
        };
        Ok(Options { config, ..Options::default() })
    }
}

impl ConfigSource {
    /// Reads the config.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(&self) -> Result<Config, ConfigError> {
        match self {
            ConfigSource::Default => Config::load(None),
            ConfigSource::File(path) => Config::load(Some(path)),
            ConfigSource::Inline(text) => Config::parse(text, Path::new("runtime options")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.to_owned(), value, ..Default::default() }
    }

    #[test]
    fn both_kinds_of_options_are_understood() {
        let runc = oci::Options {
            binary_name: "crun".into(),
            systemd_cgroup: true,
            io_gid: 7,
            ..Default::default()
        };
        let options =
            Options::decode(Some(&any("containerd.runc.v1.Options", runc.write_to_bytes().unwrap())))
                .unwrap();
        assert_eq!(options.program, Some(PathBuf::from("crun")));
        assert_eq!(options.io_owner, Some((0, 7)));
        assert!(options.systemd_cgroup);
        assert_eq!(options.root, None);

        let generic = runtimeoptions::Options { config_path: "/etc/x.toml".into(), ..Default::default() };
        let bytes = generic.write_to_bytes().unwrap();
        for url in ["runtimeoptions.v1.Options", "type.googleapis.com/runtimeoptions.v1.Options"] {
            let options = Options::decode(Some(&any(url, bytes.clone()))).unwrap();
            assert_eq!(options.config, ConfigSource::File("/etc/x.toml".into()));
        }
    }

    #[test]
    fn no_options_are_defaults_and_unknown_ones_are_refused_by_name() {
        assert_eq!(Options::decode(None).unwrap(), Options::default());
        assert_eq!(Options::decode(Some(&Any::new())).unwrap(), Options::default());
        let error = Options::decode(Some(&any("io.example.Options", vec![]))).unwrap_err();
        assert!(error.to_string().contains("io.example.Options"), "{error}");
        let garbage = any("runtimeoptions.v1.Options", vec![0xff; 9]);
        assert!(matches!(Options::decode(Some(&garbage)), Err(OptionsError::Decode { .. })));
    }
}
