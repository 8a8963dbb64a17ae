//! Any instance file, with any file of tokens: a configuration, or problems that each name a place.
#![no_main]

use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use mcpdaemon::model::config::{Account, Given, Input, Surroundings, load};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // The tokens stand behind the file, as they would in another.
    let (text, tokens) = text.split_once("\n---\n").unwrap_or((text, ""));
    let around = Surroundings {
        var: &|name| (name.len() < 5).then(|| format!("value of {name}")),
        find_program: &|name, _| Some(Path::new("/usr/bin").join(name)),
        is_dir: &|path| !path.ends_with("none"),
        account: &|user, _| match user {
            Some("none") => Err("there is no such user".to_owned()),
            _ => Ok(Account { name: "somebody".to_owned(), uid: 1, gid: 1, groups: vec![1], home: PathBuf::from("/") }),
        },
        group: &|_| Ok(42),
        read: &|_| Ok(tokens.to_owned()),
        uid: 1000,
        gid: 1000,
        memory: 8 << 30,
    };
    let input = Input {
        file: Some("prod.ron".into()),
        stem: "prod".to_owned(),
        dir: "/etc/mcp".into(),
        log_dir: "/var/log/mcp".into(),
        divides: false,
        text,
        parts: Vec::new(),
    };
    match load(&input, &Given::default(), &around) {
        Ok(loaded) => assert!(!loaded.config.servers.is_empty()),
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(!problem.to_string().contains('\u{1b}'), "{problem}");
            }
        }
    }
});
