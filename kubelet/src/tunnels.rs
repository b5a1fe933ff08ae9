//! Tunnels: the streams of programs and logs, and connections, from a pod to the client of a master.
//!
//! Each has a connection of its own. A client that does not read stalls its own tunnel, and
//! neither the session nor another tunnel.

mod connection;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use proto::ObjectKey;
use proto::node::node_client::NodeClient;
use proto::node::open_tunnel::Request;
use proto::node::tunnel_down::Message as Down;
use proto::node::tunnel_up::Message as Up;
use proto::node::{
    AttachRequest, ConnectRequest, Data, ExecRequest, Failure, Finished, LogsRequest, OpenTunnel,
    TunnelDown, TunnelOpen, TunnelUp, connect_request,
};
use runtime::{ExecConfig, ExecSession, Input, Output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{debug, warn};

use crate::config::MasterUrl;
use crate::credentials::Credentials;
use crate::join::Chain;
use crate::streams::{
    AttachOptions, ContainerTarget, LogOptions, OutputStream, Place, PodStreams, PodTarget,
    StreamFailure,
};
use crate::tls;

/// Tunnels at the same time. Each costs a connection, some tens of kilobytes.
const MAX_TUNNELS: usize = 256;
/// Messages on their way; the sender of more waits for the client to read.
const UP_QUEUE: usize = 8;
/// Bytes in one message.
const CHUNK: usize = 16 << 10;
/// When a program has ended, what it wrote is still read until its streams end or nothing comes for
/// so long: a child in the background may hold them open for ever.
const DRAIN: Duration = Duration::from_secs(1);

/// So long the last words of a tunnel may take to get through.
const LINGER: Duration = Duration::from_secs(30);

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// Opens tunnels when a master asks. Dropping it breaks them.
pub(crate) struct Tunnels {
    credentials: Arc<ArcSwap<Credentials>>,
    streams: Arc<dyn PodStreams>,
    free: Arc<Semaphore>,
    open: JoinSet<()>,
}

impl Tunnels {
    pub(crate) fn new(
        credentials: Arc<ArcSwap<Credentials>>,
        streams: Arc<dyn PodStreams>,
    ) -> Self {
        let free = Arc::new(Semaphore::new(MAX_TUNNELS));
        Self { credentials, streams, free, open: JoinSet::new() }
    }

    /// Serves a request in a task of its own.
    pub(crate) fn open(&mut self, master: &MasterUrl, request: OpenTunnel) {
        while self.open.try_join_next().is_some() {}
        let Ok(permit) = self.free.clone().try_acquire_owned() else {
            // The master gives up waiting and tells its client.
            warn!(limit = MAX_TUNNELS, "too many tunnels are open");
            return;
        };
        let (master, credentials) = (master.clone(), self.credentials.load_full());
        let streams = self.streams.clone();
        self.open.spawn(async move {
            if let Err(error) = dial(&master, &credentials, streams.as_ref(), request).await {
                warn!(%master, %error, "failed to open a tunnel");
            }
            drop(permit);
        });
    }
}

/// Connects, names the tunnel, and serves it to its end.
async fn dial(
    master: &MasterUrl,
    credentials: &Credentials,
    streams: &dyn PodStreams,
    request: OpenTunnel,
) -> Result<(), String> {
    let tls = credentials.client_config().map_err(|error| Chain(&error).to_string())?;
    let connection =
        tls::connect(master, Arc::new(tls)).await.map_err(|error| Chain(&error).to_string())?;
    let (up, receiver) = mpsc::channel(UP_QUEUE);
    let open = Up::Open(TunnelOpen { id: request.id.clone() });
    // The channel has room and its reader is at hand, so this neither waits nor fails.
    let _ = up.send(TunnelUp { message: Some(open) }).await;
    let mut client = NodeClient::new(connection.channel);
    let mut down = client
        .tunnel(ReceiverStream::new(receiver))
        .await
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    let up = Sender(up);
    let last = match serve(streams, request, &mut down, &up).await {
        Ok(Some(exit_code)) => Up::Finished(Finished { exit_code }),
        // Nobody listens any more.
        Ok(None) => return Ok(()),
        Err(StreamFailure { code, message }) => {
            debug!(code, message, "a tunnel failed");
            Up::Failure(Failure { code: code.into(), message })
        }
    };
    up.send(last).await;
    drop(up);
    // The connection has to stay until the last message is through; the master then ends the call.
    let ended = async { while let Ok(Some(_)) = down.message().await {} };
    if timeout(LINGER, ended).await.is_err() {
        debug!("the client of a tunnel does not read its end");
    }
    Ok(())
}

/// The sending half of a tunnel.
#[derive(Clone)]
struct Sender(mpsc::Sender<TunnelUp>);

impl Sender {
    /// Whether somebody still listens.
    async fn send(&self, message: Up) -> bool {
        self.0.send(TunnelUp { message: Some(message) }).await.is_ok()
    }

    /// Ends when nobody listens any more.
    async fn closed(&self) {
        self.0.closed().await;
    }

    async fn data(&self, channel: u32, data: Bytes) -> bool {
        self.send(Up::Data(Data { channel, data })).await
    }
}

/// The exit code to finish with; nothing when the other side went away.
async fn serve(
    streams: &dyn PodStreams,
    request: OpenTunnel,
    down: &mut Streaming<TunnelDown>,
    up: &Sender,
) -> Result<Option<i32>, StreamFailure> {
    let OpenTunnel { id: _, namespace, pod, pod_uid, container, request } = request;
    let target = ContainerTarget { pod: ObjectKey::new(namespace, pod), pod_uid, container };
    match request {
        Some(Request::Attach(request)) => {
            let AttachRequest { stdin, stdout, stderr, tty } = request;
            let stderr = stderr && !tty;
            let session = streams.attach(&target, AttachOptions { stdin, stdout, stderr }).await?;
            let ended = exec(session, Wanted { stdout, stderr }, down, up).await?;
            // How the container ended is in its status; the attach has gone well.
            Ok(ended.map(|_exit_code| 0))
        }
        Some(Request::Connect(request)) => {
            let (place, port) = place(target, &request)?;
            connection::carry(streams.connect(&place, port).await?, down, up).await
        }
        Some(Request::Exec(request)) => {
            let ExecRequest { command, stdin, stdout, stderr, tty } = request;
            let session = streams.exec(&target, &ExecConfig { command, stdin, tty }).await?;
            Ok(exec(session, Wanted { stdout, stderr }, down, up).await?)
        }
        Some(Request::Logs(request)) => {
            let lines = streams.logs(&target, log_options(request)?).await?;
            logs(lines, down, up).await
        }
        None => Err(StreamFailure {
            code: 501,
            message: "this node's kubelet is too old for what the master asks".to_owned(),
        }),
    }
}

/// Where a connection is to lead.
fn place(target: ContainerTarget, request: &ConnectRequest) -> Result<(Place, u16), StreamFailure> {
    let pod = PodTarget { pod: target.pod, uid: target.pod_uid };
    let place = match request.place() {
        connect_request::Place::PodLoopback => Place::PodLoopback(pod),
        connect_request::Place::PodAddress => Place::PodAddress(pod),
        connect_request::Place::Node => Place::Node,
    };
    let port = u16::try_from(request.port);
    let port = port.map_err(|_| StreamFailure::bad_request("a port has at most 16 bits"))?;
    Ok((place, port))
}

fn log_options(request: LogsRequest) -> Result<LogOptions, StreamFailure> {
    let LogsRequest { follow, previous, timestamps, tail_lines, limit_bytes, since_time, stream } =
        request;
    let stream = match stream.as_str() {
        "" => None,
        "stdout" => Some(OutputStream::Stdout),
        "stderr" => Some(OutputStream::Stderr),
        other => return Err(StreamFailure::bad_request(format!("stream: {other:?} is none"))),
    };
    let count = |name: &str, value: Option<i64>| {
        value
            .map(|value| {
                u64::try_from(value)
                    .map_err(|_| StreamFailure::bad_request(format!("{name} must not be negative")))
            })
            .transpose()
    };
    Ok(LogOptions {
        follow,
        previous,
        timestamps,
        tail_lines: count("tailLines", tail_lines)?,
        limit_bytes: count("limitBytes", limit_bytes)?,
        since: since_time
            .map(|time| {
                time.parse()
                    .map_err(|error| StreamFailure::bad_request(format!("sinceTime: {error}")))
            })
            .transpose()?,
        stream,
    })
}

async fn logs(
    mut lines: crate::streams::LogStream,
    down: &mut Streaming<TunnelDown>,
    up: &Sender,
) -> Result<Option<i32>, StreamFailure> {
    loop {
        tokio::select! {
            bytes = lines.next() => match bytes {
                Some(bytes) => {
                    let mut bytes = bytes?;
                    while !bytes.is_empty() {
                        let chunk = bytes.split_to(bytes.len().min(CHUNK));
                        if !up.data(STDOUT, chunk).await {
                            return Ok(None);
                        }
                    }
                }
                None => return Ok(Some(0)),
            },
            // A client of a log has nothing to say; the end of its stream says that it left.
            message = down.message() => if !matches!(message, Ok(Some(_))) {
                return Ok(None);
            },
        }
    }
}

/// Which of a program's outputs the client wants; the others are read and dropped, so that the
/// program does not block on them.
#[derive(Clone, Copy)]
struct Wanted {
    stdout: bool,
    stderr: bool,
}

/// Joins a program to the tunnel. Dropping the session kills the program, so returning early is all
/// it takes when the client leaves.
async fn exec(
    session: ExecSession,
    wanted: Wanted,
    down: &mut Streaming<TunnelDown>,
    up: &Sender,
) -> Result<Option<i32>, StreamFailure> {
    let ExecSession { stdin, stdout, stderr, resize, mut exit } = session;
    let input = feed(stdin, resize, down);
    let output = async {
        let stdout = forward(stdout, STDOUT, wanted.stdout, up);
        let stderr = async {
            match stderr {
                Some(stderr) => forward(stderr, STDERR, wanted.stderr, up).await,
                None => true,
            }
        };
        let (stdout, stderr) = tokio::join!(stdout, stderr);
        stdout && stderr
    };
    tokio::pin!(input, output);

    let mut outputs_ended = false;
    let exit = loop {
        tokio::select! {
            exit = &mut exit => break exit,
            listening = &mut output, if !outputs_ended => {
                if !listening {
                    return Ok(None);
                }
                outputs_ended = true;
            }
            // The input ends only when the client has left. One that leaves while the program does
            // not take its input shows in the other direction.
            () = &mut input => return Ok(None),
            () = up.closed() => return Ok(None),
        }
    };
    let exit_code = exit
        .map_err(|_| StreamFailure::internal("the program was lost"))?
        .map_err(|error| StreamFailure::internal(Chain(&error).to_string()))?;
    if !outputs_ended && timeout(DRAIN, output).await.is_err() {
        debug!("the program has ended, and something it started holds its output open");
    }
    Ok(Some(exit_code))
}

/// Passes what the client sends to the program until the client leaves.
async fn feed(
    mut stdin: Option<Input>,
    resize: mpsc::Sender<(u16, u16)>,
    down: &mut Streaming<TunnelDown>,
) {
    while let Ok(Some(TunnelDown { message })) = down.message().await {
        match message {
            Some(Down::Data(Data { channel: STDIN, data })) => {
                let Some(input) = &mut stdin else { continue };
                // A program that closed its input goes on without it.
                if input.write_all(&data).await.is_err() || input.flush().await.is_err() {
                    stdin = None;
                }
            }
            Some(Down::EndOfInput(_)) => {
                if let Some(mut input) = stdin.take()
                    && let Err(error) = input.shutdown().await
                {
                    debug!(%error, "the program had closed its input");
                }
            }
            Some(Down::Resize(size)) => {
                let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
                // Of no consequence when the program has just ended.
                let _ = resize.try_send((cells(size.columns), cells(size.rows)));
            }
            _ => {}
        }
    }
}

/// Passes what the program writes to the client until it ends; tells whether the client listens.
async fn forward(mut output: Output, channel: u32, wanted: bool, up: &Sender) -> bool {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        match output.read_buf(&mut buffer).await {
            // A terminal that closes reads as an error.
            Ok(0) | Err(_) => return true,
            Ok(_) if wanted => {
                if !up.data(channel, buffer.split().freeze()).await {
                    return false;
                }
            }
            Ok(_) => buffer.clear(),
        }
    }
}
