//! The private registry (Debian's docker-registry) and what its access log tells about who fetched what.

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{daemon::Daemon, wait};

const READY: Duration = Duration::from_secs(20);

/// Who sent a request, told by its User-Agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// containerd itself.
    Containerd,
    /// The harness, when it pushes.
    Skopeo,
    /// Neither: the agent.
    Agent,
}

/// One line of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Who asked.
    pub client: Client,
    /// HTTP method.
    pub method: String,
    /// Path of the URL, without the query.
    pub path: String,
    /// HTTP status of the answer.
    pub status: u16,
}

/// The running registry.
#[derive(Debug)]
pub struct Registry {
    daemon: Daemon,
    storage: PathBuf,
}

impl Registry {
    /// Starts it on `address`, with its files in `dir`.
    ///
    /// # Errors
    /// When it can't be started or does not listen in time.
    pub fn start(dir: &Path, address: SocketAddr) -> Result<Self> {
        let storage = dir.join("storage");
        fs::create_dir_all(&storage)?;
        let config = dir.join("config.yml");
        // No cache: a scenario removes an image by removing its files.
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: false\n\
             storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n",
            storage.display()
        );
        fs::write(&config, text)?;
        let mut daemon = Daemon::start(
            "docker-registry",
            Command::new("docker-registry").arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none"),
            &dir.join("log"),
        )?;
        wait::holds("the registry to listen", READY, || {
            daemon.check_alive()?;
            Ok(TcpStream::connect(address).is_ok())
        })?;
        Ok(Self { daemon, storage })
    }

    /// All accesses so far to `repository`.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn accesses(&self, repository: &str) -> Result<Vec<Access>> {
        let prefix = format!("/v2/{repository}/");
        let log = self.daemon.output()?;
        Ok(log.lines().filter_map(parse).filter(|access| access.path.starts_with(&prefix)).collect())
    }

    /// Digests of the blobs of `repository` that `client` fetched, each as often as it did.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn blobs_fetched(&self, repository: &str, client: Client) -> Result<Vec<String>> {
        let accesses = self.accesses(repository)?;
        Ok(accesses
            .into_iter()
            .filter(|access| access.client == client && access.method == "GET" && access.status / 100 == 2)
            .filter_map(|access| access.path.split_once("/blobs/").map(|(_, digest)| digest.to_owned()))
            .collect())
    }

    /// The same, without repetition.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn distinct_blobs_fetched(&self, repository: &str, client: Client) -> Result<BTreeSet<String>> {
        Ok(self.blobs_fetched(repository, client)?.into_iter().collect())
    }

    /// Removes `repository` with its tags and manifests, as if it had never been pushed.
    ///
    /// # Errors
    /// When its files can't be removed.
    pub fn forget(&self, repository: &str) -> Result<()> {
        let dir = self.storage.join("docker/registry/v2/repositories").join(repository);
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }
}

/// Reads a line in the combined log format; other lines are not accesses.
fn parse(line: &str) -> Option<Access> {
    let mut quoted = line.split('"');
    let _address_and_time = quoted.next()?;
    let mut request = quoted.next()?.split(' ');
    let status = quoted.next()?.split_whitespace().next()?.parse().ok()?;
    let _referer = quoted.next()?;
    let _space = quoted.next()?;
    let agent = quoted.next()?;
    let client = if agent.starts_with("containerd/") {
        Client::Containerd
    } else if agent.contains("containers/image") || agent.starts_with("skopeo/") {
        Client::Skopeo
    } else {
        Client::Agent
    };
    let method = request.next()?.to_owned();
    let path = request.next()?.split('?').next()?.to_owned();
    Some(Access { client, method, path, status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_tells_client_method_path_and_status() {
        let line = r#"10.99.0.1 - - [25/Nov/2026:10:20:16 +0000] "GET /v2/a/app/blobs/sha256:ab?x=1 HTTP/1.1" 200 524 "" "containerd/1.6.20~ds1""#;
        let access = parse(line).unwrap();
        assert_eq!(
            access,
            Access {
                client: Client::Containerd,
                method: "GET".into(),
                path: "/v2/a/app/blobs/sha256:ab".into(),
                status: 200
            }
        );
    }

    #[test]
    fn other_lines_are_no_accesses() {
        assert_eq!(parse(r#"time="2026" level=error msg="response completed""#), None);
    }
}
