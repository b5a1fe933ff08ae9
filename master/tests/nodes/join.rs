use std::sync::Arc;

use kubelet::join::{self, JoinError};
use proto::node::JoinRequest;
use proto::node::node_client::NodeClient;
use tonic::Code;

use crate::cluster::Cluster;
use crate::node::{BareClient, TestNode};

#[tokio::test]
async fn a_token_makes_a_machine_a_node() {
    let cluster = Cluster::start().await;
    let credentials = cluster.join("n1", "good").await.unwrap();
    assert_eq!(credentials.node_name(), "n1");
    let mut session = BareClient::connect(&cluster, &credentials).await.session("n1").await;
    assert!(!session.snapshot().await.is_empty());
}

#[tokio::test]
async fn expired_and_unknown_tokens_are_refused_with_a_sentence() {
    let cluster = Cluster::start().await;
    for (secret, sentence) in [("old", "has expired"), ("other", "is not known")] {
        let error = cluster.join("n1", secret).await.unwrap_err();
        let JoinError::Refused { message, .. } = &error else { panic!("{error}") };
        assert!(message.contains(sentence), "{message}");
    }
}

#[tokio::test]
async fn a_token_of_another_cluster_is_not_shown_to_this_one() {
    let (cluster, other) = (Cluster::start().await, Cluster::start().await);
    let token = other.authority.token("good").parse().unwrap();
    let error = join::join(&[cluster.url()], &token, "n1").await.unwrap_err();
    let JoinError::Connect(error) = error else { panic!("{error}") };
    assert!(error.is_distrust(), "{error:?}");
}

#[tokio::test]
async fn a_name_that_no_node_can_have_is_refused() {
    let cluster = Cluster::start().await;
    for name in ["", "Upper", "a b", "../x"] {
        let error = cluster.join(name, "good").await.unwrap_err();
        assert!(matches!(error, JoinError::Refused { .. }), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_token_does_not_give_the_place_of_a_connected_node() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let error = cluster.join("n1", "good").await.unwrap_err();
    assert!(error.to_string().contains("a node n1 is connected"), "{error}");
}

#[tokio::test]
async fn a_node_renews_its_own_certificate_and_no_other() {
    let cluster = Cluster::start().await;
    let credentials = cluster.join("n1", "good").await.unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let request = request.serialize_request(&key).unwrap().der().to_vec();
    let mut client = BareClient::connect(&cluster, &credentials).await.client;
    let mut renew = async |name: &str| {
        let request = JoinRequest {
            token: String::new(),
            node_name: name.to_owned(),
            certificate_request: request.clone().into(),
        };
        client.join(request).await
    };
    assert!(renew("n1").await.is_ok());
    assert_eq!(renew("n2").await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn without_a_token_or_a_certificate_there_is_no_certificate() {
    let cluster = Cluster::start().await;
    let token: join::Token = cluster.authority.token("good").parse().unwrap();
    let tls = Arc::new(kubelet::tls::pinned(token.authority_digest()).unwrap());
    let connection = kubelet::tls::connect(&cluster.url(), tls).await.unwrap();
    let mut client = NodeClient::new(connection.channel);
    let request = JoinRequest { node_name: "n1".to_owned(), ..JoinRequest::default() };
    assert_eq!(client.join(request).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_request_that_is_no_request_is_refused() {
    let cluster = Cluster::start().await;
    let credentials = cluster.join("n1", "good").await.unwrap();
    let mut client = BareClient::connect(&cluster, &credentials).await.client;
    let request = JoinRequest {
        token: String::new(),
        node_name: "n1".to_owned(),
        certificate_request: vec![1, 2, 3].into(),
    };
    assert_eq!(client.join(request).await.unwrap_err().code(), Code::InvalidArgument);
}
