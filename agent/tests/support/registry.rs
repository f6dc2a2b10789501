//! Debian's docker-registry as a process of its own.

use std::{fs, path::PathBuf, process::Command};

use reqwest::{StatusCode, header};
use tempfile::TempDir;

use super::{
    image::{Blob, Image},
    process::Process,
};

/// User and password of [`Registry::with_password`]: a test vector of bcrypt.
pub const USER: &str = "user";
pub const PASSWORD: &str = "U*U";
const HTPASSWD: &str = "user:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";

pub struct Registry {
    process: Process,
    dir: TempDir,
    pub address: String,
    scheme: &'static str,
    password: bool,
    http: reqwest::Client,
}

impl Registry {
    pub fn start() -> Self {
        Self::run("", false, None)
    }

    pub fn with_password() -> Self {
        Self::run("auth:\n  htpasswd:\n    realm: test\n    path: DIR/htpasswd\n", true, None)
    }

    /// Speaks TLS with a certificate for 127.0.0.1 by a CA of its own, whose certificate is returned.
    pub fn with_tls() -> (Self, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        (Self::run("", false, Some((&certificate, &key.serialize_pem()))), certificate)
    }

    fn run(more: &str, password: bool, tls: Option<(&str, &str)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
        let mut http = "http:\n  addr: 127.0.0.1:0\n".to_owned();
        let mut client = reqwest::Client::builder().no_proxy();
        if let Some((certificate, key)) = tls {
            fs::write(dir.path().join("cert.pem"), certificate).unwrap();
            fs::write(dir.path().join("key.pem"), key).unwrap();
            http.push_str("  tls:\n    certificate: DIR/cert.pem\n    key: DIR/key.pem\n");
            client = client.tls_certs_only([reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap()]);
        }
        let config = format!(
            "version: 0.1\nlog:\n  level: info\n  accesslog:\n    disabled: false\n\
             storage:\n  filesystem:\n    rootdirectory: DIR/data\n{http}{more}"
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config.replace("DIR", &path)).unwrap();
        let process = Process::spawn(
            Command::new("docker-registry").arg("serve").arg(&file).env("OTEL_TRACES_EXPORTER", "none"),
        );
        let line = process.line(|line| line.contains("listening on 127.0.0.1:"));
        let port: String = line
            .split_once("listening on 127.0.0.1:")
            .unwrap()
            .1
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            process,
            dir,
            address: format!("127.0.0.1:{port}"),
            scheme: if tls.is_some() { "https" } else { "http" },
            password,
            http: client.build().unwrap(),
        }
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Pushes an image as `repository:tag`.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) {
        for blob in image.blobs() {
            self.push_blob(repository, blob).await;
        }
        self.push_manifest(repository, tag, &image.manifest).await;
    }

    pub async fn push_blob(&self, repository: &str, blob: &Blob) {
        let begin = self.http.post(self.url(&format!("{repository}/blobs/uploads/")));
        let begun = self.authorized(begin).send().await.unwrap();
        assert_eq!(begun.status(), StatusCode::ACCEPTED);
        let location = begun.headers()[header::LOCATION].to_str().unwrap();
        let end = self.http.put(format!("{location}&digest={}", blob.digest())).body(blob.data.clone());
        let ended = self.authorized(end).send().await.unwrap();
        assert_eq!(ended.status(), StatusCode::CREATED);
    }

    pub async fn push_manifest(&self, repository: &str, tag: &str, manifest: &Blob) {
        let request = self
            .http
            .put(self.url(&format!("{repository}/manifests/{tag}")))
            .header(header::CONTENT_TYPE, &manifest.media_type)
            .body(manifest.data.clone());
        let answer = self.authorized(request).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED, "{:?}", answer.text().await);
    }

    fn url(&self, path: &str) -> String {
        format!("{}://{}/v2/{path}", self.scheme, self.address)
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        if self.password { request.basic_auth(USER, Some(PASSWORD)) } else { request }
    }

    /// The file that holds a blob.
    pub fn file(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let data = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        data.join(&hex[..2]).join(hex).join("data")
    }

    /// How often the access log has a successful GET of the blob; the line of a request that was answered may
    /// come a moment later, so the caller waits for one first.
    pub fn downloads(&self, digest: &str) -> usize {
        let wanted = format!("/blobs/{digest} HTTP");
        self.process.lines().iter().filter(|line| line.contains("\"GET ") && line.contains(&wanted)).count()
    }

    pub fn wait_for_download(&self, digest: &str) {
        let wanted = format!("/blobs/{digest} HTTP");
        self.process.line(|line| line.contains("\"GET ") && line.contains(&wanted));
    }
}
