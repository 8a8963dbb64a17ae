//! The `bridge` of an instance, and which tools of a server may be used.

use super::read::{Node, Origin, Reader, Section, Setting};
use crate::model::bridge::{LONGEST, Naming, admits};

/// The tools of a server that clients may see and call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tools {
    /// None for all.
    pub allow: Option<Vec<String>>,
    pub deny: Vec<String>,
}

impl Tools {
    /// Whether a tool may be used. None stands for a name that is no plain text: where a rule applies, it is refused.
    pub fn admits(&self, name: Option<&str>) -> bool {
        name.map_or(self.is_open(), |name| admits(self.allow.as_deref(), &self.deny, name))
    }

    /// Every tool may be used.
    pub fn is_open(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }
}

/// Reads `tools: (allow: [...], deny: [...])`.
pub(super) fn tools(s: &mut Section<'_, '_>) -> Tools {
    s.nested("tools", |s| Tools { allow: s.opt("allow"), deny: s.get("deny", Vec::new()) })
}

/// A way of naming; None is no bridge.
impl Setting for Option<Naming> {
    fn read<'a>(reader: &Reader<'a>, node: Node<'a>) -> Option<Self> {
        const KINDS: [&str; 5] = ["Prefix", "First", "Priority", "Error", "None"];
        const EXPECTED: &str =
            "expected Prefix, Prefix(longest: 45), First, Priority([\"server\", ...]), Error or None";
        match reader.variant(node) {
            Some(("Prefix", None)) => Some(Some(Naming::default())),
            Some(("Prefix", Some(body))) => {
                let mut inner = reader.section(body)?;
                let longest: u32 = inner.quiet("longest", LONGEST as u32);
                let at = inner.node("longest").unwrap_or(body);
                inner.finish();
                if !(20..=LONGEST as u32).contains(&longest) {
                    reader.problem(at, format!("names of 20 to {LONGEST} characters can be had"));
                }
                Some(Some(Naming::Prefix { longest: (longest as usize).clamp(20, LONGEST) }))
            }
            Some(("First", None)) => Some(Some(Naming::First)),
            Some(("Error", None)) => Some(Some(Naming::Error)),
            Some(("None", None)) => Some(None),
            Some(("Priority", Some(body))) => {
                let at = reader.only(body, "Priority([\"server\", ...])")?;
                Some(Some(Naming::Priority(Vec::read(reader, at)?)))
            }
            Some((kind, _)) if !KINDS.contains(&kind) => {
                reader.unknown(node, "kind of bridge", kind, &KINDS);
                None
            }
            _ => {
                reader.problem(node, EXPECTED);
                None
            }
        }
    }

    fn show(&self) -> String {
        match self {
            Some(Naming::Priority(order)) => format!("Priority({})", order.show()),
            Some(Naming::Prefix { longest: LONGEST }) => "Prefix".to_owned(),
            Some(Naming::Prefix { longest }) => format!("Prefix(longest: {longest})"),
            Some(other) => format!("{other:?}"),
            None => "None".to_owned(),
        }
    }
}

/// Reads `bridge`; who comes first must be there.
pub(super) fn bridge<'a>(s: &mut Section<'_, 'a>, there: &dyn Fn(&str) -> bool) -> Option<Naming> {
    let Some(node) = s.node("bridge") else {
        s.show("bridge", Some(Naming::default()).show(), Origin::Default);
        return Some(Naming::default());
    };
    let bridge = Option::<Naming>::read(s.reader, node).unwrap_or_default();
    s.show_given("bridge", node, bridge.show());
    if let Some(Naming::Priority(order)) = &bridge {
        for name in order.iter().filter(|n| !there(n)) {
            s.reader.problem(node, format!("there is no server '{name}' in this instance"));
        }
    }
    bridge
}
