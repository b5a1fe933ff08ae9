//! What is tried, and what came of it. Pure.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::probers::Probers;

/// By which way somebody is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Leg {
    #[serde(rename = "podIP")]
    PodIp,
    #[serde(rename = "clusterIP")]
    ClusterIp,
    #[serde(rename = "nodePort")]
    NodePort,
    #[serde(rename = "name")]
    Name,
}

impl Leg {
    /// As they are shown.
    pub(crate) const ALL: [Self; 4] = [Self::PodIp, Self::ClusterIp, Self::NodePort, Self::Name];

    /// Above its column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::PodIp => "POD IP",
            Self::ClusterIp => "CLUSTERIP",
            Self::NodePort => "NODEPORT",
            Self::Name => "NAME",
        }
    }
}

/// What has to be heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// This pod's name.
    Pod(String),
    /// Anything that listens: who it is cannot be told.
    Connection,
    /// A refusal: nobody is there.
    Refusal,
}

/// One connection to be tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Attempt {
    /// The node whose pod tries.
    pub(crate) from: String,
    /// Who is meant: a node, or an endpoint.
    pub(crate) to: String,
    pub(crate) leg: Leg,
    /// An address, or a name.
    pub(crate) host: String,
    pub(crate) port: u16,
    #[serde(skip)]
    pub(crate) wanted: Wanted,
}

impl Attempt {
    /// Host and port as one word.
    pub(crate) fn address(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// This was said.
    Said(String),
    /// Somebody took the connection.
    Connected,
    /// The connection was refused.
    Refused,
    /// Nothing came back in time.
    Silence,
    /// The pod's node knows no way there.
    NoRoute,
    /// The name has no address.
    NoSuchName,
    /// Something else, in the program's words.
    Other(String),
}

impl Heard {
    /// Out of the exit code and the output of `nc`.
    pub(crate) fn read(code: i32, text: &str) -> Self {
        /// What the script ends with once it is connected.
        const CONNECTED: i32 = 42;
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match code {
            CONNECTED => Self::Connected,
            0 if !text.is_empty() => Self::Said(text.to_owned()),
            _ if has(&["refused"]) => Self::Refused,
            _ if has(&["bad address", "bad host", "resolve"]) => Self::NoSuchName,
            _ if has(&["unreachable", "No route"]) => Self::NoRoute,
            0 => Self::Other("the connection was taken, and nothing was said".to_owned()),
            _ if text.is_empty() || has(&["timed out"]) => Self::Silence,
            _ => Self::Other(text.to_owned()),
        }
    }
}

/// An attempt, and what was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) attempt: Attempt,
    pub(crate) heard: Heard,
}

impl Outcome {
    /// Whether it was as it should be.
    pub(crate) fn is_ok(&self) -> bool {
        match (&self.attempt.wanted, &self.heard) {
            (Wanted::Pod(name), Heard::Said(said)) => name == said,
            (Wanted::Connection, heard) => matches!(heard, Heard::Connected),
            (Wanted::Refusal, heard) => !matches!(heard, Heard::Connected | Heard::Said(_)),
            _ => false,
        }
    }

    /// What happened instead; nothing if all is well.
    pub(crate) fn reason(&self) -> Option<String> {
        if self.is_ok() {
            return None;
        }
        Some(match &self.heard {
            Heard::Said(_) | Heard::Connected if self.attempt.wanted == Wanted::Refusal => {
                "somebody answers where nobody is".to_owned()
            }
            Heard::Said(said) => format!("somebody else answers: \"{said}\""),
            Heard::Connected => "the connection was taken by somebody unknown".to_owned(),
            Heard::Refused => "the connection is refused".to_owned(),
            Heard::Silence => "no answer in time".to_owned(),
            Heard::NoRoute => "there is no route".to_owned(),
            Heard::NoSuchName => "the name does not resolve".to_owned(),
            Heard::Other(text) => text.clone(),
        })
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Told<'a> {
            #[serde(flatten)]
            attempt: &'a Attempt,
            ok: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<String>,
        }
        let told = Told { attempt: &self.attempt, ok: self.is_ok(), reason: self.reason() };
        told.serialize(serializer)
    }
}

/// Every way from every node to every node, its own included.
pub(crate) fn between_all(probers: &Probers) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for from in probers.ready() {
        for to in probers.ready() {
            let mut add = |leg, host: String, port| {
                let wanted = Wanted::Pod(to.pod.clone());
                let (from, to) = (from.node.clone(), to.node.clone());
                attempts.push(Attempt { from, to, leg, host, port, wanted });
            };
            for address in &to.addresses {
                add(Leg::PodIp, address.to_string(), super::probers::POD_PORT);
            }
            for address in &to.service.addresses {
                add(Leg::ClusterIp, address.to_string(), super::probers::SERVICE_PORT);
            }
            if let Some(port) = to.service.node_port {
                for address in &to.node_addresses {
                    add(Leg::NodePort, address.to_string(), port);
                }
            }
            add(Leg::Name, to.service.name.clone(), super::probers::SERVICE_PORT);
        }
    }
    attempts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nc_says_is_understood() {
        for (code, text, wanted) in [
            (0, "probe-1", Heard::Said("probe-1".to_owned())),
            (42, "", Heard::Connected),
            (1, "nc: can't connect to remote host (10.0.0.1): Connection refused", Heard::Refused),
            (1, "nc: 10.0.0.1 (10.0.0.1:80): Connection refused", Heard::Refused),
            (1, "nc: bad address 'to-1'", Heard::NoSuchName),
            (1, "nc: can't connect to remote host (10.0.0.1): No route to host", Heard::NoRoute),
            (1, "nc: 10.0.0.1 (10.0.0.1:80): Network is unreachable", Heard::NoRoute),
            (1, "nc: timed out", Heard::Silence),
            (1, "", Heard::Silence),
            (143, "Terminated", Heard::Other("Terminated".to_owned())),
        ] {
            assert_eq!(Heard::read(code, text), wanted, "{code} {text}");
        }
        assert!(matches!(Heard::read(0, ""), Heard::Other(_)));
    }

    #[test]
    fn who_answers_has_to_be_who_is_meant() {
        let outcome = |wanted, heard| Outcome {
            attempt: Attempt {
                from: "a".to_owned(),
                to: "b".to_owned(),
                leg: Leg::PodIp,
                host: "fd00::1".to_owned(),
                port: 80,
                wanted,
            },
            heard,
        };
        let pod = || Wanted::Pod("probe-1".to_owned());
        assert!(outcome(pod(), Heard::Said("probe-1".to_owned())).is_ok());
        let other = outcome(pod(), Heard::Said("probe-2".to_owned()));
        assert_eq!(other.reason().as_deref(), Some("somebody else answers: \"probe-2\""));
        assert_eq!(other.attempt.address(), "[fd00::1]:80");
        assert!(!outcome(pod(), Heard::Connected).is_ok());
        assert!(outcome(Wanted::Connection, Heard::Connected).is_ok());
        assert!(!outcome(Wanted::Connection, Heard::Refused).is_ok());
        assert!(outcome(Wanted::Refusal, Heard::Refused).is_ok());
        let nobody = outcome(Wanted::Refusal, Heard::Connected);
        assert_eq!(nobody.reason().as_deref(), Some("somebody answers where nobody is"));
        let told = serde_json::to_value(&other).unwrap();
        assert_eq!(told["leg"], "podIP");
        assert_eq!(told["ok"], false);
        assert!(told.get("wanted").is_none() && told["reason"].is_string());
    }
}
