//! The command line.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Parser, ValueEnum};

/// Pulls images for the containers of one pod into an encrypted store. Proxies are taken from HTTP_PROXY,
/// HTTPS_PROXY and NO_PROXY.
#[derive(Debug, Parser)]
#[command(name = "enclave-agent", version)]
pub struct Args {
    /// Address to serve on, `tcp://IP:PORT` or `unix:///PATH`.
    #[arg(short, long, value_name = "URL")]
    pub listen: Listen,
    /// Key provider and whether signatures are validated (JSON).
    #[arg(short = 'c', long, value_name = "FILE")]
    pub decrypt_config: Option<PathBuf>,
    /// Key providers by name (ocicrypt's JSON).
    #[arg(short = 'o', long, value_name = "FILE")]
    pub ocicrypt_config: Option<PathBuf>,
    /// Kind of store that is written.
    #[arg(long)]
    pub mode: Mode,
    /// Directory of the stores.
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// File with the token that each call must carry.
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// File with the seal key (mode none).
    #[arg(long, value_name = "FILE", required_if_eq("mode", "none"))]
    pub seal_key_file: Option<PathBuf>,
    /// Registry, `HOST[:PORT]`, to be spoken to in plain http; may be repeated.
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub insecure_registries: Vec<String>,
    /// More CA certificates (PEM) to trust beside Mozilla's, which are built in; may be repeated.
    #[arg(long = "ca-file", value_name = "FILE")]
    pub ca_files: Vec<PathBuf>,
    /// Registry credentials, docker's config.json.
    #[arg(long, value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
    /// Limits of a pull.
    #[command(flatten)]
    pub limits: Limits,
    /// Least severe log level that is printed.
    #[arg(long, default_value = "info")]
    pub log_level: tracing::Level,
}

/// Deadlines and sizes; every wait of the agent has one of these.
#[derive(Debug, Clone, clap::Args)]
pub struct Limits {
    /// Seconds to connect to a registry.
    #[arg(long, default_value_t = 10, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..))]
    pub connect_timeout_secs: u64,
    /// Seconds without a byte from a registry, after which the request is tried again.
    #[arg(long, default_value_t = 30, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..))]
    pub stall_timeout_secs: u64,
    /// Seconds that one pull may take altogether.
    #[arg(long, default_value_t = 3600, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..))]
    pub pull_timeout_secs: u64,
    /// How often a request is tried when the registry cannot be reached, is overloaded or fails.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20))]
    pub attempts: u32,
    /// Layers that are pulled at the same time.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = parallel)]
    pub parallel_layers: usize,
    /// Bytes that all layers of an image may have together when decompressed (default 64 GiB).
    #[arg(long, default_value_t = 64 << 30, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_image_bytes: u64,
}

impl Limits {
    /// [`Limits::connect_timeout_secs`].
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_secs)
    }

    /// [`Limits::stall_timeout_secs`].
    #[must_use]
    pub fn stall_timeout(&self) -> Duration {
        Duration::from_secs(self.stall_timeout_secs)
    }

    /// [`Limits::pull_timeout_secs`].
    #[must_use]
    pub fn pull_timeout(&self) -> Duration {
        Duration::from_secs(self.pull_timeout_secs)
    }
}

fn parallel(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=16) => Ok(n),
        _ => Err("not a number from 1 to 16".to_owned()),
    }
}

/// Kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Layers encrypted under the seal key's file: no LibOS, no confidentiality against the host.
    None,
    /// SEFS inside the Occlum LibOS.
    Occlum,
}

/// Where to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `tcp://IP:PORT`; port 0 is any free one, which the log then names.
    Tcp(SocketAddr),
    /// `unix:///PATH`.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(address) = text.strip_prefix("tcp://") {
            return address.parse().map(Self::Tcp).map_err(|_| format!("{address:?} is not IP:PORT"));
        }
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(path) => Err(format!("{path:?} is not an absolute path")),
            None => Err("neither tcp://IP:PORT nor unix:///PATH".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 11] = [
        "enclave-agent",
        "-l",
        "tcp://127.0.0.1:7788",
        "--mode",
        "none",
        "--images",
        "/images",
        "--token-file",
        "/t",
        "--seal-key-file",
        "/k",
    ];

    #[test]
    fn upstreams_flags_are_accepted() {
        let more = ["-c", "/etc/decrypt_config.conf", "-o", "/etc/ocicrypt.conf"];
        let args = Args::try_parse_from(GOOD.iter().chain(&more)).unwrap();
        assert_eq!(args.listen, Listen::Tcp("127.0.0.1:7788".parse().unwrap()));
        assert_eq!(args.limits.max_image_bytes, 64 << 30);
        assert!(args.decrypt_config.is_some() && args.ocicrypt_config.is_some());
    }

    #[test]
    fn a_missing_token_or_seal_key_is_an_error() {
        assert!(Args::try_parse_from(&GOOD[..7]).is_err());
        assert!(Args::try_parse_from(&GOOD[..9]).is_err());
        let occlum = GOOD[..9].iter().map(|word| if *word == "none" { "occlum" } else { word });
        assert!(Args::try_parse_from(occlum).is_ok());
    }

    #[test]
    fn addresses_parse_or_say_why_not() {
        assert_eq!("unix:///run/a.sock".parse(), Ok(Listen::Unix("/run/a.sock".into())));
        for bad in ["127.0.0.1:1", "tcp://localhost:1", "tcp://127.0.0.1", "unix://a", "vsock://1:2"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}
