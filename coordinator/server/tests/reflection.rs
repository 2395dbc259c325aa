//! Tools find out about the services without the .proto files, if they are let.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::*;
use tonic::{Code, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

async fn services(at: std::net::SocketAddr) -> Result<Vec<String>, Status> {
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(connect(at).await);
    let asked = client.server_reflection_info(tokio_stream::once(list)).await?;
    let answer = asked.into_inner().message().await?.unwrap();
    match answer.message_response.unwrap() {
        MessageResponse::ListServicesResponse(listed) => {
            Ok(listed.service.into_iter().map(|service| service.name).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_services_are_told_only_if_that_is_switched_on() {
    for reflection in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let server = start(dir.path(), unanimous_server::Config { reflection, ..once() }).await;
        for at in [server.sessions, server.admin] {
            match services(at).await {
                Ok(told) => {
                    assert!(reflection, "told {told:?}");
                    let ours = ["ParticipantService", "ClientService", "AdminService"];
                    let missing = ours.map(|name| format!("unanimous.v1.{name}"));
                    assert!(missing.iter().all(|name| told.contains(name)), "{told:?}");
                }
                Err(status) => {
                    assert_eq!((status.code(), reflection), (Code::Unimplemented, false));
                }
            }
        }
        server.stop().await;
    }
}
