//! Children that end, hang and talk nonsense, and the clients that must not notice more than they have to.

use serde_json::{Value, json};

use crate::harness::*;

const QUICK: &str = "restart: (delay: \"50ms\", max_delay: \"200ms\", burst: 100)";

#[test]
fn child_death_fails_requests_in_flight_and_keeps_the_session() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], QUICK)));
    let mut ws = daemon.ws("fake");
    let mut http = daemon.http("fake");
    http.send(&call("slow", "sleep", json!({"n": 60_000})).to_string());
    wait("the request", || (daemon.server("fake")["requests"]["in_flight"] == 1).then_some(()));
    ws.send(&call(1, "die", json!({"n": 7})).to_string());
    let gone = "server 'fake' exited with status 7";
    let answer = ws.next().unwrap();
    assert_eq!((&answer["id"], &answer["error"]["message"]), (&json!(1), &json!(gone)));
    let answer = http.raw.response().json();
    assert_eq!(
        (&answer["id"], &answer["error"]["message"], &answer["error"]["code"]),
        (&json!("slow"), &json!(gone), &json!(-32603))
    );
    // Both sessions go on with the next child; a request that comes while there is none waits for it.
    assert_eq!(said(&http.ask(&call(2, "echo", json!({"text": "back"})))), "back");
    let mut answer = ws.ask(&call(3, "count", json!({})));
    while answer.get("method").is_some() {
        answer = ws.next().unwrap();
    }
    assert_eq!(said(&answer), "1", "a new process");
    let server = daemon.server("fake");
    assert_eq!((&server["restarts"], &server["last_exit"]), (&json!(1), &json!("exited with status 7")));
}

#[test]
fn killed_child_is_replaced_at_once() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], QUICK)));
    let mut http = daemon.http("fake");
    let first = daemon.child("fake");
    kill(first, libc::SIGKILL);
    // No poll, no timer: at most the request that was written to the dying child fails, and says why.
    let mut answer = http.ask(&call(1, "count", json!({})));
    if let Some(why) = answer["error"]["message"].as_str() {
        assert_eq!(why, "server 'fake' was ended by SIGKILL");
        answer = http.ask(&call(2, "count", json!({})));
    }
    assert_eq!(said(&answer), "1");
    let second = daemon.child("fake");
    assert!(second != first && second != 0);
    assert_eq!(daemon.server("fake")["last_exit"], "was ended by SIGKILL");
}

#[test]
fn while_a_required_child_is_down_the_instance_says_so() {
    let scratch = Scratch::new();
    let flag = scratch.path("flag");
    let file = scratch.instance("t", &stdio("fake", &["--exit-while", flag.to_str().unwrap()], QUICK));
    let daemon = scratch.start(&file);
    std::fs::write(&flag, "").unwrap();
    kill(daemon.child("fake"), libc::SIGKILL);
    let ready = || get(daemon.address(), "/readyz");
    let down = wait("not ready", || Some(ready()).filter(|r| r.status == 503));
    assert!(down.body.contains("server 'fake' is "), "{down:?}");
    wait("degraded", || (daemon.status()["state"] == "degraded").then_some(()));
    wait("several tries", || (daemon.server("fake")["restarts"].as_u64() > Some(2)).then_some(()));
    let reason = wait("a reason", || daemon.server("fake")["reason"].as_str().map(str::to_owned));
    assert!(reason.contains("exited with status 1") || reason.contains("SIGKILL"), "{reason}");
    std::fs::remove_file(&flag).unwrap();
    wait("ready again", || (ready().status == 200).then_some(()));
    assert_eq!(daemon.status()["state"], "ready");
}

#[test]
fn a_child_that_ends_for_good_is_not_started_again() {
    let scratch = Scratch::new();
    let servers = stdio("never", &[], "restart: (policy: Never)") + &stdio("config", &[], QUICK);
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let mut ws = daemon.ws("never");
    ws.ask(&call(1, "die", json!({"n": 1})));
    wait("failed", || (daemon.server("never")["state"] == "failed").then_some(()));
    let answer = ws.ask(&call(2, "echo", json!({})));
    assert!(answer["error"]["message"].as_str().unwrap().contains("restart policy Never"), "{answer}");
    daemon.ws("config").ask(&call(1, "die", json!({"n": 78})));
    wait("failed", || (daemon.server("config")["state"] == "failed").then_some(()));
    // Unless somebody says that it is mended: by a reload, also of the same file.
    let out = scratch.ctl(&["reload", "t"]);
    assert_eq!(stdout(&out), "t: reloaded (2 unchanged)\n", "{}", stderr(&out));
    for name in ["never", "config"] {
        wait("ready", || (daemon.server(name)["state"] == "ready").then_some(()));
    }
}

#[test]
fn garbage_on_stdout_is_survived_and_counted() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--banner", "24", "--unsolicited", "--reply-to-notification"]);
    let mut ws = daemon.ws("fake");
    assert_eq!(said(&ws.ask(&call(1, "invalid_utf8", json!({})))), "after invalid UTF-8");
    assert_eq!(said(&ws.ask(&call(2, "twice", json!({})))), "first");
    assert_eq!(said(&ws.ask(&call(3, "log", json!({})))), "said");
    assert_eq!(said(&ws.ask(&call(4, "ask", json!({})))), "asked");
    wait("the counts", || {
        let dropped = &daemon.status()["dropped"];
        let n = |k: &str| dropped[k].as_u64().unwrap();
        // 24 lines of banner, a batch, a line of broken UTF-8.
        let all = n("garbage_lines") == 26 && n("unowned_replies") >= 4 && n("unowned_notifications") >= 2;
        (all && n("refused_server_requests") == 1).then_some(())
    });
    // The child heard what became of its requests.
    wait("the refusal", || {
        let log = daemon.log();
        (log.contains("reply") && log.contains("shared by several clients") && log.contains(r#""id":2,"result":{}"#))
            .then_some(())
    });
}

#[test]
fn tasks_of_one_client_are_not_for_another() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut ws = daemon.ws("fake");
    let mut task = call(1, "echo", json!({"text": "x"}));
    task["params"]["task"] = json!({"ttl": 60_000});
    for request in [task, json!({"jsonrpc": "2.0", "id": 1, "method": "tasks/list"})] {
        let answer = ws.ask(&request);
        assert_eq!(answer["error"]["code"], -32601, "{answer}");
    }
}

#[test]
fn long_lines_have_a_limit_and_a_clear_error() {
    let scratch = Scratch::new();
    let file =
        scratch.instance_with("t", "limits: (reply: \"1MiB\"),", &stdio("fake", &[], "request_timeout: \"60s\""));
    let daemon = scratch.start(&file);
    let mut ws = daemon.ws("fake");
    let fits = ws.ask(&call(1, "big", json!({"n": 1_000_000})));
    assert_eq!(said(&fits).len(), 1_000_000);
    for tool in ["big", "big_id_last"] {
        let answer = ws.ask(&call(2, tool, json!({"n": 3_000_000})));
        let text = answer["error"]["message"].as_str().unwrap();
        assert!(text.starts_with("the reply of server 'fake' has 30") && text.contains("limits.reply"), "{text}");
    }
    assert_eq!(said(&ws.ask(&call(3, "endless_line", json!({"n": 100})))), "after the line");
    assert_eq!(daemon.dropped("long_lines"), 3);
    // Nothing of it was ever held in memory.
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid)).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().unwrap() < 60 << 10, "{peak} kB");
}

#[test]
fn a_request_without_an_answer_times_out_and_progress_holds_it_open() {
    let scratch = Scratch::new();
    let file = scratch.instance("t", &stdio("fake", &[], "request_timeout: \"400ms\", request_max: \"2s\""));
    let daemon = scratch.start(&file);
    let mut ws = daemon.ws("fake");
    let answer = ws.ask(&call(1, "never", json!({})));
    assert_eq!(
        (&answer["error"]["code"], &answer["error"]["message"]),
        (&json!(-32001), &json!("server 'fake' did not answer within 400ms"))
    );
    wait("the cancellation", || daemon.log().contains("[fake] cancelled").then_some(()));
    let mut long = call(2, "progress", json!({"n": 10, "ms": 100}));
    long["params"]["_meta"] = json!({"progressToken": "p"});
    ws.send(&long.to_string());
    let mut steps = 0;
    let last = loop {
        let message = ws.next().unwrap();
        if message.get("method").is_none() {
            break message;
        }
        assert_eq!(message["params"]["progressToken"], "p");
        steps += 1;
    };
    assert_eq!((steps, said(&last)), (10, "done"));
    // The hard limit ends even what makes progress.
    let mut endless = call(3, "progress", json!({"n": 1000, "ms": 100}));
    endless["params"]["_meta"] = json!({"progressToken": 3});
    ws.send(&endless.to_string());
    let error = loop {
        let message = ws.next().unwrap();
        if message.get("method").is_none() {
            break message;
        }
    };
    assert_eq!(error["error"]["code"], -32001);
}

#[test]
fn child_that_stops_reading_stalls_no_other_server() {
    let scratch = Scratch::new();
    let servers = stdio("stuck", &[], "") + &stdio("well", &[], "");
    let daemon = scratch.start(&scratch.instance("t", &servers));
    let mut stuck = daemon.ws("stuck");
    stuck.send(&call(0, "stop_reading", json!({})).to_string());
    let load = "x".repeat(4 << 20);
    let mut refused: Option<Value> = None;
    for i in 1..=16 {
        stuck.send(&call(i, "echo", json!({"text": load})).to_string());
        assert_eq!(said(&daemon.ws("well").ask(&call(1, "echo", json!({"text": "fine"})))), "fine");
    }
    wait("an overflow", || (daemon.dropped("child_queue_full") > 0).then_some(()));
    while refused.is_none() {
        refused = stuck.next().filter(|m| m["error"]["code"] == -32000);
    }
    let text = refused.unwrap()["error"]["message"].to_string();
    assert!(text.contains("server 'stuck' does not read its input"), "{text}");
    // It does not react to the end of its input either.
    daemon.stop();
}

#[test]
fn who_fills_the_input_of_a_shared_child_leaves_room_for_others() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let (mut greedy, mut other, mut third) = (daemon.ws("fake"), daemon.ws("fake"), daemon.ws("fake"));
    for ws in [&mut greedy, &mut other, &mut third] {
        ws.ask(&initialize(json!(0)));
    }
    greedy.send(&call(1, "hog", json!({"n": 3000})).to_string());
    let load = "x".repeat(4 << 20);
    for n in 2..12 {
        greedy.send(&call(n, "echo", json!({"text": load})).to_string());
    }
    wait("an overflow", || (daemon.dropped("child_queue_full") > 0).then_some(()));
    let overflows = daemon.dropped("child_queue_full");
    // What others ask, and what they answer or tell, waits with the rest.
    other.send(&call(1, "echo", json!({"text": load})).to_string());
    for n in 0..100 {
        third.send(&call(n, "echo", json!({"text": "small"})).to_string());
    }
    for _ in 0..100 {
        assert_eq!(said(&third.next().unwrap()), "small");
    }
    assert_eq!(said(&other.next().unwrap()).len(), load.len());
    assert!(daemon.dropped("child_queue_full") >= overflows);
    // Nothing of it is counted any more.
    for _ in 1..12 {
        greedy.next().unwrap();
    }
    for n in 0..20 {
        assert_eq!(said(&greedy.ask(&call(format!("again {n}"), "echo", json!({"text": load})))).len(), load.len());
    }
}

/// Pings wait behind what was sent before. That says nothing of the child.
#[test]
fn a_child_that_reads_slowly_is_not_replaced_for_what_its_clients_send() {
    let scratch = Scratch::new();
    let more = "health: (interval: \"300ms\", timeout: \"200ms\", failures: 2)";
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &["--slow-notes", "2"], more)));
    let child = daemon.child("fake");
    let mut ws = daemon.ws("fake");
    ws.ask(&initialize(json!(0)));
    let note =
        |text: &str| json!({"jsonrpc": "2.0", "method": "notifications/x", "params": {"text": text}}).to_string();
    let long = note(&"x".repeat(1000));
    (0..1500).for_each(|_| ws.send(&long));
    ws.send(&note("the last one"));
    // No request is open meanwhile, which would show that it is busy.
    wait("the last one", || daemon.log().contains("[fake] noted: the last one").then_some(()));
    assert_eq!(daemon.child("fake"), child, "{}", daemon.log());
    assert_eq!(daemon.server("fake")["restarts"], 0);
}

#[test]
fn child_that_closes_stdout_is_replaced() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &["--ignore-eof"], QUICK)));
    let first = daemon.child("fake");
    let mut ws = daemon.ws("fake");
    let answer = ws.ask(&call(1, "close_output", json!({})));
    assert!(answer["error"]["message"].as_str().unwrap().contains("SIGTERM"), "{answer}");
    let mut http = daemon.http("fake");
    assert_eq!(said(&http.ask(&call(2, "echo", json!({"text": "new"})))), "new");
    assert_ne!(daemon.child("fake"), first);
}

#[test]
fn subscriptions_are_counted_and_brought_to_the_next_child() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], QUICK)));
    let subscribe = |id: i32, what: &str| json!({"jsonrpc": "2.0", "id": id, "method": format!("resources/{what}"), "params": {"uri": "test://a"}});
    let (mut one, mut two, mut other) = (daemon.ws("fake"), daemon.ws("fake"), daemon.ws("fake"));
    for ws in [&mut one, &mut two] {
        assert_eq!(ws.ask(&subscribe(1, "subscribe"))["result"], json!({}));
    }
    let heard = |text: &str| daemon.log().matches(text).count();
    wait("one subscription", || (heard("[fake] resources/subscribe test://a") == 1).then_some(()));
    other.ask(&call(2, "updated", json!({"uri": "test://a"})));
    for ws in [&mut one, &mut two] {
        assert_eq!(ws.next().unwrap()["params"]["uri"], "test://a");
    }
    assert_eq!(one.ask(&subscribe(3, "unsubscribe"))["result"], json!({}));
    assert_eq!(heard("resources/unsubscribe"), 0, "the other still wants it");
    kill(daemon.child("fake"), libc::SIGKILL);
    wait("the new child's subscription", || (heard("[fake] resources/subscribe test://a") == 2).then_some(()));
    // list_changed, because the new child may offer something else; then the update.
    let two_hears = |two: &mut Ws| two.next().unwrap()["method"].as_str().unwrap().to_owned();
    assert_eq!(two_hears(&mut two), "notifications/tools/list_changed");
    assert_eq!(two_hears(&mut two), "notifications/resources/list_changed");
    drop(two);
    wait("the last leave", || (heard("resources/unsubscribe test://a") == 1).then_some(()));
}

#[test]
fn child_that_closes_stdin_is_replaced() {
    let scratch = Scratch::new();
    let daemon = scratch.start(&scratch.instance("t", &stdio("fake", &[], QUICK)));
    let first = daemon.child("fake");
    let mut ws = daemon.ws("fake");
    ws.ask(&call(1, "close_input", json!({})));
    // One that is taken and not answered fails with words, and not after five minutes; one that could not be written
    // goes to the next child.
    ws.send(&call(2, "echo", json!({"text": "x"})).to_string());
    ws.send(&call(3, "echo", json!({"text": "x"})).to_string());
    let answers = [ws.next().unwrap(), ws.next().unwrap()];
    for answer in answers.iter().filter(|a| a.get("id").is_some()) {
        let failed = answer["error"]["message"].as_str().is_some_and(|m| m.starts_with("server 'fake' "));
        assert!(failed || said(answer) == "x", "{answer}");
    }
    wait("the next child", || Some(daemon.child("fake")).filter(|pid| *pid != first && *pid != 0));
}

#[test]
fn a_request_that_waits_for_a_child_can_be_cancelled() {
    let scratch = Scratch::new();
    let flag = scratch.path("flag");
    let daemon =
        scratch.start(&scratch.instance("t", &stdio("fake", &["--exit-while", flag.to_str().unwrap()], QUICK)));
    let (mut ws, mut http) = (daemon.ws("fake"), daemon.http("fake"));
    std::fs::write(&flag, "").unwrap();
    kill(daemon.child("fake"), libc::SIGKILL);
    wait("the child's end", || (daemon.server("fake")["state"] != "ready").then_some(()));
    let mut other = http.again();
    for id in ["kept", "dropped"] {
        ws.send(&call(id, "stderr", json!({"n": 1, "text": format!("ran {id}")})).to_string());
    }
    http.send(&call(1, "stderr", json!({"n": 1, "text": "ran over HTTP"})).to_string());
    let in_flight = |n: u64| daemon.server("fake")["requests"]["in_flight"] == n;
    wait("the requests", || in_flight(3).then_some(()));
    ws.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"dropped"}}"#);
    other.post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#);
    assert_eq!(http.raw.response().body, "");
    wait("the cancellations", || in_flight(1).then_some(()));
    std::fs::remove_file(&flag).unwrap();
    // Before it, perhaps, that lists may have changed.
    wait("its answer", || ws.next().filter(|m| m["id"] == "kept"));
    wait("its line", || daemon.log().contains("ran kept").then_some(()));
    assert!(!daemon.log().contains("ran dropped") && !daemon.log().contains("ran over HTTP"));
}

#[test]
fn a_subscription_counts_once_the_server_has_agreed() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&["--no-subscribe"]);
    let (mut one, mut two) = (daemon.ws("fake"), daemon.ws("fake"));
    let subscribe = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "test://a"}});
    for ws in [&mut one, &mut two] {
        assert_eq!(ws.ask(&subscribe)["error"]["code"], -32601);
    }
}

#[test]
fn a_subscription_outlives_the_leave_of_another() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut stays = daemon.ws("fake");
    let subscribe = |n: i32| json!({"jsonrpc": "2.0", "id": n, "method": "resources/subscribe", "params": {"uri": format!("test://{n}")}});
    for n in 0..60 {
        let mut leaves = daemon.ws("fake");
        leaves.ask(&subscribe(n));
        // At the same moment as the last one leaves, another comes.
        drop(leaves);
        stays.ask(&subscribe(n));
    }
    let said = |n: i32| {
        let log = daemon.log();
        let ends = format!("scribe test://{n}");
        log.lines().filter(|l| l.ends_with(&ends)).map(str::to_owned).collect::<Vec<_>>()
    };
    wait("the last of it", || said(59).last().is_some_and(|l| l.contains("/subscribe")).then_some(()));
    stays.ask(&call("x", "echo", json!({})));
    for n in 0..60 {
        assert!(said(n).last().unwrap().contains("/subscribe"), "{:?}", said(n));
    }
}

#[test]
fn what_waits_for_a_child_is_bounded() {
    let scratch = Scratch::new();
    let flag = scratch.path("flag");
    let daemon =
        scratch.start(&scratch.instance("t", &stdio("fake", &["--exit-while", flag.to_str().unwrap()], QUICK)));
    let mut ws = daemon.ws("fake");
    std::fs::write(&flag, "").unwrap();
    kill(daemon.child("fake"), libc::SIGKILL);
    wait("the child's end", || (daemon.server("fake")["state"] != "ready").then_some(()));
    let text = "x".repeat(7 << 20);
    let long = |n: i32| call(n, "sleep", json!({"n": 0, "long": text, "text": "whole"})).to_string();
    for n in 0..7 {
        ws.send(&long(n));
    }
    let refused = ws.next().unwrap();
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(3), &json!(-32000)), "{refused}");
    assert!(
        refused["error"]["message"].as_str().unwrap().contains("as much waits for it already as may (32 MiB"),
        "{refused}"
    );
    wait("the others", || (daemon.dropped("waiting_for_child") == 4).then_some(()));
    // The last quarter is for another client.
    let mut other = daemon.ws("fake");
    other.send(&call(1, "echo", json!({"text": "small"})).to_string());
    wait("the request", || (daemon.status()["requests"]["in_flight"] == 4).then_some(()));
    assert_eq!(daemon.dropped("waiting_for_child"), 4);
    std::fs::remove_file(&flag).unwrap();
    let mut answered = 0;
    wait("the answers", || {
        let message = ws.next().unwrap();
        answered += i32::from(message["result"]["content"][0]["text"] == "whole");
        (answered == 3).then_some(())
    });
    wait("the answer", || {
        let message = other.next().unwrap();
        (message["result"]["content"][0]["text"] == "small").then_some(())
    });
}

#[test]
fn notifications_with_an_id_and_requests_without_one_are_refused() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let (mut ws, mut other) = (daemon.ws("fake"), daemon.ws("fake"));
    other.send(&call(1, "sleep", json!({"n": 300, "text": "undisturbed"})).to_string());
    // A request named like a notification, whose ids would be those of somebody else's requests.
    for n in 1..4 {
        let request =
            json!({"jsonrpc": "2.0", "id": n, "method": "notifications/cancelled", "params": {"requestId": n}});
        assert_eq!(ws.ask(&request)["error"]["code"], -32600);
    }
    // Requests without an id.
    ws.send(r#"{"jsonrpc":"2.0","method":"resources/unsubscribe","params":{"uri":"test://of another"}}"#);
    ws.send(r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"stderr","arguments":{"n":1}}}"#);
    assert_eq!(said(&ws.ask(&call(9, "echo", json!({"text": "on"})))), "on");
    assert_eq!(said(&other.next().unwrap()), "undisturbed");
    let log = daemon.log();
    assert!(!log.contains("cancelled") && !log.contains("unsubscribe") && !log.contains("[fake] line"), "{log}");
    assert_eq!(daemon.dropped("unowned_notifications"), 2);
}

#[test]
fn a_reply_that_is_not_valid_fails_its_request_at_once() {
    let scratch = Scratch::new();
    let daemon = scratch.fake(&[]);
    let mut ws = daemon.ws("fake");
    let answer = ws.ask(&call(1, "malformed", json!({})));
    assert!(answer["error"]["message"].as_str().unwrap().contains("is not valid"), "{answer}");
    // The member that does not apply, written as null.
    assert_eq!(ws.ask(&call(2, "null_error", json!({})))["result"], json!({"content": []}));
}
