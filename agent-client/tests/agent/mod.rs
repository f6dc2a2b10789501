//! An agent for the tests: a real ttrpc server whose answers the test decides.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use protos::agent::{Image, PullImageRequest, PullImageResponse, create_image};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
};
use ttrpc::{
    Code,
    r#async::{Server, TtrpcContext, transport::Listener},
    get_status,
};

/// What the agent does when it is called.
#[derive(Clone)]
#[allow(dead_code)]
pub enum Behaviour {
    /// Answers as an honest agent does.
    Honest,
    /// Answers what this makes of an honest answer.
    Lying(fn(&mut PullImageResponse)),
    /// Answers with an error.
    Error(Code, &'static str),
    /// Never answers.
    Silent,
}

/// It runs in a runtime of its own, as it would in a process of its own.
pub struct FakeAgent {
    server: Server,
    runtime: Option<Runtime>,
    service: Arc<Service>,
}

struct Service {
    behaviour: Behaviour,
    calls: Mutex<Vec<PullImageRequest>>,
    called: Notify,
}

#[allow(dead_code)]
impl FakeAgent {
    /// An agent that listens at `url`.
    pub async fn at(url: &str, behaviour: Behaviour) -> Self {
        let url = url.to_owned();
        Self::start(move || Listener::bind(url).unwrap(), behaviour).await
    }

    /// An agent that accepts connections from `listener`.
    pub async fn on(listener: TcpListener, behaviour: Behaviour) -> Self {
        listener.set_nonblocking(true).unwrap();
        Self::start(|| Listener::from(tokio::net::TcpListener::from_std(listener).unwrap()), behaviour).await
    }

    async fn start(listen: impl FnOnce() -> Listener + Send + 'static, behaviour: Behaviour) -> Self {
        let service = Arc::new(Service { behaviour, calls: Mutex::default(), called: Notify::new() });
        let methods = create_image(service.clone());
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let started = runtime.spawn(async move {
            let mut server = Server::new().add_listener(listen()).register_service(methods);
            server.start().await.unwrap();
            server
        });
        Self { server: started.await.unwrap(), runtime: Some(runtime), service }
    }

    /// Waits until there was a call.
    pub async fn called(&self) {
        self.service.called.notified().await;
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<PullImageRequest> {
        self.service.calls.lock().unwrap().clone()
    }

    /// Ends as a killed process does: listener and connections are closed, calls are not answered.
    pub async fn kill(mut self) {
        self.server.stop_listen().await;
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[async_trait]
impl Image for Service {
    async fn pull_image(
        &self,
        _: &TtrpcContext,
        request: PullImageRequest,
    ) -> ttrpc::Result<PullImageResponse> {
        self.calls.lock().unwrap().push(request.clone());
        self.called.notify_one();
        let digits = "0123456789abcdef".repeat(4);
        let mut answer = PullImageResponse {
            image_ref: request.image,
            manifest_digest: format!("sha256:{digits}"),
            store_dir: format!("sha256-{digits}"),
            image_config: b"{}".to_vec(),
            ..Default::default()
        };
        match self.behaviour {
            Behaviour::Honest => Ok(answer),
            Behaviour::Lying(change) => {
                change(&mut answer);
                Ok(answer)
            }
            Behaviour::Error(code, message) => Err(ttrpc::Error::RpcStatus(get_status(code, message))),
            Behaviour::Silent => std::future::pending().await,
        }
    }
}
