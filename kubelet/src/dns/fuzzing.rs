//! What has to hold of every packet and of every endpoint slice, whatever is in it: the targets of the fuzzer.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock, RwLock};

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use proto::ObjectKey;
use serde_json::{Value, json};

use super::answer::{Answerer, Known, Next};
use super::forward::{Forward, Told, read_answer};
use super::message::{Asked, MAX_DATAGRAM, Question};
use super::names::{Names, objects};
use super::zone_of;
use crate::state::{Change, ClusterState, EndpointSlice};

/// A server that knows a little of everything.
fn answerer() -> &'static Answerer {
    static ANSWERER: OnceLock<Arc<Answerer>> = OnceLock::new();
    ANSWERER.get_or_init(|| {
        let mut state = ClusterState {
            loaded: true,
            pod_cidrs: vec!["10.244.0.0/16".to_owned(), "fd00:10:244::/56".to_owned()],
            service_cidrs: vec!["10.96.0.0/16".to_owned()],
            cluster_domain: "cluster.local".to_owned(),
            ..ClusterState::default()
        };
        let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.1.0/24"}});
        state.node = serde_json::from_value(node).ok().map(Arc::new);
        let mut put = |name: &str, spec: Value| {
            let service = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
            if let Ok(service) = serde_json::from_value(service) {
                state.services.insert(ObjectKey::new("shop", name), Arc::new(service));
            }
        };
        let ports = json!([{"name": "http", "protocol": "TCP", "port": 80}]);
        put("web", json!({"clusterIP": "10.96.0.10", "ports": ports}));
        put("db", json!({"clusterIP": "None", "ports": ports}));
        put("far", json!({"type": "ExternalName", "externalName": "www.example.org"}));
        put("self", json!({"type": "ExternalName", "externalName": "self.shop.svc.cluster.local"}));
        // More than have room in a datagram.
        let endpoints: Vec<Value> = (1..=200)
            .map(|last| json!({"addresses": [format!("10.244.1.{last}")], "hostname": format!("db-{last}")}))
            .collect();
        let slice = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": ports,
        });
        if let Ok(slice) = serde_json::from_value(slice) {
            state.endpoint_slices.insert(ObjectKey::new("shop", "db-1"), Arc::new(slice));
        }
        let zone = zone_of(&state).expect("the state has a zone");
        let known = Known { zone, names: Names::of(objects(&state)) };
        Answerer::new(Arc::new(RwLock::new(known)), Forward::to(|| Ok(Vec::new())))
    })
}

/// A packet that comes to the server: what is answered can be read, answers this packet, and has room.
///
/// # Panics
/// When that does not hold.
pub fn question(packet: &[u8]) {
    let question = match Question::read(packet) {
        Asked::Question(question) => question,
        Asked::Refused(refusal) => {
            let refusal = Message::from_vec(&refusal).expect("a refusal can be read");
            assert_eq!(refusal.metadata.message_type, MessageType::Response);
            assert_ne!(refusal.metadata.response_code, ResponseCode::NoError);
            assert_eq!(refusal.metadata.id.to_be_bytes(), packet[..2]);
            return;
        }
        Asked::Nonsense => return,
    };
    for room in [question.room(), usize::from(u16::MAX)] {
        let Next::Done(reply) = answerer().at_once(&question, room) else { continue };
        let bytes = reply.into_bytes(room);
        assert!(bytes.len() <= room && question.room() <= usize::from(MAX_DATAGRAM));
        let answer = Message::from_vec(&bytes).expect("an answer can be read");
        assert_eq!(answer.metadata.id, question.id());
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        let [asked] = answer.queries.as_slice() else {
            panic!("{} questions", answer.queries.len())
        };
        assert!(asked.name.eq_case(&question.query.name), "{asked} for {}", question.query);
        assert!(answer.answers.first().is_none_or(|record| record.name == asked.name));
    }
}

/// A packet that comes from a resolver: what it says can be told, and is not remembered for ever.
///
/// # Panics
/// When that does not hold.
pub fn answer(packet: &[u8]) {
    let id = packet.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    let name = Name::from_ascii("www.example.org.").expect("a name");
    let query = Query::query(name, RecordType::A);
    let Some(message) = read_answer(packet, id, &query) else { return };
    let told = Told::of(message);
    assert!(told.weight() > 0);
    let asked = Message::from_vec(packet).expect("it was read");
    let records = told.records();
    assert_eq!(records.answers.len(), asked.answers.len());
    assert!(records.answers.iter().all(|record| record.ttl <= 3600));
}

/// A slice as a master tells of it: its Service's name leads to addresses that the slice has, which lead
/// back to the Service; and taking it away leaves nothing of it.
///
/// # Panics
/// When that does not hold.
pub fn endpoint_slice(input: &[u8]) {
    let Ok(slice) = serde_json::from_slice::<EndpointSlice>(input) else { return };
    let key = ObjectKey::new("shop", "some-1");
    let known: Vec<IpAddr> = slice.endpoints().flat_map(|endpoint| endpoint.addresses()).collect();
    let mut state = ClusterState::default();
    let mut names = Names::default();
    let owner = slice.owner(&key);
    state.endpoint_slices.insert(key.clone(), Arc::new(slice));
    let change = Change::EndpointSlice(key.clone());
    names.follow(&change, &state);
    if let Some(owner) = &owner {
        for endpoint in names.endpoints(owner) {
            assert!(known.contains(&endpoint.address), "{endpoint:?}");
            let mut back = names.endpoints_at(endpoint.address).map(|(owner, _)| owner);
            assert!(back.any(|back| back == owner), "nothing leads back from {endpoint:?}");
        }
    }
    state.endpoint_slices.remove(&key);
    names.follow(&change, &state);
    assert!(owner.iter().all(|owner| names.endpoints(owner).next().is_none()));
    assert!(known.iter().all(|address| names.endpoints_at(*address).next().is_none()));
}
