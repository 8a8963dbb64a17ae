//! The page as text: what is in it, and that nothing of others gets out of its place.

use super::*;
use crate::model::history::Point;
use crate::model::status::{Client, Health, Method, sample};

fn shown(change: impl FnOnce(&mut Shown)) -> String {
    let mut shown = Shown {
        status: sample::status(),
        history: History::default(),
        running: Minute::default(),
        news: Vec::new(),
        log: Vec::new(),
        tools: HashMap::new(),
    };
    change(&mut shown);
    page(&shown)
}

#[test]
fn whatever_others_say_is_text() {
    let bad = "<script>alert(1)</script>\"'&";
    let text = shown(|shown| {
        let s = &mut shown.status;
        for field in [&mut s.name, &mut s.version, &mut s.started, &mut s.written] {
            bad.clone_into(field);
        }
        (s.config, s.log) = (Some(bad.to_owned()), Some(bad.to_owned()));
        s.listen = vec![bad.to_owned()];
        s.url = Some(bad.to_owned());
        let told = || Some(bad.to_owned());
        s.clients = vec![Client { name: bad.to_owned(), principal: told(), server: told(), sessions: 1 }];
        s.health = Health { level: Level::Unhealthy, reasons: vec![bad.to_owned()] };
        s.dropped.insert(bad.to_owned(), 1);
        s.methods.insert(bad.to_owned(), Method::default());
        let v = &mut s.servers[0];
        for field in [&mut v.name, &mut v.kind] {
            bad.clone_into(field);
        }
        v.health.reasons = vec![bad.to_owned(), bad.to_owned()];
        (v.url, v.left_out) = (Some(bad.to_owned()), vec![bad.to_owned()]);
        shown.tools.insert(bad.to_owned(), Arc::new(vec![bad.to_owned(); 200]));
        for field in [&mut v.reason, &mut v.last_exit, &mut v.server_info, &mut v.protocol] {
            *field = Some(bad.to_owned());
        }
        v.methods.insert(bad.to_owned(), Method::default());
        shown.running.servers.insert(bad.to_owned(), Point::default());
        shown.news = vec![News { at: bad.to_owned(), text: bad.to_owned() }];
        shown.log = vec![Line { at: bad.to_owned(), level: bad.to_owned(), text: bad.to_owned() }];
    });
    assert!(text.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;'&amp;"), "{text}");
    // Our own one, and no other.
    assert_eq!((text.matches("<script").count(), text.matches("</script").count()), (1, 1));
    assert!(!text.contains("\"'&"), "{text}");
}

#[test]
fn everything_comes_with_the_page_and_its_policy_knows_it() {
    let text = shown(|shown| shown.status.listen.clear());
    assert!(text.starts_with("<!DOCTYPE html><html lang=\"en\">"));
    // What is asked for elsewhere: the icon is in its own address, and its namespace is a name.
    let rest = text.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http://", "https://", "src=", "@import", "url(", " style=", " onclick="] {
        assert!(!rest.contains(outside), "{outside}");
    }
    assert!(!STYLE.contains('<') && !SCRIPT.contains("</"), "they stand in the page as they are");
    let inside = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>")).unwrap();
        rest.split_once(&format!("</{tag}>")).unwrap().0.to_owned()
    };
    for (tag, text) in [("style", inside("style")), ("script", inside("script"))] {
        let hash = BASE64.encode(&Sha256::digest(text.as_bytes()));
        assert!(policy().contains(&format!("{tag}-src 'sha256-{hash}'")), "{tag}");
    }
}

#[test]
fn what_matters_is_said_in_words() {
    let text = shown(|shown| {
        let s = &mut shown.status;
        s.health = Health { level: Level::Degraded, reasons: vec!["server 'b': it is ill".to_owned()] };
        s.servers[1].health = Health { level: Level::Unhealthy, reasons: vec!["it is ill".to_owned()] };
        s.servers[1].url = Some("http://h/servers/b/mcp".to_owned());
        s.servers[1].left_out = vec!["tool 'x'".to_owned()];
        let (name, principal) = ("claude-code 2.1".to_owned(), Some("alice".to_owned()));
        s.clients = vec![Client { name, principal, server: Some("b".to_owned()), sessions: 3 }];
        s.uptime_seconds = 3700;
        shown.running.all.requests = 7;
        shown.news = vec![News { at: "2026-11-20T12:00:00.000Z".to_owned(), text: "the older one".to_owned() }];
        shown.news.push(News { at: "2026-11-20T12:00:01.000Z".to_owned(), text: "the newer one".to_owned() });
    });
    for wanted in [
        "<title>t is degraded – mcpdaemon</title>",
        "<li><a href=\"#server-b\">server 'b'</a>: it is ill</li>",
        "<div class=\"reason\">it is ill</div>",
        "<code>http://h/servers/b/mcp</code>",
        "<th scope=\"row\">claude-code 2.1</th><td>alice</td><td>b</td><td>3</td>",
        "<li>Not on the bridge: tool 'x'</li>",
        "<b>-</b> <span>in 5 min, p50 -</span>",
        "up 1 h 1 min",
        "<th scope=\"row\"><a href=\"#server-b\">b</a></th>",
        "unhealthy</span>",
        "this minute 7, most 7",
        "2026-11-20 12:00:01",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    assert!(text.find("the newer one") < text.find("the older one"));
    assert!(shown(|_| {}).contains("<section id=\"reasons\" aria-label=\"Why it is not healthy\" hidden>"));
}
