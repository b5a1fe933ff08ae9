//! Streams into pods, with the clients that people have: `exec`, `attach`, `portforward`, proxies.
//!
//! kubectl of today speaks WebSockets and, if told so, SPDY; that of some years ago speaks SPDY only;
//! kubecfg speaks WebSockets by way of another library.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::check::{self, Tool, is_ready, until};
use e2e::image::TEST_IMAGE;
use e2e::lab::{Lab, StoreKind, run};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The clients that there are. That of some years ago is in Debian only.
fn tools(lab: &Lab) -> Vec<Tool> {
    let mut tools = vec![Tool::Kubectl, Tool::KubectlOverSpdy, Tool::Kubecfg];
    match Tool::OldKubectl.command(lab) {
        Ok(_) => tools.push(Tool::OldKubectl),
        Err(error) => eprintln!("left out: {error}"),
    }
    tools
}

/// A pod that serves, and a Service before it.
async fn start_web(lab: &Lab, client: &Client) -> Result<()> {
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: web}}}}\n\
         spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: \"{TEST_IMAGE}\", \
         ports: [{{containerPort: 8080, name: http}}], \
         readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
         spec: {{selector: {{app: web}}, ports: [{{name: web, port: 80, targetPort: http}}]}}\n"
    );
    Tool::Kubecfg.run_with(lab, &["apply", "-"], &manifest)?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    until(&pods, "app=web", "the pod is ready", |pods| pods.iter().any(is_ready)).await?;
    Ok(())
}

/// How many connections a node has to the master: one for its session, one for each tunnel.
fn connections(lab: &Lab) -> Result<usize> {
    let script = "ss -Htn state established dport = :6443 | wc -l";
    Ok(lab.node("node1")?.run(&["sh", "-c", script])?.trim().parse()?)
}

/// Waits until no tunnel is left.
async fn no_tunnels(lab: &Lab, after: &str) -> Result<()> {
    let deadline = Instant::now() + check::DEADLINE;
    while connections(lab)? > 1 {
        ensure!(
            Instant::now() < deadline,
            "{} connections are left after {after}",
            connections(lab)?
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[test]
fn programs_are_run_and_joined_by_every_client() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        start_web(&lab, &client).await?;
        for tool in tools(&lab) {
            exec(&lab, tool).with_context(|| format!("{tool:?}"))?;
            attach(&lab, &client, tool).await.with_context(|| format!("{tool:?}"))?;
            no_tunnels(&lab, &format!("{tool:?}")).await?;
        }
        Ok(())
    })
}

fn exec(lab: &Lab, tool: Tool) -> Result<()> {
    // More than all buffers on the way hold, there and back.
    let input: String = (0..60_000).map(|line| format!("line {line}\n")).collect();
    let back = tool.run_with(lab, &["exec", "-i", "web", "--", "/testserver", "read"], &input)?;
    ensure!(back == input, "{} bytes went, {} came", input.len(), back.len());

    let run = |words: &[&str]| -> Result<std::process::Output> {
        let mut command = tool.command(lab)?;
        command.args(["exec", "web", "--"]).args(words).stdin(Stdio::null());
        Ok(command.output()?)
    };
    ensure!(run(&["/testserver", "exit", "7"])?.status.code() == Some(7));
    let both = run(&["/testserver", "get", "http://127.0.0.1:8080/nowhere"])?;
    ensure!(both.stdout == b"there is no /nowhere\n", "{both:?}");
    ensure!(String::from_utf8_lossy(&both.stderr).contains("answered 404"), "{both:?}");
    let missing = run(&["/nothing"])?;
    let told = String::from_utf8_lossy(&missing.stderr).into_owned();
    ensure!(!missing.status.success() && told.contains("/nothing"), "{told}");

    // With a terminal of its own on this side.
    let words = tool.command(lab)?;
    let program = words.get_program().to_string_lossy().into_owned();
    let mut command = lab.hub.command("script");
    for (name, value) in words.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let line = client_line(&words, "exec -it web -- /testserver terminal");
    let output = command.args(["-qefc", &line, "/dev/null"]).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.contains("terminal: true"), "{program}: {text}");
    Ok(())
}

/// A command line for a shell, of a client that runs in a machine of the lab.
fn client_line(command: &std::process::Command, words: &str) -> String {
    // What enters the machine comes first; `script` is in there already.
    let program = std::iter::once(command.get_program()).chain(command.get_args());
    let program = program.map(|word| word.to_string_lossy().into_owned()).last();
    format!("{} {words}", program.unwrap_or_default())
}

async fn attach(lab: &Lab, client: &Client, tool: Tool) -> Result<()> {
    let name = format!("parrot-{tool:?}").to_lowercase();
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
         spec: {{restartPolicy: Never, containers: [{{name: main, image: \"{TEST_IMAGE}\", \
         args: [parrot], stdin: true, stdinOnce: true}}]}}\n"
    );
    Tool::Kubecfg.run_with(lab, &["apply", "-"], &manifest)?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let labels = format!("app={name}");
    until(&pods, &labels, "it runs", |pods| pods.iter().any(is_ready)).await?;
    let mut viewer = Running::start(lab, tool, &["attach", &name])?;
    // It sees what is said after it came, so another one waits until it has.
    let deadline = Instant::now() + check::DEADLINE;
    while connections(lab)? < 2 {
        ensure!(Instant::now() < deadline, "the viewer is not attached");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let heard = tool.run_with(lab, &["attach", "-i", &name], "one\ntwo\n")?;
    ensure!(heard.contains("heard one") && heard.contains("heard two"), "{heard:?}");
    // Its input was the container's only one, so that has ended with it.
    until(&pods, &labels, "it has ended", |pods| {
        pods.iter()
            .any(|pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed"))
    })
    .await?;
    let mut seen = String::new();
    viewer.output.read_to_string(&mut seen)?;
    ensure!(seen.contains("heard two"), "the viewer saw {seen:?}");
    let log = Tool::Kubecfg.run(lab, &["logs", &name])?;
    ensure!(log.matches("heard").count() == 2 && log.matches("said it").count() == 2, "{log:?}");
    let path = format!("/api/v1/namespaces/default/pods/{name}/log");
    for (stream, said, not_said) in [("Stdout", "heard", "said it"), ("Stderr", "said it", "heard")]
    {
        let log = Tool::Kubectl.run(lab, &["get", "--raw", &format!("{path}?stream={stream}")])?;
        ensure!(log.matches(said).count() == 2 && !log.contains(not_said), "{stream}: {log:?}");
    }
    Ok(())
}

/// A client that runs until it is killed.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(lab: &Lab, tool: Tool, words: &[&str]) -> Result<Self> {
        let mut command = tool.command(lab)?;
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // With whatever it starts, so that all of it can be killed at once.
        command.process_group(0);
        let mut child = command.spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, output })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            let mut told = String::new();
            if let Some(mut stderr) = self.child.stderr.take() {
                stderr.read_to_string(&mut told)?;
            }
            bail!("it has ended: {told}");
        }
        Ok(line)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

#[test]
fn ports_are_forwarded_by_every_client() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        start_web(&lab, &client).await?;
        for tool in tools(&lab) {
            forward(&lab, tool).await.with_context(|| format!("{tool:?}"))?;
            // Killed in the middle of it, it leaves nothing.
            no_tunnels(&lab, &format!("{tool:?}")).await?;
        }
        Ok(())
    })
}

async fn forward(lab: &Lab, tool: Tool) -> Result<()> {
    let mut forwarding = Running::start(lab, tool, &["port-forward", "svc/web", ":80"])?;
    let port = local_port(&forwarding.line()?)?;
    let body: Vec<u8> =
        (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let posts = (0..6).map(|_| post(port, &body));
    for back in futures::future::join_all(posts).await {
        ensure!(back? == body, "what came back is not what went");
    }
    // A connection that nobody uses, left open until the client is killed.
    let idle = TcpStream::connect(("127.0.0.1", port)).await?;
    let deadline = Instant::now() + check::DEADLINE;
    while connections(lab)? < 2 {
        ensure!(Instant::now() < deadline, "there is no tunnel");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(forwarding);
    drop(idle);

    // Nobody listens at that one.
    let mut forwarding = Running::start(lab, tool, &["port-forward", "pod/web", ":81"])?;
    let port = local_port(&forwarding.line()?)?;
    ensure!(post(port, b"x").await.map_or(true, |back| back.is_empty()), "something answers");
    let mut stderr = BufReader::new(forwarding.child.stderr.take().context("no errors")?);
    let mut told = String::new();
    while !told.contains("refused") {
        ensure!(stderr.read_line(&mut told)? > 0, "it says {told:?}");
    }
    ensure!(told.contains("81") && told.contains("web"), "{told}");
    Ok(())
}

/// Out of `Forwarding from 127.0.0.1:1234 -> 80`.
fn local_port(line: &str) -> Result<u16> {
    let address = line.split(' ').find(|word| word.starts_with("127.0.0.1:"));
    let port = address.and_then(|address| address.rsplit(':').next());
    port.and_then(|port| port.trim().parse().ok()).with_context(|| format!("no port in {line:?}"))
}

async fn post(port: u16, body: &[u8]) -> Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let head =
            format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let end =
            answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        Ok(answer.split_off(end))
    };
    tokio::time::timeout(check::DEADLINE, exchange).await.context("no answer in time")?
}

/// A connection that becomes something else on the way carries everything both ways.
async fn upgraded(client: &Client, path: &str) -> Result<()> {
    let exchange = async {
        let request = http::Request::get(path)
            .header("connection", "Upgrade")
            .header("upgrade", "echo")
            .body(kube::client::Body::empty())?;
        let answer = client.send(request).await?;
        ensure!(answer.status() == 101, "{path}: {}", answer.status());
        ensure!(answer.headers()["upgrade"] == "echo");
        let joined = hyper_util::rt::TokioIo::new(hyper::upgrade::on(answer).await?);
        let (mut read, mut write) = tokio::io::split(joined);
        let said = vec![7; 1 << 20];
        let mut heard = vec![0; said.len()];
        // Without the flush TLS may keep the last of it to itself.
        let say = async {
            write.write_all(&said).await?;
            write.flush().await
        };
        tokio::try_join!(say, read.read_exact(&mut heard))?;
        ensure!(heard == said, "{path}: not what was said");
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), exchange).await.context("it hangs")?
}

#[test]
fn http_is_proxied_to_pods_services_and_nodes_and_a_node_is_drained() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        start_web(&lab, &client).await?;
        let base = "/api/v1/namespaces/default";
        let raw = |path: &str| Tool::Kubectl.run(&lab, &["get", "--raw", path]);
        for path in [
            "pods/web/proxy/hostname",
            "pods/http:web:8080/proxy/hostname",
            "services/web/proxy/hostname",
            "services/web:80/proxy/hostname",
            "services/web:web/proxy/hostname",
        ] {
            let found = raw(&format!("{base}/{path}"));
            // A service with a name for its port is not meant by no name at all.
            if path == "services/web/proxy/hostname" {
                ensure!(found.is_err());
                continue;
            }
            ensure!(found? == "web\n", "{path}");
        }
        ensure!(raw("/api/v1/nodes/node1/proxy/healthz")? == "ok");
        ensure!(raw("/api/v1/nodes/node1/proxy/pods")?.contains("\"name\":\"web\""));

        let answer = async |method: &str,
                            path: &str,
                            body: Vec<u8>|
               -> Result<http::Response<Vec<u8>>> {
            let request = http::Request::builder().method(method).uri(format!("{base}/{path}"));
            let send = async {
                let request = request.body(kube::client::Body::from(body))?;
                let answer = client.send(request).await.context("no head")?;
                let (parts, body) = answer.into_parts();
                anyhow::Ok(http::Response::from_parts(parts, body.collect_bytes().await?.to_vec()))
            };
            let answer = tokio::time::timeout(Duration::from_secs(20), send).await;
            answer.with_context(|| format!("{method} {path} is not answered"))?
        };
        let body = vec![7; 1 << 20];
        let echoed = answer("POST", "pods/web:8080/proxy/echo", body.clone()).await?;
        ensure!(echoed.status() == 200 && *echoed.body() == body);
        let moved = answer("GET", "pods/web:8080/proxy/moved", Vec::new()).await?;
        ensure!(moved.status() == 302);
        ensure!(moved.headers()["location"] == format!("{base}/pods/web:8080/proxy/hostname"));
        upgraded(&client, &format!("{base}/pods/web:8080/proxy/upgrade")).await?;
        upgraded(&client, &format!("{base}/services/web:web/proxy/upgrade")).await?;
        let slash = answer("GET", "pods/web:8080/proxy", Vec::new()).await?;
        ensure!(slash.status() == 301);
        let nobody = "apiVersion: v1\nkind: Service\nmetadata: {name: nobody}\n\
                      spec: {selector: {app: nobody}, ports: [{port: 80}]}\n";
        Tool::Kubecfg.run_with(&lab, &["apply", "-"], nobody)?;
        for (path, code, told) in [
            ("pods/web:81/proxy/", 503, "error trying to reach service: dial tcp"),
            ("services/web:81/proxy/", 503, "no service port 81 found for service"),
            ("services/nobody:80/proxy/", 503, "no endpoints available for service \\\"nobody\\\""),
            ("services/none:80/proxy/", 404, "services \\\"none\\\" not found"),
            // It speaks no TLS.
            ("services/https:web:web/proxy/", 503, "error trying to reach service"),
            ("pods/none/proxy/", 404, "pods \\\"none\\\" not found"),
            ("pods/ftp:web:21/proxy/", 400, "invalid pod request"),
        ] {
            let refused = answer("GET", path, Vec::new()).await?;
            let text = String::from_utf8_lossy(refused.body()).into_owned();
            ensure!(refused.status() == code && text.contains(told), "{path}: {text}");
        }
        no_tunnels(&lab, "the proxies").await?;
        outside_of_the_cluster(&lab, answer).await?;

        for tool in tools(&lab).into_iter().filter(|tool| *tool != Tool::Kubecfg) {
            start_web(&lab, &client).await?;
            tool.run(&lab, &["drain", "node1", "--force", "--ignore-daemonsets"])?;
            ensure!(
                check::pods(&client, "app=web").await?.is_empty(),
                "{tool:?} left the pod there"
            );
            tool.run(&lab, &["uncordon", "node1"])?;
        }
        Ok(())
    })
}

/// Whom endpoints name that were written by hand is reached by the master itself.
async fn outside_of_the_cluster(
    lab: &Lab,
    answer: impl AsyncFn(&str, &str, Vec<u8>) -> Result<http::Response<Vec<u8>>>,
) -> Result<()> {
    let listener = TcpListener::bind((lab.hub.address, 0)).await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut asked = [0; 4096];
        let count = stream.read(&mut asked).await?;
        let asked = String::from_utf8_lossy(&asked[..count]).into_owned();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\noutside\n").await?;
        anyhow::Ok(asked)
    });
    let manifest = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: outside}}\n\
         spec: {{ports: [{{port: 80, targetPort: {port}}}]}}\n---\n\
         apiVersion: v1\nkind: Endpoints\nmetadata: {{name: outside}}\n\
         subsets: [{{addresses: [{{ip: {ip}}}], ports: [{{port: {port}}}]}}]\n",
        ip = address.ip(),
        port = address.port(),
    );
    Tool::Kubecfg.run_with(lab, &["apply", "-"], &manifest)?;
    let found = answer("GET", "services/outside:80/proxy/some/where?x=y", Vec::new()).await?;
    ensure!(found.status() == 200 && found.body() == b"outside\n", "{found:?}");
    let asked = server.await??;
    ensure!(asked.starts_with("GET /some/where?x=y HTTP/1.1\r\n"), "{asked}");
    ensure!(asked.contains(&format!("host: {address}\r\n")), "{asked}");
    // Nobody listens there any more.
    let refused = answer("GET", "services/outside:80/proxy/", Vec::new()).await?;
    let text = String::from_utf8_lossy(refused.body()).into_owned();
    let told = format!("error trying to reach service: dial tcp {address}: ");
    ensure!(refused.status() == 503 && text.contains(&told), "{text}");
    Ok(())
}

#[test]
fn a_kubelet_that_dies_takes_its_streams_along_and_nothing_else() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        start_web(&lab, &client).await?;
        let before = check::processes(&lab, "node1")?;
        let mut running = Vec::new();
        for tool in tools(&lab) {
            running.push(Running::start(
                &lab,
                tool,
                &["exec", "-i", "web", "--", "/testserver", "parrot"],
            )?);
        }
        for client in &mut running {
            client.child.stdin.as_mut().context("no input")?.write_all(b"hello\n")?;
            ensure!(client.line()? == "heard hello\n");
        }
        // A client that is killed: its program ends, and the others go on.
        running.pop();
        running
            .last_mut()
            .context("none")?
            .child
            .stdin
            .as_mut()
            .context("none")?
            .write_all(b"x\n")?;
        ensure!(running.last_mut().context("none")?.line()? == "heard x\n");

        lab.node("node1")?.end("kubelet", Signal::SIGKILL)?;
        for client in &mut running {
            let ended = client.line();
            ensure!(ended.is_err(), "{ended:?}");
            ensure!(!client.child.wait()?.success(), "a lost node is no success");
        }
        lab.start_kubelet(lab.node("node1")?, None)?;
        let deadline = Instant::now() + check::DEADLINE;
        while check::processes(&lab, "node1")? != before {
            ensure!(Instant::now() < deadline, "{:?} are left", check::processes(&lab, "node1")?);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    })
}
