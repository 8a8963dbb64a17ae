//! A client's side without anything behind it: what a session is told, in which words, and where it goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::Batches;
use super::call::Call;
use super::outbox::Outbox;
use super::session::{Beginning, Session};
use super::subscription::{Change, Subscription, Wanted};
use crate::hub::context::{Boot, Context};
use crate::model::budget::Holder;
use crate::model::config::sample;
use crate::model::envelope::scan;
use crate::model::ids::Id;
use crate::model::method::Method;
use crate::model::modern::{Era, Filter};
use crate::model::out::Out;
use crate::model::transport::{SessionKind, Transport};
use crate::rt::main_thread::Spawner;
use crate::rt::wait::timeout;

const LIST_CHANGED: &str = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
const UPDATED: &str = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///a"}}"#;

fn session() -> Arc<Session> {
    let boot = Boot {
        spawner: Spawner::new().0,
        nofile: 1024,
        mark: "test-".to_owned(),
        session_key: None,
        at: an_hour_ago(),
    };
    let config = sample::config(r#"(limits: (in_flight: 2), servers: {"s": Stdio(command: "echo")})"#);
    let ctx = Context::new(boot, config);
    let beginning = Beginning {
        kind: SessionKind::Lasting(Transport::Http),
        id: "the-id".to_owned(),
        holder: Holder::Session(1),
        server: "s".into(),
        place: 0,
        watchers: Arc::default(),
        above: vec![ctx.load.clone()],
    };
    Arc::new(Session::new(&ctx, 1, beginning))
}

fn an_hour_ago() -> Instant {
    Instant::now().checked_sub(Duration::from_secs(3600)).unwrap_or_else(Instant::now)
}

fn outbox() -> Arc<Outbox> {
    Arc::new(Outbox::new(1 << 20))
}

fn wanted(id: &str, filter: Filter) -> Wanted {
    Wanted { id: id.into(), filter, text: "{}".into(), reply: outbox() }
}

/// The texts that wait in an outbox, which ends with them.
async fn texts(from: &Outbox) -> Vec<String> {
    from.end();
    let mut all = Vec::new();
    while let Some(out) = timeout(Duration::from_secs(10), from.next()).await.expect("an end") {
        all.push(out.text);
    }
    all
}

fn run(test: impl Future<Output = ()>) {
    futures_lite::future::block_on(test);
}

#[test]
fn a_message_goes_to_the_newest_stream_alone_and_the_one_before_ends() {
    run(async {
        let session = session();
        assert!(!session.notify("nowhere"));
        let (first, second) = (outbox(), outbox());
        session.attach(first.clone());
        assert!(session.notify("1"));
        session.attach(second.clone());
        assert!(session.notify("2"));
        assert!(first.is_ended());
        assert_eq!((texts(&first).await, texts(&second).await), (vec!["1".to_owned()], vec!["2".to_owned()]));
        let third = outbox();
        session.attach(third.clone());
        assert!(session.end("over") && !session.end("over"));
        assert!(third.is_ended());
    });
}

#[test]
fn resources_updated_reaches_only_who_subscribed_to_the_uri() {
    run(async {
        let (session, push) = (session(), outbox());
        session.attach(push.clone());
        let change = Change::Resource { uri: "file:///a", text: UPDATED };
        session.notify_client(&change);
        session.watch("file:///a");
        session.notify_client(&change);
        session.notify_client(&Change::Resource { uri: "file:///b", text: "another" });
        assert!(session.unwatch("file:///a") && !session.unwatch("file:///a"));
        session.notify_client(&change);
        session.notify_client(&Change::List { list: "tools", text: LIST_CHANGED });
        assert_eq!(texts(&push).await, [UPDATED, LIST_CHANGED]);
    });
}

#[test]
fn a_modern_subscription_gets_what_its_filter_names_with_its_own_id() {
    run(async {
        let (session, push) = (session(), outbox());
        session.attach(push.clone());
        session.note_era(Era::Modern);
        let tools = wanted("\"a\"", Filter { tools: true, ..Filter::default() });
        let uri = wanted("2", Filter { uris: vec!["file:///a".to_owned()], ..Filter::default() });
        for one in [&tools, &uri] {
            assert!(session.add_subscription(Subscription::kept(1, one, one.filter.clone())));
        }
        session.notify_client(&Change::List { list: "tools", text: LIST_CHANGED });
        session.notify_client(&Change::List { list: "prompts", text: "not wanted" });
        session.notify_client(&Change::Resource { uri: "file:///a", text: UPDATED });
        session.notify_client(&Change::Resource { uri: "file:///b", text: "not wanted" });
        session.end_subscriptions();
        assert!(session.subscriptions().is_empty());
        let tag = r#""io.modelcontextprotocol/subscriptionId":"#;
        let told = texts(&tools.reply).await;
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("tools/list_changed") && told[0].contains(&format!("{tag}\"a\"")), "{told:?}");
        assert!(told[1].contains(r#""id":"a","result""#), "{told:?}");
        let told = texts(&uri.reply).await;
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("resources/updated") && told[0].contains(&format!("{tag}2")), "{told:?}");
        assert_eq!(texts(&push).await, [""; 0], "its stream is for the legacy era");
    });
}

#[test]
fn subscriptions_and_watched_resources_are_bounded_and_an_id_is_taken_once() {
    let session = session();
    let kept = |id: &str| Subscription::kept(1, &wanted(id, Filter::default()), Filter::default());
    assert!(session.add_subscription(kept("\"a\"")));
    assert!(!session.add_subscription(kept("\"\\u0061\"")), "the id is taken, written in another way");
    assert!(session.take_subscription(&Id::from("\"\\u0061\"")).is_some());
    assert!(session.take_subscription(&Id::from("\"a\"")).is_none());
    for n in 0..100 {
        assert!(session.add_subscription(kept(&n.to_string())));
    }
    assert!(!session.add_subscription(kept("100")));
    // One that has ended makes room.
    session.subscriptions()[0].finish();
    assert!(session.add_subscription(kept("100")));
    for n in 0..1000 {
        assert!(session.may_watch("x"));
        session.watch(&n.to_string());
    }
    assert!(!session.may_watch("x"));
    session.take_watched();
    assert!(session.may_watch("x") && !session.may_watch(&"x".repeat(9000)));
}

#[test]
fn an_answer_carries_the_id_as_the_client_wrote_it_and_open_requests_are_bounded() {
    run(async {
        let (session, reply) = (session(), outbox());
        let open = |id: &str| Call::open(&session, Method::ToolsCall, id, None, &reply);
        let (first, second) = (open("\"\\u0061\"").unwrap(), open("1.0").unwrap());
        let refused = open("3").err().map(|e| e.to_string());
        assert!(refused.is_some_and(|text| text.contains('2')), "the limit is named");
        let e = scan(r#"{"jsonrpc":"2.0","id":7,"result":{"n":1.50}}"#).unwrap();
        let text = first.phrase(&e, None);
        first.answer(text, false);
        second.error(-32603, "it failed");
        assert_eq!((session.load.in_flight(), session.ctx.load.in_flight()), (0, 0));
        drop(open("4").unwrap());
        assert_eq!(session.load.in_flight(), 0, "one that is dropped is open no more");
        assert_eq!(
            texts(&reply).await,
            [
                r#"{"jsonrpc":"2.0","id":"\u0061","result":{"n":1.50}}"#,
                r#"{"jsonrpc":"2.0","id":1.0,"error":{"code":-32603,"message":"it failed"}}"#
            ]
        );
    });
}

#[test]
fn a_resource_is_watched_once_the_server_has_agreed() {
    let (session, reply) = (session(), outbox());
    for (failed, watching) in [(true, false), (false, true)] {
        let mut call = Call::new(&session, Method::Subscribe, "1", None, &reply);
        call.subscribes = Some(Box::new("file:///a".into()));
        call.answer("{}".to_owned(), failed);
        assert_eq!(session.is_watching("file:///a"), watching);
    }
}

#[test]
fn a_batch_is_answered_with_one_array_within_its_limit() {
    run(async {
        let (batches, answers, reply) = (Arc::new(Batches::default()), Arc::new(Outbox::batch(1 << 20, 3)), outbox());
        batches.collect(answers.clone(), &reply, true, 60);
        let long = format!(r#"{{"id":2,"result":"{}"}}"#, "x".repeat(60));
        for out in [
            Out::reply(r#"{"id":1,"result":{}}"#.to_owned(), false),
            Out::notice("progress".to_owned()),
            Out::reply(long, false),
            Out::reply(r#"{"id":3,"result":{}}"#.to_owned(), false),
        ] {
            answers.push(out);
        }
        let mut told = Vec::new();
        for _ in 0..2 {
            told.push(timeout(Duration::from_secs(10), reply.next()).await.flatten().expect("a message").text);
        }
        assert_eq!(told[0], "progress", "what is no answer passes as it comes");
        let array: serde_json::Value = serde_json::from_str(&told[1]).unwrap();
        assert_eq!((&array[0]["id"], &array[1]["id"]), (&1.into(), &2.into()));
        let why = array[1]["error"]["message"].as_str().unwrap();
        assert!(why.contains("limits.reply"), "{why}");
    });
}

#[test]
fn a_resumed_stream_repeats_what_came_after_an_event_and_forgets_what_was_long_ago() {
    let session = session();
    let stream = session.open_stream(&outbox());
    let ids: Vec<_> = ["a", "b", "c"].iter().map(|text| stream.note(text)).collect();
    let (found, event) = session.replay().find(&ids[0]).expect("the stream of an id");
    assert!(Arc::ptr_eq(&found, &stream));
    let after: Vec<_> = found.after(event).into_iter().map(|(id, text)| (id, text.to_string())).collect();
    assert_eq!(after, [(ids[1].clone(), "b".to_owned()), (ids[2].clone(), "c".to_owned())]);
    assert!(session.replay().find("9-1").is_none() && session.replay().find("x").is_none());
    // A mebibyte is kept, and the last event however long it is.
    stream.note(&"x".repeat(2 << 20));
    assert_eq!(stream.after(0).len(), 1);
}

#[test]
fn a_session_is_idle_only_while_no_stream_and_no_request_is_open() {
    let session = session();
    session.restore_use(500, true, 0);
    assert!((500..600).contains(&session.idle()), "{}", session.idle());
    let stream = session.stream();
    assert_eq!(session.idle(), 0);
    drop(stream);
    session.restore_use(500, true, 0);
    let call = Call::new(&session, Method::ToolsList, "1", None, &outbox());
    assert_eq!(session.idle(), 0);
    drop(call);
    assert!(!session.is_unused());
}
