//! What a reload changes: the difference of two configurations, as data.
//!
//! [`diff`] is pure. It decides what has to be done; the instance and the hub do it.

use std::collections::BTreeSet;

use crate::model::config::{Config, Kind, Line, Listen};
use crate::model::text::count;

/// The steps from one configuration to another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Servers that are new.
    pub add: Vec<String>,
    /// Servers whose child must be replaced, because its command or surroundings changed.
    pub replace: Vec<String>,
    /// Servers whose settings change while their child lives on.
    pub adjust: Vec<String>,
    /// Servers that are gone.
    pub remove: Vec<String>,
    /// Servers that are as they were.
    pub keep: Vec<String>,
    pub open: Vec<Listen>,
    pub close: Vec<Listen>,
    /// Unix sockets whose file gets another mode or owner.
    pub touch: Vec<(Listen, Listen)>,
    /// Keys that changed and count only after the daemon is started anew.
    pub restart_needed: Vec<&'static str>,
}

/// Compares two configurations.
pub fn diff(old: &Config, new: &Config) -> Plan {
    let mut plan = Plan::default();
    for (name, server) in &new.servers {
        let group = match old.servers.get(name) {
            None => &mut plan.add,
            Some(was) if was == server => &mut plan.keep,
            Some(was) if same_process(&was.kind, &server.kind) => &mut plan.adjust,
            Some(_) => &mut plan.replace,
        };
        group.push(name.clone());
    }
    plan.remove = old.servers.keys().filter(|n| !new.servers.contains_key(*n)).cloned().collect();
    if old.account != new.account {
        plan.restart_needed.push("user, group");
    }
    let (was, is): (BTreeSet<_>, BTreeSet<_>) = (old.listen.iter().collect(), new.listen.iter().collect());
    plan.open = is.difference(&was).map(|l| (*l).clone()).collect();
    plan.close = was.difference(&is).map(|l| (*l).clone()).collect();
    let path = |l: &Listen| match l {
        Listen::Unix(unix) => Some(unix.path.clone()),
        _ => None,
    };
    for old in plan.close.clone() {
        let same = |new: &Listen| path(new).is_some() && path(new) == path(&old);
        if let Some(at) = plan.open.iter().position(same) {
            let new = plan.open.remove(at);
            plan.close.retain(|l| *l != old);
            plan.touch.push((old, new));
        }
    }
    plan
}

/// Nothing that the running process was started with differs.
fn same_process(old: &Kind, new: &Kind) -> bool {
    match (old, new) {
        (Kind::Mcp(a), Kind::Mcp(b)) => {
            let same_line = match (&a.line, &b.line) {
                (Line::Stdio(a), Line::Stdio(b)) => {
                    (&a.program, &a.args, &a.environment, &a.cwd, &a.confine)
                        == (&b.program, &b.args, &b.environment, &b.cwd, &b.confine)
                }
                (Line::Http(a), Line::Http(b)) => a == b,
                _ => false,
            };
            same_line && a.sharing == b.sharing
        }
        (Kind::Exec(_), Kind::Exec(_)) => true,
        _ => false,
    }
}

impl Plan {
    /// `1 added, 1 restarted, 2 unchanged`, as `mcpctl reload` says it.
    pub fn summary(&self) -> String {
        let mut parts: Vec<String> = [
            (self.add.len(), "added"),
            (self.replace.len(), "restarted"),
            (self.adjust.len(), "adjusted"),
            (self.remove.len(), "removed"),
        ]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect();
        if !self.keep.is_empty() || parts.is_empty() {
            parts.push(format!("{} unchanged", self.keep.len()));
        }
        if !self.open.is_empty() || !self.close.is_empty() {
            parts.push(format!("{} opened, {} closed", count(self.open.len(), "listener"), self.close.len()));
        }
        if !self.touch.is_empty() {
            parts.push(format!("{} changed", count(self.touch.len(), "socket file")));
        }
        if !self.restart_needed.is_empty() {
            parts.push(format!("{} not applied: needs a stop and a start", self.restart_needed.join(", ")));
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{Given, Input, Surroundings, load};

    fn config(text: &str) -> Config {
        let around = Surroundings {
            var: &|_| None,
            find_program: &|n, _| Some(format!("/bin/{n}").into()),
            is_dir: &|_| true,
            account: &|_, _| Err("nobody".to_owned()),
            group: &|_| Ok(42),
            read: &|_| Err(String::new()),
            uid: 1000,
            gid: 1000,
            memory: 8 << 30,
        };
        let input = Input {
            file: None,
            stem: "t".into(),
            dir: "/".into(),
            text,
            parts: Vec::new(),
            log_dir: "/log".into(),
            divides: false,
        };
        load(&input, &Given::default(), &around).unwrap().config
    }

    #[test]
    fn each_server_falls_into_one_group() {
        let old = config(
            r#"(servers: {"same": Stdio(command: "a"), "args": Stdio(command: "a"), "time": Stdio(command: "a"),
                "gone": Stdio(command: "a"), "kind": Stdio(command: "a"), "exec": Exec(allow: ["a"])})"#,
        );
        let new = config(
            r#"(servers: {"same": Stdio(command: "a"), "args": Stdio(command: ["a", "b"]),
                "time": Stdio(command: "a", request_timeout: "1s"), "new": Stdio(command: "a"),
                "kind": Exec(allow: ["a"]), "exec": Exec(allow: ["a", "b"])})"#,
        );
        let plan = diff(&old, &new);
        assert_eq!(plan.add, ["new"]);
        assert_eq!(plan.replace, ["args", "kind"]);
        assert_eq!(plan.adjust, ["exec", "time"]);
        assert_eq!(plan.remove, ["gone"]);
        assert_eq!(plan.keep, ["same"]);
        assert_eq!(plan.summary(), "1 added, 2 restarted, 2 adjusted, 1 removed, 1 unchanged");
        assert_eq!(diff(&old, &old).summary(), "6 unchanged");
    }

    #[test]
    fn listeners_open_and_close() {
        let with = |l: &str| config(&format!("(listen: [{l}], servers: {{\"a\": Stdio(command: \"a\")}})"));
        let plan = diff(&with("\"127.0.0.1:1\", \"127.0.0.1:2\""), &with("\"127.0.0.1:2\", \"127.0.0.1:3\""));
        assert_eq!(plan.open, ["127.0.0.1:3".parse().unwrap()]);
        assert_eq!(plan.close, ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(plan.summary(), "1 unchanged, 1 listener opened, 1 closed");
        let plan = diff(&with("\"unix:/s\""), &with("\"unix:/s,mode=0600\""));
        assert_eq!((plan.open.len(), plan.close.len(), plan.touch.len()), (0, 0, 1));
    }
}
