//! The same behind axum.

use crate::service::{Member, soon};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use http::{Request, StatusCode};
use tonic::Status;
use tonic::codegen::Service;
use unanimous_sdk::{ClientLayer, Context, HEADER_TRANSACTION, InProcess, ServerLayer};

async fn work(State(member): State<Member>, context: Context) -> Result<(), StatusCode> {
    member.work(&context).await.map_err(|_| StatusCode::CONFLICT)
}

async fn perhaps(context: Option<Context>) -> String {
    context.map_or_else(|| "none".to_owned(), |context| context.gtrid().to_string())
}

fn routes(member: Member) -> Router {
    Router::new().route("/work", post(work)).route("/perhaps", post(perhaps)).with_state(member)
}

fn to(path: &str) -> Request<Body> {
    Request::post(path).body(Body::empty()).unwrap()
}

async fn text(body: Body) -> String {
    String::from_utf8(axum::body::to_bytes(body, 1_000).await.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn a_handler_of_axum_takes_part() {
    let coordinator = InProcess::start().await.unwrap();
    let client = coordinator.client("shop").connect().unwrap();
    let member = Member::start(&coordinator, "a").await;
    let mut site = ClientLayer.layer(routes(member.clone()).layer(ServerLayer));
    let memory = member.memory.clone();
    let ran = client.run("order", |tx| async move {
        let worked = site.call(to("/work")).await.unwrap();
        assert_eq!(worked.status(), StatusCode::OK);
        let named = site.call(to("/perhaps")).await.unwrap();
        assert_eq!(text(named.into_body()).await, tx.gtrid().to_string());
        assert_eq!(tx.branches(), Some(1));
        Ok::<_, Status>(tx.gtrid())
    });
    let gtrid = soon("an end", tokio::spawn(ran)).await.unwrap().unwrap();
    assert!(memory.has(gtrid), "one phase: committed before the answer");
}

#[tokio::test]
async fn a_call_without_a_transaction_is_answered_with_the_reason() {
    let coordinator = InProcess::start().await.unwrap();
    let mut routes = routes(Member::start(&coordinator, "a").await);
    let none = routes.call(to("/work")).await.unwrap();
    assert_eq!(none.status(), StatusCode::BAD_REQUEST);
    let words = text(none.into_body()).await;
    assert!(words.contains(HEADER_TRANSACTION), "{words}");
    assert_eq!(text(routes.call(to("/perhaps")).await.unwrap().into_body()).await, "none");

    let mut bad = to("/perhaps");
    bad.headers_mut().insert(HEADER_TRANSACTION, "nonsense".parse().unwrap());
    assert_eq!(routes.call(bad).await.unwrap().status(), StatusCode::BAD_REQUEST);
    // And by the layer, before any handler.
    let mut bad = to("/nowhere");
    bad.headers_mut().insert(HEADER_TRANSACTION, "nonsense".parse().unwrap());
    let refused = routes.layer(ServerLayer).call(bad).await.unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}
