//! Any file of a client's servers: an instance file, which is read in turn, or one problem.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mcpdaemon::model::config::{Given, Input, Surroundings, load};
use mcpdaemon::model::import::import;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(imported) = import("client.json", text) else { return };
    let around = Surroundings {
        var: &|name| Some(format!("value of {name}")),
        find_program: &|name, _| Some(Path::new("/usr/bin").join(name)),
        is_dir: &|_| true,
        account: &|_, _| Err("there is no such user".to_owned()),
        group: &|_| Ok(42),
        read: &|_| Ok(String::new()),
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
        text: &imported.text,
        parts: Vec::new(),
    };
    // What a client has in it may be wrong here; that it is RON is the import's affair.
    if let Err(problems) = load(&input, &Given::default(), &around) {
        let broken = problems.iter().map(ToString::to_string).find(|p| p.contains("expected") && p.contains("1:1"));
        assert!(broken.is_none(), "{broken:?}: {}", imported.text);
    }
});
