//! The node's config: its schema, defaults and where it is found.
//!
//! The keys of the retired Go implementation's file (`runtime_class`, `log_level` and
//! `[containerd]`) keep their names, so its file is accepted as it is. Every value is checked when
//! it is read; an unknown key or a bad value is an error that names file, line and key.

mod error;
mod value;

use std::{
    env,
    ffi::OsString,
    fmt, fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

pub use error::ConfigError;
pub use value::{AgentNetwork, AgentUrl, BackendChoice, LogLevel, SgxMode};

/// The file that is read when nothing else is asked for. It may be missing.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/enclave-cc/config.toml";

/// The environment variable that names another file.
pub const ENV_CONFIG_FILE: &str = "ENCLAVE_CC_CONFIG";

/// Everything that can be set for a node (or, by runtime options, for one runtime handler).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The file that was read; `None` when all values are defaults.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// Name of the Kubernetes RuntimeClass.
    #[serde(deserialize_with = "value::dns_name")]
    pub runtime_class: String,
    /// What the shim logs.
    pub log_level: LogLevel,
    /// What protects the containers.
    pub sgx_mode: SgxMode,
    /// The program that creates containers.
    pub backend: BackendChoice,
    /// Small state that need not survive a reboot.
    #[serde(deserialize_with = "value::path")]
    pub state_dir: PathBuf,
    /// Image stores and the agents' overlays.
    #[serde(deserialize_with = "value::path")]
    pub data_dir: PathBuf,
    /// Whose network the agent pulls from.
    pub agent_network: AgentNetwork,
    /// Kubernetes namespaces whose pods run as plain OCI pods, without an agent.
    #[serde(deserialize_with = "value::dns_names")]
    pub passthrough_namespaces: Vec<String>,
    /// The bundles and the agent's address.
    pub containerd: ContainerdSection,
    /// What the agent is told about the network and the registries.
    pub agent: AgentSection,
    /// How long each step may take.
    pub timeouts: Timeouts,
}

/// `[containerd]`: upstream's section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerdSection {
    /// OCI bundle of the agent.
    #[serde(deserialize_with = "value::path")]
    pub agent_container_instance: PathBuf,
    /// Bundle under every app container.
    #[serde(deserialize_with = "value::path")]
    pub boot_container_instance: PathBuf,
    /// Where the agents' overlays live instead of below the data directory.
    #[serde(deserialize_with = "value::optional_path")]
    pub agent_container_root_dir: Option<PathBuf>,
    /// Where the agent listens; port 0 is a free one, chosen for each pod.
    pub agent_url: AgentUrl,
}

/// `[agent]`: settings that are handed to the agent.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSection {
    /// Proxy for plain http.
    #[serde(deserialize_with = "value::optional_proxy")]
    pub http_proxy: Option<String>,
    /// Proxy for https.
    #[serde(deserialize_with = "value::optional_proxy")]
    pub https_proxy: Option<String>,
    /// Hosts that are reached without a proxy, separated by commas.
    #[serde(deserialize_with = "value::optional_line")]
    pub no_proxy: Option<String>,
    /// PEM files on the host with further certificate authorities.
    #[serde(deserialize_with = "value::paths")]
    pub ca_files: Vec<PathBuf>,
    /// Registries, `host[:port]`, that are spoken to in plain http.
    #[serde(deserialize_with = "value::hosts")]
    pub insecure_registries: Vec<String>,
    /// A docker config.json on the host with credentials.
    #[serde(deserialize_with = "value::optional_path")]
    pub auth_file: Option<PathBuf>,
    /// The agent's decryption settings, a file on the host.
    #[serde(deserialize_with = "value::optional_path")]
    pub decrypt_config: Option<PathBuf>,
    /// The agent's ocicrypt settings, a file on the host.
    #[serde(deserialize_with = "value::optional_path")]
    pub ocicrypt_config: Option<PathBuf>,
}

/// `[timeouts]`: whole seconds, from 1 to 86400.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// From the agent's start until it answers.
    #[serde(rename = "agent_ready_secs", deserialize_with = "value::seconds")]
    pub agent_ready: Duration,
    /// One image pull, the wait for the agent included.
    #[serde(rename = "pull_secs", deserialize_with = "value::seconds")]
    pub pull: Duration,
    /// One call of the OCI backend.
    #[serde(rename = "backend_secs", deserialize_with = "value::seconds")]
    pub backend: Duration,
    /// The backend's creation of an app container, boot included.
    #[serde(rename = "start_secs", deserialize_with = "value::seconds")]
    pub start: Duration,
    /// Tearing a container down; containerd gives up after 5 s.
    #[serde(rename = "cleanup_secs", deserialize_with = "value::seconds")]
    pub cleanup: Duration,
}

impl Config {
    /// Reads the config: from `explicit`, else from the file that [`ENV_CONFIG_FILE`] names, else
    /// from [`DEFAULT_CONFIG_FILE`]. Only the last may be missing: then all values are defaults.
    ///
    /// # Errors
    /// [`ConfigError`] if the file cannot be read or anything in it is not as it must be.
    pub fn load(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        let named = named_file(explicit, env::var_os(ENV_CONFIG_FILE));
        match named {
            Some(file) => Self::read(&file),
            None => match Self::read(Path::new(DEFAULT_CONFIG_FILE)) {
                Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    Ok(Self::default())
                }
                result => result,
            },
        }
    }

    fn read(file: &Path) -> Result<Self, ConfigError> {
        // A shim's working directory is the bundle: a relative path would be looked for there.
        if !file.is_absolute() {
            return Err(ConfigError::RelativePath { file: file.into() });
        }
        let text =
            fs::read_to_string(file).map_err(|source| ConfigError::Read { file: file.into(), source })?;
        Self::parse(&text, file)
    }

    /// Reads the config from `text`, which came from `file`.
    ///
    /// # Errors
    /// [`ConfigError`] if anything in it is not as it must be.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let mut config: Self =
            toml::from_str(text).map_err(|error| ConfigError::from_toml(error, text, file))?;
        if config.state_dir.starts_with(&config.data_dir) || config.data_dir.starts_with(&config.state_dir) {
            let Self { state_dir, data_dir, .. } = config;
            return Err(ConfigError::NestedDirectories { file: file.into(), state_dir, data_dir });
        }
        config.file = Some(file.into());
        Ok(config)
    }
}

// Proxy URLs may hold a password.
impl fmt::Debug for AgentSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { http_proxy, https_proxy, no_proxy, ca_files, .. } = self;
        let Self { insecure_registries, auth_file, decrypt_config, ocicrypt_config, .. } = self;
        f.debug_struct("AgentSection")
            .field("http_proxy", &http_proxy.is_some())
            .field("https_proxy", &https_proxy.is_some())
            .field("no_proxy", no_proxy)
            .field("ca_files", ca_files)
            .field("insecure_registries", insecure_registries)
            .field("auth_file", auth_file)
            .field("decrypt_config", decrypt_config)
            .field("ocicrypt_config", ocicrypt_config)
            .finish()
    }
}

/// The file that was asked for: by argument, else by the environment.
fn named_file(explicit: Option<&Path>, environment: Option<OsString>) -> Option<PathBuf> {
    let named = environment.filter(|file| !file.is_empty()).map(PathBuf::from);
    explicit.map(Path::to_path_buf).or(named)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file: None,
            runtime_class: "enclave-cc".into(),
            log_level: LogLevel::Info,
            sgx_mode: SgxMode::Hw,
            backend: BackendChoice::Runc,
            state_dir: "/run/enclave-cc".into(),
            data_dir: "/var/lib/enclave-cc".into(),
            agent_network: AgentNetwork::Pod,
            passthrough_namespaces: Vec::new(),
            containerd: ContainerdSection::default(),
            agent: AgentSection::default(),
            timeouts: Timeouts::default(),
        }
    }
}

impl Default for ContainerdSection {
    fn default() -> Self {
        let bundles = Path::new("/opt/confidential-containers/share/enclave-cc/bundles");
        Self {
            agent_container_instance: bundles.join("agent"),
            boot_container_instance: bundles.join("boot-instance"),
            agent_container_root_dir: None,
            agent_url: AgentUrl::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            agent_ready: Duration::from_secs(30),
            pull: Duration::from_secs(600),
            backend: Duration::from_secs(60),
            start: Duration::from_secs(120),
            cleanup: Duration::from_secs(4),
        }
    }
}

#[cfg(test)]
mod tests;
