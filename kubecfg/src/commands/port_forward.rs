//! `kubecfg port-forward`

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::Api;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::target;
use crate::client::Cluster;
use crate::print;

/// A port here, and the one that it leads to, as the words of the command line have them.
#[derive(Debug, PartialEq, Eq)]
struct Ports {
    /// 0: any that is free.
    local: u16,
    remote: String,
}

impl Ports {
    fn parse(text: &str) -> Result<Self> {
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        let local = match local {
            "" => 0,
            // A name has no number of its own here.
            name if name == remote && remote.parse::<u16>().is_err() => 0,
            number => number.parse().with_context(|| format!("\"{number}\" is no port"))?,
        };
        if remote.is_empty() {
            bail!("\"{text}\" does not say where it leads to; write LOCAL:REMOTE");
        }
        Ok(Self { local, remote: remote.to_owned() })
    }
}

/// Listens, and joins every connection to one of the pod's, until interrupted.
pub(crate) async fn port_forward(
    cluster: &Cluster,
    word: &str,
    ports: &[String],
    address: IpAddr,
) -> Result<()> {
    let wanted = ports.iter().map(|text| Ports::parse(text)).collect::<Result<Vec<_>>>()?;
    let (pods, pod, origin) = target::pod_and_origin(cluster, word).await?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase != Some("Running") {
        bail!("pod {} is not running: it is {}", pod.name_any(), phase.unwrap_or("new"));
    }
    let mut tasks = JoinSet::new();
    for Ports { local, remote } in wanted {
        let remote = pod_port(&origin, &pod, &remote)?;
        let listener = TcpListener::bind(SocketAddr::new(address, local)).await;
        let listener = listener.with_context(|| format!("cannot listen at port {local}"))?;
        print::line(format_args!(
            "forwarding {} -> port {remote} of pod {}",
            listener.local_addr()?,
            pod.name_any()
        ))?;
        tasks.spawn(listen(listener, pods.clone(), pod.name_any(), remote));
    }
    // None of them ends but with an error.
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn listen(listener: TcpListener, pods: Api<Pod>, pod: String, port: u16) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let (pods, pod) = (pods.clone(), pod.clone());
                connections.spawn(async move {
                    if let Err(error) = join(stream, &pods, &pod, port).await {
                        eprintln!("{}", crate::problem::sentence(&error));
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection to its end.
async fn join(mut stream: TcpStream, pods: &Api<Pod>, pod: &str, port: u16) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut forwarder = pods.portforward(pod, &[port]).await?;
    let error = forwarder.take_error(port);
    let mut remote = forwarder.take_stream(port).context("the server gives no stream")?;
    // Which side breaks off is of no consequence; what matters is told as an error of its own.
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut remote).await;
    drop(remote);
    if let Some(error) = error
        && let Some(told) = error.await
    {
        bail!("{told}");
    }
    Ok(())
}

/// The port of the pod that is meant: a Service's lead to others.
fn pod_port(origin: &Value, pod: &Pod, word: &str) -> Result<u16> {
    let mut wanted = word.to_owned();
    if origin["kind"] == "Service" {
        let service: Service = serde_json::from_value(origin.clone())?;
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let meant =
            |name: Option<&str>, number: i32| name == Some(word) || number.to_string() == word;
        let found: Vec<_> = ports.filter(|port| meant(port.name.as_deref(), port.port)).collect();
        // One number may be of several protocols, each of which leads elsewhere.
        let port = match found.iter().find(|port| is_tcp(port.protocol.as_deref())) {
            Some(port) => port,
            None if found.is_empty() => bail!("the service has no port {word}"),
            None => bail!(
                "port {word} of the service is of {}, and only TCP can be forwarded",
                found[0].protocol.as_deref().unwrap_or_default()
            ),
        };
        wanted = match &port.target_port {
            Some(IntOrString::Int(number)) => number.to_string(),
            Some(IntOrString::String(name)) => name.clone(),
            None => port.port.to_string(),
        };
    }
    if let Ok(number) = wanted.parse() {
        return Ok(number);
    }
    let containers = pod
        .spec
        .iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let named = ports.find(|port| {
        port.name.as_deref() == Some(wanted.as_str()) && is_tcp(port.protocol.as_deref())
    });
    let named = named.with_context(|| {
        format!("pod {} has no port of TCP that is named \"{wanted}\"", pod.name_any())
    })?;
    Ok(u16::try_from(named.container_port)?)
}

/// Whether a port that may say its protocol is of TCP.
fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_one_number_or_two() {
        let ports = |local, remote: &str| Ports { local, remote: remote.to_owned() };
        for (text, expected) in [
            ("80", ports(80, "80")),
            ("8080:80", ports(8080, "80")),
            (":80", ports(0, "80")),
            ("8443:https", ports(8443, "https")),
            ("https", ports(0, "https")),
        ] {
            assert_eq!(Ports::parse(text).unwrap(), expected, "{text}");
        }
        for bad in ["x:80", "80:", "70000:80", ""] {
            assert!(Ports::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_of_a_service_leads_to_one_of_its_pods() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "main", "ports": [
                {"name": "web", "containerPort": 8080},
                {"name": "dns", "containerPort": 5353, "protocol": "UDP"},
            ]}
        ]}}))
        .unwrap();
        let service = json!({"kind": "Service", "apiVersion": "v1", "spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": "web"}, {"port": 81, "targetPort": 9},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 5354},
            {"name": "log", "port": 514, "protocol": "UDP", "targetPort": 5140},
        ]}});
        for (origin, word, port) in [
            (&service, "80", 8080),
            (&service, "http", 8080),
            (&service, "81", 9),
            (&service, "53", 5354),
            (&json!({"kind": "Pod"}), "80", 80),
            (&json!({"kind": "Pod"}), "web", 8080),
        ] {
            assert_eq!(pod_port(origin, &pod, word).unwrap(), port, "{word}");
        }
        for (origin, word, why) in [
            (&service, "82", "the service has no port 82"),
            (&service, "514", "port 514 of the service is of UDP, and only TCP can be forwarded"),
            (&service, "dns", "port dns of the service is of UDP, and only TCP can be forwarded"),
            (&json!({"kind": "Pod"}), "dns", "has no port of TCP that is named \"dns\""),
        ] {
            let error = pod_port(origin, &pod, word).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
