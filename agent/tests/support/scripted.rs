//! A registry whose answers a test decides: gates, failures, tokens.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
};

use super::{
    image::{Blob, Image},
    process::PATIENCE,
};

pub struct Request {
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

#[derive(Default, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Sends so much of the body and closes the connection.
    pub cut: Option<usize>,
    /// Waits for it in the middle of the body.
    pub gate: Option<Arc<Gate>>,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn of(blob: &Blob) -> Self {
        Self {
            status: 200,
            headers: vec![("Content-Type".into(), blob.media_type.clone())],
            body: blob.data.clone(),
            ..Self::default()
        }
    }
}

/// Closed until opened.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let open = self.open.lock().unwrap();
        let _open = self.changed.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap();
    }
}

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

pub struct Scripted {
    pub address: String,
    log: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Scripted {
    pub fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let log = Arc::<(Mutex<Vec<String>>, Condvar)>::default();
        let script: Arc<Script> = Arc::new(script);
        std::thread::spawn({
            let log = log.clone();
            move || {
                for stream in listener.incoming().flatten() {
                    let (script, log) = (script.clone(), log.clone());
                    std::thread::spawn(move || serve(stream, &*script, &log));
                }
            }
        });
        Self { address, log }
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub fn requests(&self, part: &str) -> usize {
        self.log.0.lock().unwrap().iter().filter(|path| path.contains(part)).count()
    }

    /// Waits until so many requests had `part` in their path.
    pub fn wait_for(&self, part: &str, count: usize) {
        let log = self.log.0.lock().unwrap();
        let fewer = |log: &mut Vec<String>| log.iter().filter(|path| path.contains(part)).count() < count;
        let (log, wait) = self.log.1.wait_timeout_while(log, PATIENCE, fewer).unwrap();
        assert!(!wait.timed_out(), "{log:?}");
    }
}

/// The reply of a registry that has this image under every name and tag.
pub fn registry_of(image: &Image, path: &str) -> Reply {
    if path.contains("/manifests/") {
        return Reply::of(&image.manifest);
    }
    match image.blobs().find(|blob| path.ends_with(&blob.digest())) {
        Some(blob) => Reply::of(blob),
        None => Reply::status(404),
    }
}

fn serve(mut stream: TcpStream, script: &Script, log: &(Mutex<Vec<String>>, Condvar)) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    log.0.lock().unwrap().push(path.clone());
    log.1.notify_all();
    let reply = script(&Request { path, headers });
    let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).ok()?;
    let half = reply.cut.unwrap_or(reply.body.len() / 2);
    stream.write_all(&reply.body[..half]).ok()?;
    if let Some(gate) = &reply.gate {
        gate.pass();
    }
    if reply.cut.is_none() {
        stream.write_all(&reply.body[half..]).ok()?;
    }
    Some(())
}
