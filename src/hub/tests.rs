//! A kind of server of its own, made of a table: it passes the whole of session, bridge, reload, status and metrics
//! without a change elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::call::Call;
use super::client::endpoint::{Client, ListAnswer};
use super::client::outbox::Outbox;
use super::client::session::Session;
use super::context::Boot;
use super::hub::Hub;
use super::leaving::Leaving;
use super::reload::prepare;
use super::route::receive;
use super::server::backend::Backend;
use super::server::core::Core;
use crate::model::bridge::{List, read_page};
use crate::model::budget::Holder;
use crate::model::config::{Kind, sample};
use crate::model::envelope::{Envelope, decode};
use crate::model::mcp::{self, ServerInfo};
use crate::model::method::{self, Method};
use crate::model::modern::Era;
use crate::model::plan::diff;
use crate::model::status::ServerState;
use crate::model::transport::Transport;
use crate::rt::main_thread::Spawner;
use crate::rt::wait::timeout;
use crate::sys::lock::Lock;

/// A server that answers from a table: tools, each with what it says.
struct Table {
    tools: Vec<(String, String)>,
    retired: Lock<bool>,
}

impl Table {
    /// Its tools are what the configuration of an executor allows; what they say is their path.
    fn make(_core: &Arc<Core>, kind: &Kind) -> Option<Arc<dyn Backend>> {
        let Kind::Exec(exec) = kind else { return None };
        let crate::model::config::server::Allow::These(all) = &exec.allow else { return None };
        let tools = all.iter().map(|(name, path)| (name.clone(), path.display().to_string())).collect();
        Some(Arc::new(Table { tools, retired: Lock::new(false) }))
    }

    fn listed(&self) -> String {
        let one = |(name, _): &(String, String)| format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#);
        format!(r#"{{"tools":[{}]}}"#, self.tools.iter().map(one).collect::<Vec<_>>().join(","))
    }
}

impl Leaving for Table {
    fn is_done(&self) -> bool {
        self.retired.get()
    }
}

impl Backend for Table {
    fn replaced(&self) {
        self.retired.replace(true);
    }

    fn info(&self) -> Option<ServerInfo> {
        let result = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"table","version":"1"}}"#;
        mcp::server_info(result).ok()
    }

    fn request(&self, call: Call, e: &Envelope<'_>, _era: Era) -> Option<Call> {
        let name = e.get(&e.name).map(decode).unwrap_or_default();
        match (e.method.as_ref(), self.tools.iter().find(|(tool, _)| *tool == name)) {
            (method::TOOLS_LIST, _) => call.result(&self.listed()),
            (method::TOOLS_CALL, Some((_, said))) => call.result(&format!(r#"{{"content":[],"said":"{said}"}}"#)),
            _ => call.error(-32602, "it is not in the table"),
        }
        None
    }

    fn list<'a>(&'a self, _session: &'a Arc<Session>, list: List, _patient: bool) -> ListAnswer<'a> {
        let page = read_page(list, &self.listed()).filter(|_| list == List::Tools);
        Box::pin(async { Ok(page.map(|(items, _)| Arc::new(items)).unwrap_or_default()) })
    }
}

fn config(servers: &str) -> Arc<crate::model::config::Config> {
    sample::config(&format!("(servers: {{{servers}}})"))
}

fn hub(servers: &str) -> Arc<Hub> {
    let boot = Boot {
        spawner: Spawner::new().0,
        nofile: 1024,
        mark: "test-".to_owned(),
        session_key: None,
        at: Instant::now(),
    };
    let config = config(servers);
    let hub = Hub::with(boot, config.clone(), Table::make);
    for (name, server) in &config.servers {
        hub.add(name, server.clone());
    }
    hub
}

/// Sends a request and waits for its answer.
async fn ask(client: &Client, text: &str) -> String {
    let reply = Arc::new(Outbox::single(1 << 20));
    if let Some(later) = receive(client, text, &reply) {
        later.await;
    }
    timeout(Duration::from_secs(10), reply.next()).await.flatten().expect("an answer").text
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

#[test]
fn a_kind_of_server_made_of_a_table_is_served_bridged_reloaded_counted_and_told() {
    futures_lite::future::block_on(async {
        let hub = hub(r#""a": Exec(allow: ["echo"]), "b": Exec(allow: ["date"])"#);
        let server = hub.server("a").unwrap();
        assert_eq!(server.phase(), ServerState::Ready);
        let client = hub.open_session(&server, Transport::Http, Holder::Connection(1)).unwrap();
        assert!(ask(&client, INITIALIZE).await.contains(r#""serverInfo":{"name":"table","version":"1"}"#));
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
        let said = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"said":"/usr/bin/echo"}}"#;
        assert_eq!(ask(&client, call).await, said);
        let modern = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
        let one = server.open_request(Holder::Connection(1));
        assert!(ask(&one, modern).await.contains(r#""name":"echo""#));

        // The bridge knows nothing of tables.
        let whole = hub.open_session(&hub.bridge().unwrap(), Transport::Http, Holder::Connection(1)).unwrap();
        ask(&whole, INITIALIZE).await;
        let listed = ask(&whole, r#"{"jsonrpc":"2.0","id":3,"method":"tools/list"}"#).await;
        assert!(listed.contains("a__echo") && listed.contains("b__date"), "{listed}");
        let bridged = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a__echo"}}"#;
        assert_eq!(ask(&whole, bridged).await, said);

        // A reload puts another table in its place, under the same session.
        let new = config(r#""a": Exec(allow: ["date"], sessions: 7), "c": Exec(allow: ["echo"])"#);
        let mut plan = diff(&hub.ctx.config(), &new);
        (plan.adjust, plan.replace) = (Vec::new(), vec!["a".to_owned()]);
        prepare(&hub, &plan, &new).await.unwrap().apply(&hub, &plan, new.clone());
        assert!(ask(&client, call).await.contains("it is not in the table"));
        assert!(ask(&client, &call.replace("echo", "date")).await.contains("/usr/bin/date"));
        assert!(hub.server("b").is_none() && hub.server("c").is_some());

        // What was asked is counted and told.
        let status = server.status(hub.ctx.seconds());
        assert_eq!(
            (status.name.as_str(), status.state, status.server_info.as_deref()),
            ("a", ServerState::Ready, Some("table 1"))
        );
        assert_eq!((status.sessions, status.requests.in_flight), (1, 0));
        let calls = server.core.meters.by_method(hub.ctx.seconds());
        let calls = calls.iter().find(|(method, _)| *method == Method::ToolsCall).map(|(_, sum)| sum.total());
        assert_eq!(calls, Some(4));
        assert_eq!((hub.session_count(), hub.ctx.load.in_flight()), (2, 0));
        hub.end_session(&client, "the test is over");
        hub.end_session(&whole, "the test is over");
        assert_eq!(hub.session_count(), 0);
        hub.stop().await;
    });
}

#[test]
fn a_session_that_has_ended_leaves_nothing_behind() {
    futures_lite::future::block_on(async {
        let hub = hub(r#""a": Exec(allow: ["echo"])"#);
        for server in [hub.server("a").unwrap(), hub.bridge().unwrap()] {
            let mut all = Vec::new();
            for transport in [Transport::Http, Transport::WebSocket, Transport::Sse] {
                let client = hub.open_session(&server, transport, Holder::Connection(1)).unwrap();
                ask(&client, INITIALIZE).await;
                all.push(client);
            }
            let weak: Vec<_> = all.iter().map(|c| Arc::downgrade(&c.session)).collect();
            all.iter().for_each(|client| hub.end_session(client, "the test"));
            drop(all);
            // A weak reference alone would keep its memory.
            let others = |w: &std::sync::Weak<crate::hub::Session>| w.strong_count() + w.weak_count();
            assert!(weak.iter().all(|w| others(w) == 0), "{:?}", weak.iter().map(others).collect::<Vec<_>>());
        }
    });
}
