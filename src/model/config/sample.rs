//! Configurations for unit tests, read in surroundings that are the same everywhere.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Account, Config, Given, Input, Loaded, Surroundings, load};

/// The configuration that a text stands for.
pub fn config(text: &str) -> Arc<Config> {
    Arc::new(read(text, &Given::default()).unwrap_or_else(|why| panic!("{why:?}")).config)
}

/// Reads a text, with what is given beside it; else all its problems.
pub fn read(text: &str, given: &Given) -> Result<Loaded, Vec<String>> {
    let var = |name: &str| match name {
        "HOME" => Some("/home/u".to_owned()),
        "TOKEN" => Some("s3cret".to_owned()),
        _ => None,
    };
    let find_program = |name: &str, _: Option<&str>| match name {
        "uvx" | "echo" | "date" => Some(PathBuf::from(format!("/usr/bin/{name}"))),
        name if name.starts_with('/') && !name.contains("missing") => Some(name.into()),
        _ => None,
    };
    let is_dir = |path: &std::path::Path| !path.ends_with("nodir");
    let around = Surroundings {
        var: &var,
        find_program: &find_program,
        is_dir: &is_dir,
        account: &somebody,
        group: &|_| Ok(42),
        read: &|_| Err(String::new()),
        uid: 1000,
        gid: 1000,
        memory: 8 << 30,
    };
    let input = Input {
        file: Some("prod.ron".into()),
        stem: "prod".to_owned(),
        dir: "/etc/mcp".into(),
        text,
        parts: Vec::new(),
        log_dir: "/var/log/mcp".into(),
        divides: false,
    };
    load(&input, given, &around).map_err(|p| p.iter().map(ToString::to_string).collect())
}

pub(super) fn somebody(user: Option<&str>, group: Option<&str>) -> Result<Account, String> {
    let (name, uid) = match user {
        Some("mcp") => ("mcp", 500),
        Some("root") => ("root", 0),
        None => ("own", 1000),
        Some(other) => return Err(format!("there is no user '{other}'")),
    };
    let gid = if group.is_some() { 42 } else { uid };
    Ok(Account { name: name.into(), uid, gid, groups: vec![gid], home: "/home/mcp".into() })
}
