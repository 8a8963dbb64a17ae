//! The methods of MCP by name, and those that requests are counted by: a fixed set, so that no client can make it grow.
//!
//! Knows names alone. What a method means is for those who route it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::spelling;

// Requests of clients.
pub const INITIALIZE: &str = "initialize";
pub const PING: &str = "ping";
pub const TOOLS_LIST: &str = "tools/list";
pub const TOOLS_CALL: &str = "tools/call";
pub const PROMPTS_LIST: &str = "prompts/list";
pub const PROMPTS_GET: &str = "prompts/get";
pub const RESOURCES_LIST: &str = "resources/list";
pub const TEMPLATES_LIST: &str = "resources/templates/list";
pub const RESOURCES_READ: &str = "resources/read";
pub const RESOURCES_SUBSCRIBE: &str = "resources/subscribe";
pub const RESOURCES_UNSUBSCRIBE: &str = "resources/unsubscribe";
pub const COMPLETE: &str = "completion/complete";
pub const SET_LEVEL: &str = "logging/setLevel";
pub const TASKS_LIST: &str = "tasks/list";
pub const TASKS_GET: &str = "tasks/get";
pub const TASKS_RESULT: &str = "tasks/result";
pub const TASKS_UPDATE: &str = "tasks/update";
pub const TASKS_CANCEL: &str = "tasks/cancel";
/// Since 2026-07-28.
pub const DISCOVER: &str = "server/discover";
/// Since 2026-07-28.
pub const LISTEN: &str = "subscriptions/listen";
// Of the executor's own protocol.
pub const EXECUTE: &str = "execute";
pub const CONTROL: &str = "control";

// Notifications.
pub const INITIALIZED: &str = "notifications/initialized";
pub const CANCELLED: &str = "notifications/cancelled";
pub const PROGRESS: &str = "notifications/progress";
pub const LOG_MESSAGE: &str = "notifications/message";
pub const ROOTS_CHANGED: &str = "notifications/roots/list_changed";
pub const RESOURCE_UPDATED: &str = "notifications/resources/updated";
pub const TOOLS_CHANGED: &str = "notifications/tools/list_changed";
pub const PROMPTS_CHANGED: &str = "notifications/prompts/list_changed";
pub const RESOURCES_CHANGED: &str = "notifications/resources/list_changed";
/// Since 2026-07-28.
pub const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// The notification that a list (`tools`, `prompts`, `resources`) has changed.
pub fn list_changed(list: &str) -> &'static str {
    match list {
        "tools" => TOOLS_CHANGED,
        "prompts" => PROMPTS_CHANGED,
        _ => RESOURCES_CHANGED,
    }
}

/// The list whose change a notification tells.
pub fn changed_list(method: &str) -> Option<&'static str> {
    match method {
        TOOLS_CHANGED => Some("tools"),
        PROMPTS_CHANGED => Some("prompts"),
        RESOURCES_CHANGED => Some("resources"),
        _ => None,
    }
}

/// Whether a method is that of a notification.
pub fn is_notification(method: &str) -> bool {
    method.starts_with("notifications/")
}

/// Methods that are not counted, and that a message is passed on or routed by all the same.
const UNCOUNTED: [&str; 15] = [
    INITIALIZED,
    CANCELLED,
    PROGRESS,
    LOG_MESSAGE,
    ROOTS_CHANGED,
    RESOURCE_UPDATED,
    TOOLS_CHANGED,
    PROMPTS_CHANGED,
    RESOURCES_CHANGED,
    ACKNOWLEDGED,
    TASKS_LIST,
    TASKS_GET,
    TASKS_RESULT,
    TASKS_UPDATE,
    TASKS_CANCEL,
];

/// Whether a lenient program may take this for a method that it is not: one in another case, or otherwise spelled.
pub fn is_respelled(method: &str) -> bool {
    const PREFIXES: [&str; 2] = ["notifications/", "tasks/"];
    if Method::of(method) != Method::Other || UNCOUNTED.contains(&method) {
        return false;
    }
    let begins = |prefix: &str| {
        let head: String = method.chars().take(prefix.len()).collect();
        !method.starts_with(prefix) && spelling::same_letters(&head, prefix)
    };
    let mcp = |m: &&Method| !matches!(m, Method::Execute | Method::Control | Method::Other);
    let counted = Method::ALL.iter().filter(mcp).map(|m| m.name());
    PREFIXES.into_iter().any(begins) || counted.chain(UNCOUNTED).any(|m| spelling::same_letters(m, method))
}

/// Whether a method is about tasks (2025-11-25 basic/utilities/tasks).
pub fn is_of_tasks(method: &str) -> bool {
    method.starts_with("tasks/")
}

macro_rules! methods {
    ($($variant:ident = $name:ident,)*) => {
        /// What kind of request it is, as far as it is counted.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Method {
            $(#[doc = concat!("[`", stringify!($name), "`].")] $variant,)*
            /// Anything else.
            #[default]
            Other,
        }

        impl Method {
            /// All of them, each at the place that its number says.
            pub const ALL: &[Method] = &[$(Method::$variant,)* Method::Other];

            /// The kind of a request with this method.
            pub fn of(method: &str) -> Method {
                match method {
                    $($name => Method::$variant,)*
                    _ => Method::Other,
                }
            }

            /// The name in documents and metrics.
            pub fn name(self) -> &'static str {
                match self {
                    $(Method::$variant => $name,)*
                    Method::Other => "other",
                }
            }
        }
    };
}

methods! {
    ToolsCall = TOOLS_CALL,
    ToolsList = TOOLS_LIST,
    PromptsGet = PROMPTS_GET,
    PromptsList = PROMPTS_LIST,
    ResourcesRead = RESOURCES_READ,
    ResourcesList = RESOURCES_LIST,
    TemplatesList = TEMPLATES_LIST,
    Subscribe = RESOURCES_SUBSCRIBE,
    Unsubscribe = RESOURCES_UNSUBSCRIBE,
    Complete = COMPLETE,
    Initialize = INITIALIZE,
    Ping = PING,
    Discover = DISCOVER,
    SetLevel = SET_LEVEL,
    Listen = LISTEN,
    Execute = EXECUTE,
    Control = CONTROL,
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Method {
    /// A name that another version knows is [`Method::Other`] here.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Method::of(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_place_and_its_name_back() {
        for (at, method) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, at);
            assert_eq!(Method::of(method.name()), *method);
        }
        assert_eq!(Method::of("tools/call\u{0}"), Method::Other);
        assert_eq!(serde_json::from_str::<Method>("\"from/the/future\"").unwrap(), Method::Other);
    }
}
