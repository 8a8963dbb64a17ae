use super::*;
use proptest::prelude::*;

fn names(naming: &Naming, servers: &[&str]) -> Names {
    Names::new(naming, servers.iter().map(|s| (*s).to_owned()))
}

fn items(list: List, all: &[&str]) -> Vec<Item> {
    let text = |n: &str| format!(r#"{{"title":"T","{}":{},"x":9007199254740993}}"#, list.key(), quote(n));
    all.iter().map(|n| Item { name: (*n).to_owned(), text: text(n) }).collect()
}

fn merged(naming: &Naming, list: List, of: &[(&str, &[&str])]) -> Merged {
    let servers: Vec<&str> = of.iter().map(|(s, _)| *s).collect();
    names(naming, &servers).merge(list, &of.iter().map(|(s, n)| ((*s).to_owned(), Arc::new(items(list, n)))).collect())
}

fn shown(merged: &Merged) -> Vec<String> {
    merged.listed.iter().map(|l| format!("{}={}/{}", l.name, l.server, l.own)).collect()
}

#[test]
fn a_prefix_tells_whose_it_is() {
    let n = names(&Naming::default(), &["time", "my__files", "my", "a.b", "x"]);
    for (server, own, name) in [
        ("time", "get", "time__get"),
        ("time", "get__it", "time__get__it"),
        ("my", "list", "my__list"),
        ("my__files", "list", "my__files__list"),
        ("x", "__", "x____"),
        ("x", "_a", "x___a"),
        ("x", "A-b_9", "x__A-b_9"),
    ] {
        assert_eq!(n.published(server, own), name);
        assert_eq!(n.owner(name), Some((server, own)), "{name}");
    }
    // What could be taken for another's, has other characters or is too long ends with a hash, and the list tells.
    for (server, own) in [
        ("my", "files__list"),
        ("a.b", "get"),
        ("x", "a.b"),
        ("x", "é"),
        ("x", "a b"),
        ("x", &"y".repeat(62)),
        ("x", ""),
    ] {
        let name = n.published(server, own);
        assert!(name.len() <= LONGEST && name.bytes().all(is_fine), "{name}");
        assert_eq!(n.owner(&name), None, "{name}");
    }
    assert_ne!(n.published("x", "a.b"), n.published("x", "a b"));
    assert_eq!(n.published("x", &"y".repeat(61)).len(), 64);
    for unknown in ["", "time", "time__", "other__get", "time_get", "files__list"] {
        assert_eq!(n.owner(unknown), None, "{unknown}");
    }
}

#[test]
fn two_servers_with_the_same_tools() {
    let two: &[(&str, &[&str])] = &[("b", &["one", "two"]), ("a", &["two", "three"])];
    for (naming, expected) in [
        (Naming::default(), &["a__two=a/two", "a__three=a/three", "b__one=b/one", "b__two=b/two"][..]),
        (Naming::First, &["two=a/two", "three=a/three", "one=b/one"]),
        (Naming::Priority(vec!["b".to_owned()]), &["one=b/one", "two=b/two", "three=a/three"]),
        (Naming::Priority(vec!["x".to_owned()]), &["two=a/two", "three=a/three", "one=b/one"]),
        (Naming::Error, &["three=a/three", "one=b/one"]),
    ] {
        let all = merged(&naming, List::Tools, two);
        assert_eq!(shown(&all), expected, "{naming:?}");
        let conflicts: Vec<_> = all.conflicts.into_iter().collect();
        match naming {
            Naming::Error => assert_eq!(conflicts, [("two".to_owned(), vec!["a".to_owned(), "b".to_owned()])]),
            _ => assert!(conflicts.is_empty()),
        }
    }
    let three: &[(&str, &[&str])] = &[("a", &["t", "t"]), ("b", &["t"]), ("c", &["t"])];
    let all = merged(&Naming::Error, List::Prompts, three);
    assert_eq!((all.listed.len(), all.conflicts["t"].as_slice()), (0, &["a", "b", "c"].map(str::to_owned)[..]));
}

#[test]
fn whoever_comes_first_has_to_be_asked_first() {
    for (naming, server, rivals) in [
        (Naming::default(), "b", &[][..]),
        (Naming::First, "a", &[]),
        (Naming::First, "b", &["a"]),
        (Naming::Priority(vec!["c".to_owned()]), "c", &[]),
        (Naming::Priority(vec!["c".to_owned()]), "b", &["c", "a"]),
        (Naming::Error, "b", &["a", "c"]),
    ] {
        let names = names(&naming, &["a", "b", "c"]);
        assert_eq!(names.rivals(server).collect::<Vec<_>>(), rivals, "{naming:?} {server}");
    }
}

#[test]
fn items_keep_every_byte_but_their_name() {
    let all = merged(&Naming::default(), List::Tools, &[("s", &["t\"1"])]);
    let [one] = all.listed.as_slice() else { panic!() };
    assert_eq!(one.text, format!(r#"{{"title":"T","name":"{}","x":9007199254740993}}"#, one.name));
    let page = r#" {"tools": [ {"name":"a", "inputSchema": {"name":"inner"}}, 7, {"noname":1} , {"name":"x","n\u0061me":"y"}, {"name":"\u0062"}], "nextCursor":"c"}"#;
    let (items, cursor) = read_page(List::Tools, page).unwrap();
    let texts: Vec<&str> = items.iter().map(|i| i.text.as_str()).collect();
    assert_eq!(texts, [r#"{"name":"a", "inputSchema": {"name":"inner"}}"#, r#"{"name":"\u0062"}"#]);
    assert_eq!((items[1].name.as_str(), cursor.as_deref()), ("b", Some("\"c\"")));
    assert_eq!(read_page(List::Prompts, page), None);
    assert_eq!(renamed(List::Tools, texts[0], "z"), r#"{"name":"z", "inputSchema": {"name":"inner"}}"#);
}

#[test]
fn resources_keep_their_uris_unless_two_servers_have_the_same() {
    let two: &[(&str, &[&str])] = &[("a_1", &["file:///x", "u:1"]), ("b", &["file:///x", "u:2"]), ("9", &["u:1"])];
    assert_eq!(
        shown(&merged(&Naming::default(), List::Resources, two)),
        ["u:1=9/u:1", "file:///x=a_1/file:///x", "a-1+u:1=a_1/u:1", "b+file:///x=b/file:///x", "u:2=b/u:2"]
    );
    assert_eq!(alias("9", "u:1"), "s9+u:1");
    assert_eq!(
        shown(&merged(&Naming::First, List::Resources, two)),
        ["u:1=9/u:1", "file:///x=a_1/file:///x", "u:2=b/u:2"]
    );
    assert_eq!(merged(&Naming::Error, List::Resources, two).conflicts.len(), 2);
    // Templates are patterns, and may be of several.
    assert_eq!(merged(&Naming::default(), List::Templates, &[("a", &["f:{x}"]), ("b", &["f:{x}"])]).listed.len(), 1);
}

#[test]
fn pages_hold_everything_once() {
    let many: Vec<String> = (0..2500).map(|n| format!("t{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let all = merged(&Naming::First, List::Tools, &[("s", &many)]).listed;
    let (mut cursor, mut seen, mut pages) = (None::<String>, Vec::new(), 0);
    loop {
        let text = page(List::Tools, &all, cursor.as_deref()).unwrap();
        let (items, next) = read_page(List::Tools, &text).unwrap();
        seen.extend(items.into_iter().map(|i| i.name));
        pages += 1;
        match next {
            Some(next) => cursor = Some(decode(&next).into_owned()),
            None => break,
        }
    }
    assert_eq!((seen, pages), (many.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), 3));
    assert_eq!(page(List::Tools, &[], None).unwrap(), r#"{"tools":[]}"#);
    for wrong in ["", "%", "bm90aGluZw"] {
        assert!(page(List::Tools, &all, Some(wrong)).is_err(), "{wrong}");
    }
    // One that is long by itself is a page.
    let long = vec![Listed { name: "l".to_owned(), text: "x".repeat(PAGE_BYTES + 1), ..all[0].clone() }; 2];
    assert!(page(List::Tools, &long, None).unwrap().len() > PAGE_BYTES);
}

#[test]
fn a_template_is_recognised_by_what_stands_around_its_expressions() {
    for (template, uri, fits) in [
        ("file:///{path}", "file:///a/b", true),
        ("file:///{path}", "http://a", false),
        ("a:{x}/b/{y}.txt", "a:1/b/2.txt", true),
        ("a:{x}/b/{y}.txt", "a:1/b/2.md", false),
        ("a:{x}/b/{y}.txt", "a:1/c/2.txt", false),
        ("a:b", "a:b", true),
        ("a:b", "a:bc", false),
        ("{x}", "anything", true),
        ("a:{x}{?q}", "a:1?q=2", true),
        ("a:{x", "a:1", false),
    ] {
        assert_eq!(fits_template(template, uri), fits, "{template} {uri}");
    }
    assert!(template_weight("tw://{x}") > template_weight("{+any}") && template_weight("a{b}c{d") == 3);
}

#[test]
fn patterns_allow_and_deny() {
    let list = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    for (allow, deny, name, admitted) in [
        (None, &[][..], "x", true),
        (None, &["x"], "x", false),
        (None, &["w*"], "write", false),
        (None, &["w*"], "read", true),
        (Some(&["read_*"][..]), &[], "read_file", true),
        (Some(&["read_*"]), &[], "write", false),
        (Some(&["read_*"]), &["*_secret"], "read_secret", false),
        (Some(&["*"]), &["*"], "x", false),
        (Some(&[]), &[], "x", false),
        (Some(&["a*b*c"]), &[], "a1b2c", true),
        (Some(&["a*b*c"]), &[], "acb", false),
        (Some(&["a*a"]), &[], "a", false),
        (Some(&["a"]), &[], "ab", false),
    ] {
        let allow = allow.map(list);
        assert_eq!(admits(allow.as_deref(), &list(deny), name), admitted, "{allow:?} {deny:?} {name}");
    }
}

#[test]
fn an_id_that_would_be_more_than_one_is_none() {
    for (id, own) in [
        (r#""p/1""#, Some("1")),
        (r#""p/\"a\"""#, Some("\"a\"")),
        (r#""p/""#, None),
        (r#""p/ 1""#, None),
        (r#""p/true""#, None),
        (r#""p/01""#, None),
        (r#""p/{}""#, None),
        (r#""p/1,\"Id\":77""#, None),
        (r#""p/\"a\",\"method\":\"tools/call\"""#, None),
    ] {
        assert_eq!(child_id(id).map(|(_, own)| own).as_deref(), own, "{id}");
    }
}

proptest! {
    #[test]
    fn no_name_is_two_things(
        servers in proptest::collection::hash_set("[ab_.]{1,4}", 1..4),
        own in proptest::collection::hash_set("[ab_.é]{0,5}|[a_]{60,70}", 1..6),
    ) {
        for naming in [Naming::default(), Naming::First] {
            let n = Names::new(&naming, servers.iter().cloned());
            let mut seen: HashMap<String, (String, String)> = HashMap::new();
            for server in &servers {
                for tool in &own {
                    let name = n.published(server, tool);
                    prop_assert!((1..=LONGEST).contains(&name.len()) && name.bytes().all(is_fine), "{}", name);
                    if matches!(naming, Naming::Prefix { .. }) {
                        let before = seen.insert(name.clone(), (server.clone(), tool.clone()));
                        prop_assert!(before.is_none(), "{} is {:?} and {:?}", name, before, (server, tool));
                        if let Some(owner) = n.owner(&name) {
                            prop_assert_eq!(owner, (server.as_str(), tool.as_str()));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_id_comes_back(server in "[a-z_.0-9]{1,9}", id in "\"([a-z/]|\\\\[\\\\\"]){0,5}\"|-?[1-9][0-9]{0,8}") {
        let (to, own) = child_id(&client_id(&server, &id)).unwrap();
        prop_assert_eq!((to, own), (server, id));
    }
}
