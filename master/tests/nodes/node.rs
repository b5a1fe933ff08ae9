//! The nodes of a test: the kubelet's own agent, and a bare client that says what it is told to.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use kubelet::agent::{self, Agent};
use kubelet::credentials::Credentials;
use kubelet::node_status::{Facts, Health, Observe};
use kubelet::reporter::Reporter;
use kubelet::snapshot::SnapshotFolder;
use kubelet::state::{ClusterState, StateHandle};
use kubelet::streams::{
    AttachOptions, Connection, ContainerTarget, LogOptions, LogStream, Place, PodStreams,
    StreamFailure,
};
use kubelet::tls;
use kubelet::tokens::MasterLink;
use proto::node::node_client::NodeClient;
use proto::node::session_down::Message as Down;
use proto::node::session_up::Message as Up;
use proto::node::{Hello, SessionDown, SessionUp};
use runtime::{ExecConfig, ExecSession};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::cluster::Cluster;
use crate::eventually;

/// A machine with two processors at 10.0.0.N.
pub(crate) struct Machine(pub(crate) u8);

impl Observe for Machine {
    fn observe(&self) -> Facts {
        Facts {
            processors: 2,
            memory_bytes: 4 << 30,
            max_pods: 110,
            addresses: vec![[10, 0, 0, self.0].into()],
            hostname: format!("host-{}", self.0),
            ..Facts::default()
        }
    }
}

/// Programs that echo, logs of two lines.
pub(crate) struct Echo;

#[async_trait]
impl PodStreams for Echo {
    async fn exec(
        &self,
        target: &ContainerTarget,
        config: &ExecConfig,
    ) -> Result<ExecSession, StreamFailure> {
        if target.container != "main" {
            return Err(StreamFailure::not_found(format!("no container {}", target.container)));
        }
        let (input, program_input) = tokio::io::duplex(1024);
        let (mut program_output, output) = tokio::io::duplex(1024);
        let (mut program_errors, errors) = tokio::io::duplex(1024);
        let (done, exit) = oneshot::channel();
        let (resize, mut sizes) = mpsc::channel(4);
        let command = config.command.join(" ");
        tokio::spawn(async move {
            let mut program_input = program_input;
            program_errors.write_all(command.as_bytes()).await.unwrap();
            if command == "wait-for-resize" {
                let (columns, rows) = sizes.recv().await.unwrap();
                program_output.write_all(format!("{columns}x{rows}").as_bytes()).await.unwrap();
            } else {
                // Ends with its input, or when nobody reads any more.
                let _ = tokio::io::copy(&mut program_input, &mut program_output).await;
            }
            drop((program_output, program_errors));
            let _ = done.send(Ok(7));
        });
        Ok(ExecSession {
            stdin: config.stdin.then(|| Box::pin(input) as Pin<Box<_>>),
            stdout: Box::pin(output),
            stderr: Some(Box::pin(errors)),
            resize,
            exit,
        })
    }

    async fn attach(
        &self,
        target: &ContainerTarget,
        options: AttachOptions,
    ) -> Result<ExecSession, StreamFailure> {
        let command = vec!["attach".to_owned()];
        self.exec(target, &ExecConfig { command, stdin: options.stdin, tty: false }).await
    }

    /// Whatever is said comes back, on every port but 1.
    async fn connect(&self, _place: &Place, port: u16) -> Result<Connection, StreamFailure> {
        if port == 1 {
            return Err(StreamFailure::unreachable("connection refused"));
        }
        let (ours, theirs) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(ours);
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
        Ok(Box::pin(theirs))
    }

    async fn logs(
        &self,
        _target: &ContainerTarget,
        options: LogOptions,
    ) -> Result<LogStream, StreamFailure> {
        let lines = ["one\n", "two\n"].into_iter().take(options.tail_lines.unwrap_or(2) as usize);
        let lines: Vec<_> = lines.map(|line| Ok(line.into())).collect();
        Ok(Box::pin(futures::stream::iter(lines)))
    }
}

/// The kubelet's agent, without pods.
pub(crate) struct TestNode {
    pub(crate) state: StateHandle,
    pub(crate) reporter: Reporter,
    pub(crate) link: MasterLink,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl TestNode {
    /// Joins and runs.
    pub(crate) async fn start(cluster: &Cluster, name: &str, number: u8) -> Self {
        let credentials = Arc::new(cluster.join(name, "good").await.unwrap());
        Self::run(cluster, credentials, number, None)
    }

    /// Runs with what it has.
    pub(crate) fn run(
        cluster: &Cluster,
        credentials: Arc<Credentials>,
        number: u8,
        root_dir: Option<&Path>,
    ) -> Self {
        let (state, reporter) = (StateHandle::default(), Reporter::default());
        let link = MasterLink::default();
        let agent = Agent {
            masters: vec![cluster.url()],
            credentials,
            credentials_folder: None,
            snapshot_folder: root_dir.map(SnapshotFolder::of),
            labels: BTreeMap::from([("disk".to_owned(), "fast".to_owned())]),
            observe: Arc::new(Machine(number)),
            health: tokio::sync::watch::channel(Health::default()).1,
            state: state.clone(),
            reporter: reporter.clone(),
            link: link.clone(),
        };
        if let Some(folder) = &agent.snapshot_folder {
            agent::load_snapshot(folder, &state);
        }
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(agent.run(Arc::new(Echo), shutdown.clone()));
        Self { state, reporter, link, shutdown, task }
    }

    /// Waits until the node knows what the condition asks for.
    pub(crate) async fn knows(&self, what: &str, condition: impl Fn(&ClusterState) -> bool) {
        eventually(what, || async { self.state.read(&condition) }).await;
    }

    /// Waits until a master has told it everything.
    pub(crate) async fn connected(&self) {
        self.knows("a snapshot of the master", |state| state.confirmed).await;
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// A client that is no kubelet.
pub(crate) struct BareClient {
    pub(crate) client: NodeClient<Channel>,
}

impl BareClient {
    pub(crate) async fn connect(cluster: &Cluster, credentials: &Credentials) -> Self {
        let tls = Arc::new(credentials.client_config().unwrap());
        let connection = tls::connect(&cluster.url(), tls).await.unwrap();
        Self { client: NodeClient::new(connection.channel) }
    }

    /// Opens a session by saying Hello under a name.
    pub(crate) async fn session(&mut self, name: &str) -> BareSession {
        let node = serde_json::json!({"metadata": {"name": name}}).to_string();
        self.session_as(name, proto::NODE_PROTOCOL_VERSION, node).await
    }

    pub(crate) async fn session_as(
        &mut self,
        name: &str,
        version: u32,
        node: String,
    ) -> BareSession {
        let (up, receiver) = mpsc::channel(8);
        let hello = Hello {
            node_name: name.to_owned(),
            protocol_version: version,
            node: node.into_bytes().into(),
        };
        up.send(SessionUp { message: Some(Up::Hello(hello)) }).await.unwrap();
        match self.client.session(ReceiverStream::new(receiver)).await {
            Ok(down) => BareSession { up, down: Ok(down.into_inner()) },
            Err(status) => BareSession { up, down: Err(status) },
        }
    }
}

pub(crate) struct BareSession {
    up: mpsc::Sender<SessionUp>,
    down: Result<Streaming<SessionDown>, Status>,
}

impl BareSession {
    pub(crate) async fn say(&self, message: Up) {
        self.up.send(SessionUp { message: Some(message) }).await.unwrap();
    }

    /// The next message, or how the session ended.
    pub(crate) async fn hear(&mut self) -> Result<Down, Status> {
        let down = self.down.as_mut().map_err(|status| status.clone())?;
        let message = down.message().await?.ok_or_else(|| Status::cancelled("closed"))?;
        Ok(message.message.unwrap())
    }

    /// Everything up to the end of the snapshot.
    pub(crate) async fn snapshot(&mut self) -> Vec<Down> {
        let mut heard = Vec::new();
        loop {
            let message = self.hear().await.unwrap();
            if matches!(message, Down::SnapshotEnd(_)) {
                return heard;
            }
            heard.push(message);
        }
    }

    /// How the session ends.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }
}
