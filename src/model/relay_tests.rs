use super::*;

fn sent(steps: &[Step]) -> Vec<&str> {
    steps.iter().filter_map(|s| if let Step::Send(text) = s { Some(text.as_str()) } else { None }).collect()
}

fn said(steps: &[Step]) -> Vec<&str> {
    steps.iter().filter_map(|s| if let Step::Say(text) = s { Some(text.as_str()) } else { None }).collect()
}

fn now() -> Instant {
    Instant::now()
}

const HELLO: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
const HELLO_BACK: &str = r#"{"jsonrpc":"2.0","id":0,"result":{"capabilities":{"tools":{"listChanged":true}}}}"#;
const READY: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// A conversation that has shaken hands.
fn begun() -> Relay {
    let mut relay = Relay::default();
    assert_eq!(relay.from_client(HELLO, now()), [], "it waits for a connection");
    assert_eq!(sent(&relay.connected()), [HELLO]);
    assert_eq!(said(&relay.from_server(HELLO_BACK)), [HELLO_BACK]);
    assert_eq!(sent(&relay.from_client(READY, now())), [READY]);
    relay
}

#[test]
fn messages_pass_as_they_are() {
    let mut relay = begun();
    for text in [
        r#"{"id":1,"method":"tools/call","jsonrpc":"2.0","params":{"name":"x","arguments":{"a":[1, 2]}}}"#,
        r#"[{"jsonrpc":"2.0","id":7,"method":"ping"}]"#,
        "no JSON",
    ] {
        assert_eq!(relay.from_client(text, now()), [Step::Send(text.to_owned())]);
    }
    assert!(!relay.is_settled());
    for text in [
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#,
        r#"{"jsonrpc":"2.0","result":{}, "id":1}"#,
        r#"[{"jsonrpc":"2.0","id":7,"result":{}}]"#,
    ] {
        assert_eq!(relay.from_server(text), [Step::Say(text.to_owned())]);
    }
    assert!(relay.is_settled());
}

#[test]
fn a_new_connection_gets_the_handshake_the_level_and_the_subscriptions() {
    let mut relay = begun();
    let level = r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"debug"}}"#;
    let one = r#"{"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"a:1"}}"#;
    let two = r#"{"jsonrpc":"2.0","id":3,"method":"resources/subscribe","params":{"uri":"a:2"}}"#;
    let none = r#"{"jsonrpc":"2.0","id":4,"method":"resources/unsubscribe","params":{"uri":"a:2"}}"#;
    let bad = r#"{"jsonrpc":"2.0","id":5,"method":"resources/subscribe","params":{"uri":"a:3"}}"#;
    for (id, text) in [(1, level), (2, one), (3, two), (4, none)] {
        relay.from_client(text, now());
        relay.from_server(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
    }
    relay.from_client(bad, now());
    relay.from_server(r#"{"jsonrpc":"2.0","id":5,"error":{"code":-32602,"message":"no"}}"#);
    let call = r#"{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"x"}}"#;
    relay.from_client(call, now());
    relay.from_server(r#"{"jsonrpc":"2.0","id":9,"method":"sampling/createMessage"}"#);
    let lost = relay.lost("it was lost");
    assert_eq!(
        said(&lost),
        [
            r#"{"jsonrpc":"2.0","id":"c","error":{"code":-32000,"message":"it was lost"}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9,"reason":"the connection was lost"}}"#
        ]
    );
    assert_eq!(relay.from_client(call, now()), [], "it waits");
    // The client answers what nobody waits for any more.
    assert_eq!(relay.from_client(r#"{"jsonrpc":"2.0","id":9,"result":{}}"#, now()), []);
    let again = relay.connected();
    let own = HELLO.replace("\"id\":0", "\"id\":\"mcpdaemon-connect-1\"");
    assert_eq!(again, [Step::Send(own)]);
    let steps = relay.from_server(&HELLO_BACK.replace("\"id\":0", "\"id\":\"mcpdaemon-connect-1\""));
    let with = |text: &str, at: u32, id: u32| text.replace(&format!("\"id\":{at}"), &format!("\"id\":\"{OWN}{id}\""));
    assert_eq!(sent(&steps), [READY, &with(level, 1, 2), &with(one, 2, 3), call]);
    assert_eq!(said(&steps), [r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#]);
    assert_eq!(relay.from_server(r#"{"jsonrpc":"2.0","id":"mcpdaemon-connect-2","result":{}}"#), []);
    let answer = r#"{"jsonrpc":"2.0","id":"c","result":{}}"#;
    assert_eq!(said(&relay.from_server(answer)), [answer]);
    assert!(relay.is_settled());
}

#[test]
fn a_handshake_that_was_not_answered_is_made_once_more() {
    let mut relay = Relay::default();
    relay.from_client(HELLO, now());
    relay.connected();
    assert_eq!(relay.lost("lost"), [], "nobody has done anything yet");
    assert!(relay.waits_since().is_some());
    assert_eq!(sent(&relay.connected()), [HELLO]);
    assert_eq!(said(&relay.from_server(HELLO_BACK)), [HELLO_BACK]);
    // Given up, it is answered by an error, and a later one is the first.
    let mut relay = Relay::default();
    relay.from_client(HELLO, now());
    relay.connected();
    relay.lost("lost");
    let error = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32000,"message":"not there"}}"#;
    assert_eq!(said(&relay.give_up("not there", now())), [error]);
    assert!(relay.is_settled() && relay.connected().is_empty());
}

#[test]
fn subscriptions_of_the_modern_era_are_made_anew_and_acknowledged_once() {
    let mut relay = Relay::default();
    relay.connected();
    let listen = r#"{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{"_meta":{}}}"#;
    assert_eq!(sent(&relay.from_client(listen, now())), [listen]);
    let acknowledged = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}}}"#;
    assert_eq!(said(&relay.from_server(acknowledged)), [acknowledged]);
    assert_eq!(relay.lost("lost"), []);
    assert_eq!(sent(&relay.connected()), [listen]);
    assert_eq!(relay.from_server(acknowledged), []);
    assert_eq!(said(&relay.from_server(acknowledged)), [acknowledged], "it is another one");
    // Cancelled, it is not made anew.
    relay.from_client(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"l"}}"#, now());
    relay.lost("lost");
    assert_eq!(relay.connected(), []);
}

#[test]
fn a_connection_whose_handshake_is_refused_is_left() {
    let mut relay = begun();
    relay.lost("lost");
    relay.connected();
    relay.from_client(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, now());
    let refused = r#"{"jsonrpc":"2.0","id":"mcpdaemon-connect-1","error":{"code":-32603,"message":"it \"is\" down"}}"#;
    assert_eq!(relay.from_server(refused), [Step::Leave("the handshake was refused: it \"is\" down".to_owned())]);
    assert_eq!(relay.lost("left"), [], "what waits goes on waiting");
    assert!(relay.waits_since().is_some());
}

#[test]
fn what_is_asked_without_a_connection_is_answered_once_it_is_given_up() {
    let mut relay = begun();
    relay.lost("lost");
    relay.from_client(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, now());
    relay.from_client(r#"[{"jsonrpc":"2.0","id":2,"method":"ping"}]"#, now());
    relay.from_client(r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#, now());
    assert!(relay.waits_since().is_some() && relay.held() > 100);
    let steps = relay.give_up("not there", now());
    assert_eq!(said(&steps).len(), 2);
    assert!(relay.waits_since().is_none() && relay.is_settled());
}

#[test]
fn messages_that_are_not_exact_are_remembered_as_well() {
    let mut relay = Relay::default();
    let hello = format!("\u{feff}{HELLO}");
    relay.from_client(&hello, now());
    assert_eq!(sent(&relay.connected()), [&hello]);
    relay.from_server(HELLO_BACK);
    relay.from_client(r#"{"jsonrpc":"2.0","method":"notifications/initialized","params":null}"#, now());
    relay.from_client(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":null}"#, now());
    assert!(!relay.is_settled());
    assert_eq!(said(&relay.lost("lost")).len(), 1);
    relay.from_client(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":null}"#, now());
    assert_eq!(said(&relay.give_up("no", now())).len(), 1);
    assert_eq!(sent(&relay.connected()).len(), 1, "the handshake");
    let steps = relay.from_server(&HELLO_BACK.replace("\"id\":0", "\"id\":\"mcpdaemon-connect-1\""));
    assert_eq!(sent(&steps), [READY]);
}

#[test]
fn what_is_refused_as_a_whole_is_not_waited_for() {
    let mut relay = begun();
    relay.from_client(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, now());
    let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(2000));
    relay.from_client(&long, now());
    relay.from_server(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}"#);
    assert!(relay.is_settled() && relay.lost("lost").is_empty());
}

#[test]
fn an_answer_to_a_server_of_before_is_not_one_to_a_request_of_now() {
    let mut relay = begun();
    let ask = r#"{"jsonrpc":"2.0","id":"q1","method":"elicitation/create"}"#;
    assert_eq!(said(&relay.from_server(ask)), [ask]);
    relay.lost("lost");
    assert!(relay.waits_since().is_none());
    let stale = r#"{"jsonrpc":"2.0","id":"q1","result":{"action":"accept"}}"#;
    assert_eq!(relay.from_client(stale, now()), [], "and nothing is started for it");
    assert_eq!(relay.held(), 0);
    relay.connected();
    relay.from_server(&HELLO_BACK.replace("\"id\":0", "\"id\":\"mcpdaemon-connect-1\""));
    let asked = r#"{"jsonrpc":"2.0","id":"mcpdaemon-connect-2","method":"elicitation/create"}"#;
    assert_eq!(said(&relay.from_server(ask)), [asked]);
    assert_eq!(relay.from_client(stale, now()), []);
    let answer = r#"{"jsonrpc":"2.0","id":"mcpdaemon-connect-2","result":{"action":"decline"}}"#;
    let mapped = answer.replace("mcpdaemon-connect-2", "q1");
    assert_eq!(sent(&relay.from_client(answer, now())), [mapped]);
    // What the server takes back is taken back under the name that the client knows.
    relay.from_server(ask);
    let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"q1"}}"#;
    assert_eq!(said(&relay.from_server(cancelled)), [cancelled.replace("q1", "mcpdaemon-connect-3")]);
    assert_eq!(said(&relay.lost("lost")).len(), 0);
}

#[test]
fn a_subscription_is_acknowledged_once_and_not_made_anew_when_it_was_given_up() {
    let listen = r#"{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true}}}"#;
    let acknowledged = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true},"_meta":{"io.modelcontextprotocol/subscriptionId":"l"}}}"#;
    let mut relay = Relay::default();
    relay.connected();
    relay.from_client(listen, now());
    relay.lost("lost before it was acknowledged");
    assert_eq!(sent(&relay.connected()), [listen]);
    assert_eq!(said(&relay.from_server(acknowledged)), [acknowledged]);
    relay.lost("lost");
    relay.connected();
    let told = relay.from_server(acknowledged);
    let [told] = said(&told)[..] else { panic!("{told:?}") };
    assert!(told.contains("tools/list_changed") && told.contains("subscriptionId\":\"l\""), "{told}");
    relay.lost("lost");
    relay.from_client(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"l"}}"#, now());
    relay.from_client(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, now());
    relay.give_up("not there", now());
    assert_eq!(relay.connected(), []);
}

#[test]
fn each_request_has_its_own_time() {
    use std::time::Duration;
    let mut relay = begun();
    relay.lost("lost");
    let (begin, later) = (now(), now() + Duration::from_secs(20));
    relay.from_client(r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#, begin);
    assert_eq!(relay.waits_since(), None, "a notification waits for nothing");
    relay.from_client(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, begin);
    relay.from_client(r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#, later);
    assert_eq!(said(&relay.give_up("no", begin)).len(), 1);
    assert_eq!(relay.waits_since(), Some(later));
}
