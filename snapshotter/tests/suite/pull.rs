//! containerd's CRI pulls an image from a registry: manifest and config come, the layer does not.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use tonic::Request;

use crate::node::{Client, channel};

#[derive(Clone, PartialEq, prost::Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PullImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

/// A registry with one image, whose layer nobody can read.
struct Registry {
    authority: String,
    manifest: String,
    layer: String,
    requests: Arc<Mutex<Vec<String>>>,
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

impl Registry {
    fn start(diff_id: &str) -> Self {
        let layer = b"ciphertext".to_vec();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip+encrypted","digest":"{}","size":{}}}]}}"#,
            digest(config.as_bytes()),
            config.len(),
            digest(&layer),
            layer.len()
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self {
            authority: listener.local_addr().unwrap().to_string(),
            manifest: digest(manifest.as_bytes()),
            layer: digest(&layer),
            requests: Arc::default(),
        };
        let requests = this.requests.clone();
        let contents = Arc::new([
            (MANIFEST_TYPE, manifest.into_bytes()),
            ("application/octet-stream", config.into()),
            ("application/octet-stream", layer),
        ]);
        // Ends with the program; it holds nothing but memory.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (requests, contents) = (requests.clone(), contents.clone());
                std::thread::spawn(move || answer(stream, &requests, &*contents));
            }
        });
        this
    }
}

fn answer(mut stream: TcpStream, requests: &Mutex<Vec<String>>, contents: &[(&str, Vec<u8>)]) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let request = lines.next()?;
    lines.find(String::is_empty)?;
    let mut words = request.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let found = contents
        .iter()
        .find(|(_, body)| path.ends_with(&digest(body)))
        .or_else(|| path.ends_with("/manifests/1").then(|| &contents[0]));
    requests.lock().unwrap().push(format!("{method} {path}"));
    let (status, (kind, body)) = match found {
        Some(content) => ("200 OK", (content.0, content.1.as_slice())),
        None if path == "/v2/" => ("200 OK", ("application/json", b"{}".as_slice())),
        None => ("404 Not Found", ("application/json", b"{}".as_slice())),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nDocker-Content-Digest: {}\r\n\r\n",
        body.len(),
        digest(body)
    )
    .ok()?;
    if method == "GET" { stream.write_all(body).ok() } else { Some(()) }
}

pub async fn cri_fetches_no_layer(containerd: &Path) {
    // An image of its own for each run, so that containerd has no snapshot of it.
    let diff_id = digest(std::process::id().to_string().as_bytes());
    let registry = Registry::start(&diff_id);
    let hosts = containerd.with_file_name("certs.d").join(&registry.authority);
    std::fs::create_dir_all(&hosts).unwrap();
    let server = format!("http://{}", registry.authority);
    let text = format!("server = {server:?}\n[host.{server:?}]\ncapabilities = [\"pull\", \"resolve\"]\n");
    std::fs::write(hosts.join("hosts.toml"), text).unwrap();
    let reference = format!("{}/a/app:1", registry.authority);
    let mut cri = tonic::client::Grpc::new(channel(containerd.to_owned()).await);
    cri.ready().await.unwrap();
    let request = PullImageRequest { image: Some(ImageSpec { image: reference.clone() }) };
    let response: PullImageResponse = cri
        .unary(
            Request::new(request),
            tonic::codegen::http::uri::PathAndQuery::from_static("/runtime.v1.ImageService/PullImage"),
            tonic_prost::ProstCodec::default(),
        )
        .await
        .unwrap()
        .into_inner();
    assert!(!response.image_ref.is_empty());
    let requests = registry.requests.lock().unwrap().clone();
    assert!(requests.iter().any(|request| request.contains("/manifests/")), "{requests:?}");
    assert!(requests.iter().any(|request| request.contains("/blobs/")), "{requests:?}");
    assert!(!requests.iter().any(|request| request.contains(&registry.layer)), "{requests:?}");

    // The container's snapshot names the image.
    let client = Client::connect(containerd.to_owned(), "enclave-cc").await.in_namespace("k8s.io");
    let mounts = client.prepare("container", &diff_id, &[]).await.unwrap();
    let option = mounts[0].options[2].strip_prefix("io.katacontainers.volume=").unwrap();
    let json: serde_json::Value = serde_json::from_slice(&STANDARD.decode(option).unwrap()).unwrap();
    assert_eq!(json["source"], reference);
    assert_eq!(
        json["image_pull"]["metadata"]["containerd.io/snapshot/cri.manifest-digest"],
        registry.manifest
    );
    println!("{mounts:?}\n{json}");
    client.remove("container").await.unwrap();
}
