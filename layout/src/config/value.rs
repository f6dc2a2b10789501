//! The types of the config's values and their checks.

use std::{
    fmt,
    net::SocketAddr,
    path::{Component, Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, Unexpected},
};

/// What protects a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SgxMode {
    /// Occlum in an SGX enclave.
    Hw,
    /// Occlum without hardware: no protection against the host.
    Sim,
    /// No LibOS and no enclave: no protection against the host.
    None,
}

/// Whose network the agent pulls from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentNetwork {
    /// The pod's.
    Pod,
    /// The host's, for pods whose policy denies egress.
    Host,
}

/// Lowest severity that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures.
    Error,
    /// And what may become one.
    Warn,
    /// And changes of lifecycle.
    Info,
    /// And steps.
    Debug,
    /// Everything.
    Trace,
}

/// The program that creates containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendChoice {
    /// `runc` of the PATH.
    Runc,
    /// `crun` of the PATH.
    Crun,
    /// `rune` of the PATH.
    Rune,
    /// A program that takes runc's arguments, by absolute path.
    Path(PathBuf),
}

/// Where the agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentUrl {
    /// `tcp://IP:PORT`; port 0 stands for a free one.
    Tcp(SocketAddr),
    /// `unix:///PATH`.
    Unix(PathBuf),
}

impl SgxMode {
    /// The mode as it is written in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hw => "HW",
            Self::Sim => "SIM",
            Self::None => "NONE",
        }
    }
}

impl LogLevel {
    /// The level as it is written in the config, which `log::LevelFilter` parses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl FromStr for AgentUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        if let Some(address) = url.strip_prefix("tcp://") {
            let address = address.parse();
            return address
                .map(Self::Tcp)
                .map_err(|_| format!("{url:?} must be tcp://IP:PORT, with an IP address"));
        }
        match url.strip_prefix("unix://") {
            Some(socket) => checked_path(socket).map(Self::Unix),
            None => Err(format!("{url:?} must begin with tcp:// or unix://")),
        }
    }
}

impl fmt::Display for AgentUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(socket) => write!(f, "unix://{}", socket.display()),
        }
    }
}

impl<'de> Deserialize<'de> for AgentUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for BackendChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match name.as_str() {
            "runc" => Ok(Self::Runc),
            "crun" => Ok(Self::Crun),
            "rune" => Ok(Self::Rune),
            path if path.starts_with('/') => checked_path(path).map(Self::Path).map_err(D::Error::custom),
            other => {
                Err(D::Error::invalid_value(Unexpected::Str(other), &"runc, crun, rune or an absolute path"))
            }
        }
    }
}

/// Absolute, with something below the root, and nothing that changes its meaning on the way into a
/// mount option, a log line or another process.
fn checked_path(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(format!("{text:?} must be an absolute path"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?} must not contain control characters"));
    }
    // Collecting the components also drops doubled and trailing slashes.
    let plain: PathBuf = path.components().collect();
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{text:?} must not contain '..'"));
    }
    if plain == Path::new("/") {
        return Err("'/' itself is not allowed".to_owned());
    }
    Ok(plain)
}

fn checked_line(text: String) -> Result<String, String> {
    match text.chars().any(char::is_control) {
        true => Err(format!("{text:?} must not contain control characters")),
        false => Ok(text),
    }
}

fn checked_proxy(text: String) -> Result<String, String> {
    let scheme = ["http://", "https://", "socks5://", "socks5h://"];
    match scheme.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(host) if !host.is_empty() && !text.contains(char::is_whitespace) => checked_line(text),
        // The value may hold a password, so it is not shown.
        _ => Err("the proxy must be a URL, for example http://proxy:3128".to_owned()),
    }
}

/// A DNS subdomain name, as Kubernetes names objects.
fn checked_dns_name(text: String) -> Result<String, String> {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    match text.len() <= 253 && text.split('.').all(is_label) {
        true => Ok(text),
        false => {
            Err(format!("{text:?} is not a name of Kubernetes: lower case letters, digits, '-' and '.'"))
        }
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn checked_host(text: String) -> Result<String, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text.as_str(), None),
    };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_valid = match inner {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    let port_is_valid = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    match host_is_valid && port_is_valid {
        true => Ok(text),
        false => Err(format!("{text:?} is not of the form host or host:port")),
    }
}

pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    checked_path(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

pub(super) fn optional_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    optional(deserializer, |text| checked_path(&text))
}

pub(super) fn optional_proxy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    optional(deserializer, checked_proxy)
}

pub(super) fn optional_line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    optional(deserializer, checked_line)
}

pub(super) fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    list(deserializer, |text| checked_path(&text))
}

pub(super) fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    list(deserializer, checked_host)
}

pub(super) fn dns_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked_dns_name(String::deserialize(deserializer)?).map_err(D::Error::custom)
}

pub(super) fn dns_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    list(deserializer, checked_dns_name)
}

/// From one second to a day: a timeout that never comes is none.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    match i64::deserialize(deserializer)? {
        secs @ 1..=86_400 => Ok(Duration::from_secs(secs.unsigned_abs())),
        other => Err(D::Error::invalid_value(Unexpected::Signed(other), &"whole seconds from 1 to 86400")),
    }
}

/// The empty string, upstream's way to leave a key unset, is `None`.
fn optional<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    check: impl Fn(String) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.is_empty() {
        true => Ok(None),
        false => check(text).map(Some).map_err(D::Error::custom),
    }
}

fn list<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    check: impl Fn(String) -> Result<T, String>,
) -> Result<Vec<T>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.into_iter().map(check).collect::<Result<_, _>>().map_err(D::Error::custom)
}
