//! The methods that requests are counted by: a fixed set, so that no client can make it grow.
//!
//! Knows names alone. What a method means is for those who route it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! methods {
    ($($variant:ident = $name:literal,)*) => {
        /// What kind of request it is, as far as it is counted.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Method {
            $(#[doc = concat!("`", $name, "`.")] $variant,)*
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
    ToolsCall = "tools/call",
    ToolsList = "tools/list",
    PromptsGet = "prompts/get",
    PromptsList = "prompts/list",
    ResourcesRead = "resources/read",
    ResourcesList = "resources/list",
    TemplatesList = "resources/templates/list",
    Subscribe = "resources/subscribe",
    Unsubscribe = "resources/unsubscribe",
    Complete = "completion/complete",
    Initialize = "initialize",
    Ping = "ping",
    Discover = "server/discover",
    SetLevel = "logging/setLevel",
    Listen = "subscriptions/listen",
    Execute = "execute",
    Control = "control",
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
