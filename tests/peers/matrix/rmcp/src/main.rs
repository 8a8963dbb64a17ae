//! A server of the matrix: Rust SDK 3.x (rmcp), stdio, both eras.
//!
//!     DEPS/rmcp
//!
//! The tools are those described at the head of server-ts1.mjs. In the modern era `sample` and `elicit` answer with
//! `input_required`, carry a requestState and insist on getting the same one back; in the legacy era they send a
//! request to the client.

// Logging, sampling and resources/subscribe are deprecated in the modern era; they are here to be tested.
#![allow(deprecated)]

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use rmcp::model::*;
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::broadcast;

const WATCHED: &str = "test://watched";

struct Matrix {
    cancelled: Mutex<HashSet<String>>,
    subscribed: Mutex<HashSet<String>>,
    /// Each touch() is told to every open subscriptions/listen.
    touched: broadcast::Sender<()>,
    /// The ears of those that are about to open: the SDK acknowledges a subscription before it calls `listen`, and what
    /// is touched between the two must not be lost.
    opening: Mutex<VecDeque<broadcast::Receiver<()>>>,
}

/// One of the SDK's types, written as JSON because that is shorter than their constructors.
fn made<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a literal of this file fits its type")
}

fn internal(error: impl std::fmt::Display) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

fn tools() -> Vec<Tool> {
    let (string, number, integer) = (json!({"type": "string"}), json!({"type": "number"}), json!({"type": "integer"}));
    [
        ("echo", "Gives the text back.", json!({"text": string})),
        ("progress", "Reports progress.", json!({"steps": integer, "ms": number})),
        ("slow", "Waits.", json!({"ms": number, "key": string})),
        ("was_cancelled", "Tells whether a slow call was cancelled.", json!({"key": string})),
        ("sample", "Asks the client's model.", json!({"prompt": string})),
        ("elicit", "Asks the user for a name.", json!({"message": string})),
        ("touch", "Says that test://watched changed.", json!({})),
        ("log", "Logs the text.", json!({"text": string})),
    ]
    .into_iter()
    .map(|(name, description, properties)| {
        let required: Vec<_> = properties.as_object().into_iter().flat_map(|it| it.keys().cloned()).collect();
        let schema = json!({"type": "object", "properties": properties, "required": required});
        made(json!({"name": name, "description": description, "inputSchema": schema}))
    })
    .collect()
}

/// The client's answer to `request` if this call brings it, else the result that asks for it.
fn ask(
    call: &CallToolRequestParams,
    question: &str,
    request: Value,
) -> Result<Result<Value, InputRequiredResult>, ErrorData> {
    // A state that shows whether somebody on the way took it apart and put it together again.
    let state = format!("{{\"question\": \"{question}\",  \"ü€\\u0041\" :1.0}}");
    match call.input_responses.as_ref().and_then(|responses| responses.get("asked")) {
        None => Ok(Err(InputRequiredResult::new(Some(made(json!({"asked": request}))), Some(state)))),
        Some(_) if call.request_state.as_ref() != Some(&state) => {
            Err(internal(format_args!("requestState came back as {:?}", call.request_state)))
        }
        Some(answer) => Ok(Ok(answer.clone())),
    }
}

impl Matrix {
    async fn work(
        &self,
        call: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let modern = context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
        let arg = |name: &str| call.arguments.as_ref().and_then(|args| args.get(name)).cloned().unwrap_or(Value::Null);
        let text_of = |name: &str| {
            arg(name).as_str().map(str::to_owned).ok_or(ErrorData::invalid_params(format!("no {name}"), None))
        };
        let pause = Duration::from_secs_f64(arg("ms").as_f64().unwrap_or_default() / 1000.0);
        let text = match call.name.as_ref() {
            "echo" => text_of("text")?,
            "progress" => {
                let steps = arg("steps").as_u64().unwrap_or_default();
                for step in 1..=steps {
                    if let Some(token) = context.meta.get_progress_token() {
                        let progress = ProgressNotificationParam::new(token, step as f64).with_total(steps as f64);
                        context.peer.notify_progress(progress).await.map_err(internal)?;
                    }
                    tokio::time::sleep(pause).await;
                }
                "done".to_owned()
            }
            "slow" => {
                let key = text_of("key")?;
                if tokio::time::timeout(pause, context.ct.cancelled()).await.is_ok() {
                    self.cancelled.lock().unwrap().insert(key);
                    return Err(internal("cancelled"));
                }
                "waited".to_owned()
            }
            "was_cancelled" => {
                let known = self.cancelled.lock().unwrap().contains(&text_of("key")?);
                if known { "yes" } else { "no" }.to_owned()
            }
            "sample" => {
                let prompt = text_of("prompt")?;
                let messages = json!([{"role": "user", "content": {"type": "text", "text": prompt}}]);
                let params = json!({"messages": messages, "maxTokens": 100});
                let answer = if modern {
                    match ask(&call, &prompt, json!({"method": "sampling/createMessage", "params": params}))? {
                        Ok(answer) => answer,
                        Err(required) => return Ok(required.into()),
                    }
                } else {
                    let result = context.peer.create_message(made(params)).await.map_err(internal)?;
                    serde_json::to_value(result).map_err(internal)?
                };
                answer["content"]["text"].as_str().unwrap_or_default().to_owned()
            }
            "elicit" => {
                let message = text_of("message")?;
                let form = json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
                let params = json!({"mode": "form", "message": message, "requestedSchema": form});
                let request = json!({"method": "elicitation/create", "params": params});
                let answer = if modern {
                    match ask(&call, &message, request)? {
                        Ok(answer) => answer,
                        Err(required) => return Ok(required.into()),
                    }
                } else {
                    let request = ServerRequest::ElicitRequest(made(request));
                    let result = context.peer.send_request(request).await.map_err(internal)?;
                    serde_json::to_value(result).map_err(internal)?
                };
                let name = answer["content"]["name"].as_str().unwrap_or_default();
                format!("{} {name}", answer["action"].as_str().unwrap_or_default())
            }
            "touch" => {
                if modern {
                    // Nobody listening is no error.
                    let _ = self.touched.send(());
                    "sent".to_owned()
                } else if self.subscribed.lock().unwrap().contains(WATCHED) {
                    let update = ResourceUpdatedNotificationParam::new(WATCHED);
                    context.peer.notify_resource_updated(update).await.map_err(internal)?;
                    "sent".to_owned()
                } else {
                    "nobody subscribed".to_owned()
                }
            }
            "log" => {
                // The modern era wants logs only where the request asks for them.
                let wanted = !modern || context.meta.log_level().is_some();
                if wanted {
                    let message = LoggingMessageNotificationParam::new(LoggingLevel::Info, json!(text_of("text")?));
                    context.peer.notify_logging_message(message).await.map_err(internal)?;
                }
                "logged".to_owned()
            }
            name => return Err(ErrorData::invalid_params(format!("no such tool: {name}"), None)),
        };
        Ok(CallToolResult::success(vec![made(json!({"type": "text", "text": text}))]).into())
    }
}

impl ServerHandler for Matrix {
    fn get_info(&self) -> ServerConfig {
        let capabilities = json!({"tools": {}, "logging": {}, "resources": {"subscribe": true}});
        ServerConfig::new(made(capabilities)).with_server_info(Implementation::new("rmcp", "1.0.0"))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools()))
    }

    fn call_tool(
        &self,
        call: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> impl Future<Output = Result<CallToolResponse, ErrorData>> + Send + '_ {
        self.work(call, context)
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(vec![Resource::new(WATCHED, "watched")]))
    }

    async fn read_resource(
        &self,
        _: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        Ok(ReadResourceResult::new(vec![ResourceContents::text("watched", WATCHED)]).into())
    }

    async fn subscribe(&self, request: SubscribeRequestParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.subscribed.lock().unwrap().insert(request.uri);
        Ok(())
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.subscribed.lock().unwrap().remove(&request.uri);
        Ok(())
    }

    async fn set_level(&self, _: SetLevelRequestParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        self.opening.lock().unwrap().push_back(self.touched.subscribe());
        Some(requested.clone())
    }

    async fn listen(&self, subscription: SubscriptionContext) -> Result<(), ErrorData> {
        let ear = self.opening.lock().unwrap().pop_front();
        let mut touched = ear.unwrap_or_else(|| self.touched.subscribe());
        loop {
            tokio::select! {
                () = subscription.cancelled() => return Ok(()),
                _ = touched.recv() => {
                    // One that was not asked for is refused by the SDK.
                    let _ = subscription.sink().notify_resource_updated(WATCHED).await;
                }
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended: Result<(), Box<dyn std::error::Error>> = runtime.block_on(async {
        let (touched, _) = broadcast::channel(64);
        let matrix =
            Matrix { cancelled: Mutex::default(), subscribed: Mutex::default(), touched, opening: Mutex::default() };
        matrix.serve(rmcp::transport::stdio()).await?.waiting().await?;
        Ok(())
    });
    // A thread may still be reading stdin.
    runtime.shutdown_background();
    ended
}
