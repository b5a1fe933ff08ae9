//! The subresources `exec` and `attach`: a program's streams, joined to the client over a WebSocket
//! or over SPDY.
//!
//! ```text
//! request ─ upgrade ─┬─ websocket ─┐
//!                    └─ spdy ──────┴─ join ─ tunnel ─ node
//! ```

mod spdy;
mod status;
mod websocket;

use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use proto::node::open_tunnel::Request;
use proto::node::tunnel_down::Message as Down;
use proto::node::tunnel_up::Message as Up;
use proto::node::{AttachRequest, Data, EndOfInput, ExecRequest, OpenTunnel, Resize, TunnelDown};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::registry::AnyKind;
use crate::api::rest::Api;
use crate::api::rest::pod_stream::{Place, options_of};
use crate::api::rest::query::Options;
use crate::api::rest::upgrade::{Refused, Spoken, Upgrade};
use crate::api::streams::TunnelStream;

/// The number of each stream, in the tunnel and on WebSockets.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// Input is passed on in pieces of this size, as tunnels want them.
const PIECE: usize = 16 << 10;

/// A client is asked for a sign of life so often: one that is gone breaks the connection by it, also
/// while nothing is read from it because the program does not take its input.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// How long a client may take to read how it ended and to close its side.
const FAREWELL: Duration = Duration::from_secs(10);

const SPOKEN: Spoken = Spoken {
    websocket: &[
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ],
    websocket_unnamed: "channel.k8s.io",
    spdy: &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"],
};

/// What a client wants of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

/// Answers `GET` and `POST` on `pods/exec`.
pub(crate) async fn exec(
    api: &Api,
    kind: &'static dyn AnyKind,
    key: &ObjectKey,
    parts: Parts,
) -> Result<Response, ApiError> {
    let options = Options::parse(&parts.uri)?;
    let command: Vec<String> = options.all("command").map(str::to_owned).collect();
    let mut errors = Vec::new();
    if command.is_empty() {
        errors.push(FieldError::required("command", ""));
    }
    let wanted = wanted(&options, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::invalid(&options_of("PodExecOptions"), &key.name, &errors));
    }
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    let request = Request::Exec(ExecRequest { command, stdin, stdout, stderr, tty });
    let place = Place::find(api, kind, key, options.get("container")).await?;
    if matches!(place.phase.as_str(), "Succeeded" | "Failed") {
        return Err(ApiError::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {}",
            place.phase
        )));
    }
    stream(api, &place, request, wanted, parts).await
}

/// Answers `GET` and `POST` on `pods/attach`.
pub(crate) async fn attach(
    api: &Api,
    kind: &'static dyn AnyKind,
    key: &ObjectKey,
    parts: Parts,
) -> Result<Response, ApiError> {
    let options = Options::parse(&parts.uri)?;
    let mut errors = Vec::new();
    let wanted = wanted(&options, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::invalid(&options_of("PodAttachOptions"), &key.name, &errors));
    }
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    let request = Request::Attach(AttachRequest { stdin, stdout, stderr, tty });
    let place = Place::find(api, kind, key, options.get("container")).await?;
    if matches!(place.phase.as_str(), "Succeeded" | "Failed") {
        return Err(ApiError::bad_request(format!(
            "cannot attach a container in a completed pod; current phase is {}",
            place.phase
        )));
    }
    stream(api, &place, request, wanted, parts).await
}

/// The streams that the query asks for.
fn wanted(options: &Options, errors: &mut Vec<FieldError>) -> Wanted {
    let tty = options.flag("tty");
    let wanted = Wanted {
        stdin: options.flag("stdin"),
        stdout: options.flag("stdout"),
        // A terminal has one output.
        stderr: options.flag("stderr") && !tty,
        tty,
    };
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        let detail = "must specify at least one of stdin, stdout, stderr";
        errors.push(FieldError::required("stdout", detail));
    }
    wanted
}

/// Upgrades, and joins the client to a tunnel.
async fn stream(
    api: &Api,
    place: &Place,
    request: Request,
    wanted: Wanted,
    mut parts: Parts,
) -> Result<Response, ApiError> {
    let node = place.host()?;
    let tunnel = place.tunnel(request);
    let upgrade = match Upgrade::of(&mut parts, &SPOKEN).await {
        Ok(upgrade) => upgrade,
        Err(Refused::Api(error)) => return Err(error),
        Err(Refused::Protocols(response)) => return Ok(*response),
    };
    let (streams, shutdown) = (api.streams.clone(), api.shutdown.clone());
    // From the upgrade on errors travel on the error channel: clients show those as they are, while
    // a failed upgrade makes them try older protocols first.
    let session = Session { streams, node, tunnel };
    Ok(match upgrade {
        Upgrade::WebSocket { upgrade, protocol } => upgrade.on_upgrade(async move |socket| {
            let (input, output) = websocket::split(socket, protocol);
            shutdown.run_until_cancelled(session.join(input, output)).await;
        }),
        Upgrade::Spdy(upgrade) => {
            let protocol = upgrade.protocol;
            upgrade.respond(async move |io| {
                let served = crate::api::spdy::serve(io, async |incoming| {
                    if let Some((input, output)) = spdy::streams(incoming, wanted, protocol).await {
                        session.join(input, output).await;
                    }
                });
                shutdown.run_until_cancelled(served).await;
            })
        }
    })
}

/// What a client says.
enum FromClient {
    Input(Bytes),
    EndOfInput,
    Resize(Size),
    /// Nothing to pass on; it lives.
    Nothing,
}

/// A terminal's size, as clients send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// The client has left.
struct Left;

/// What a client says, over whatever it speaks.
trait Input: Send {
    /// Nothing when the client has left. May be dropped and asked again.
    fn next(&mut self) -> impl Future<Output = Option<FromClient>> + Send;
}

/// What a client is told, over whatever it speaks.
trait Output: Send {
    /// Tells that the connection stands.
    fn begin(&mut self) -> impl Future<Output = Result<(), Left>> + Send;
    fn data(&mut self, channel: u8, data: Bytes) -> impl Future<Output = Result<(), Left>> + Send;
    fn ping(&mut self) -> impl Future<Output = Result<(), Left>> + Send;
    /// Tells how it ended, and that nothing more comes.
    fn end(&mut self, status: &Status) -> impl Future<Output = Result<(), Left>> + Send;
}

struct Session {
    streams: std::sync::Arc<dyn crate::api::streams::Streams>,
    node: String,
    tunnel: OpenTunnel,
}

impl Session {
    /// Opens the tunnel and carries both ways until the program has ended or the client is gone.
    async fn join(self, mut input: impl Input, mut output: impl Output) {
        let status = match self.streams.open(&self.node, self.tunnel).await {
            Ok(tunnel) => carry(tunnel, &mut input, &mut output).await,
            Err(error) => Ok(ApiError::from(error).to_status()),
        };
        let Ok(status) = status else { return };
        let farewell = async {
            output.end(&status).await?;
            // What the client still sends is of no use, but it has to be read to see its close.
            while input.next().await.is_some() {}
            Ok::<(), Left>(())
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!("a client did not close its side");
        }
    }
}

/// Carries until there is a status to tell.
async fn carry(
    tunnel: TunnelStream,
    input: &mut impl Input,
    output: &mut impl Output,
) -> Result<Status, Left> {
    let TunnelStream { down, mut up } = tunnel;
    let outward = async {
        output.begin().await?;
        loop {
            let message = match tokio::time::timeout(PING_INTERVAL, up.recv()).await {
                Ok(message) => message.and_then(|message| message.message),
                Err(_quiet) => {
                    output.ping().await?;
                    continue;
                }
            };
            match message {
                Some(Up::Data(Data { channel, data })) => {
                    let channel = if channel == u32::from(STDERR) { STDERR } else { STDOUT };
                    output.data(channel, data).await?;
                }
                Some(Up::Finished(finished)) => return Ok(status::of_exit(finished.exit_code)),
                Some(Up::Failure(failure)) => {
                    let code = u16::try_from(failure.code).unwrap_or(500);
                    return Ok(ApiError::from_node(code, &failure.message).to_status());
                }
                Some(Up::Open(_) | Up::Connected(_) | Up::EndOfOutput(_)) | None => {
                    let lost = ApiError::unavailable("the connection to the node was lost");
                    return Ok(lost.to_status());
                }
            }
        }
    };
    let inward = async {
        while let Some(said) = input.next().await {
            if pass_on(said, &down).await.is_err() {
                // The node has stopped listening and is about to say why.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        status = outward => status,
        () = inward => Err(Left),
    }
}

/// The node does not listen any more.
struct Deaf;

/// Passes on to the node what the client has said.
async fn pass_on(said: FromClient, down: &mpsc::Sender<TunnelDown>) -> Result<(), Deaf> {
    let send = async |message: Down| {
        down.send(TunnelDown { message: Some(message) }).await.map_err(|_| Deaf)
    };
    match said {
        FromClient::Input(mut input) => {
            while !input.is_empty() {
                let data = input.split_to(input.len().min(PIECE));
                send(Down::Data(Data { channel: u32::from(STDIN), data })).await?;
            }
            Ok(())
        }
        FromClient::EndOfInput => send(Down::EndOfInput(EndOfInput {})).await,
        FromClient::Resize(Size { width, height }) => {
            send(Down::Resize(Resize { columns: width.into(), rows: height.into() })).await
        }
        FromClient::Nothing => Ok(()),
    }
}
