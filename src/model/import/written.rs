//! The instance file that an import writes.

use std::fmt::Write as _;

use crate::model::config::setting::quoted;
use crate::model::import::bridge::Instance;
use crate::model::import::entry::{Entry, Here, Settings, quoted_list};
use crate::model::import::values::shown;
use crate::model::text::printable;

/// The longest line of a comment, in characters, without its margin.
const LINE: usize = 110;

/// So many names of keys are listed one by one.
const LISTED: usize = 24;

/// The whole file. Each entry comes with the client's name for it, and ours.
pub(super) fn written(file: &str, instance: &Instance, rest: &[String], entries: &[(String, String, Entry)]) -> String {
    let mut out =
        format!("// An instance of mcpdaemon, made from {} by mcpdaemon --import.\n//\n", printable(file, 200));
    let settings = || entries.iter().filter_map(|(.., entry)| entry.settings.as_ref());
    if settings().any(|s| !s.env.is_empty() || !s.headers.is_empty()) {
        let text = "The values of `env` and `headers` are as they were, and may be secret: keep this file from others (chmod 600), or \
                    write \"${NAME}\" or \"${file:/PATH}\" in their place.";
        comment(&mut out, "", text);
        out.push_str("//\n");
    }
    let text = "A child has PATH, HOME, LANG, TZ and a few more variables of the daemon, and what `env` sets; `pass_env: \
                [\"NAME\"]` passes more on. It starts in / unless `cwd` says where. If it downloads itself at its first \
                start, it may need `start_timeout: \"2m\"`. All keys are in mcpdaemon.ron(5); mcpdaemon -t -c FILE checks \
                it.";
    comment(&mut out, "", text);
    for note in &instance.notes {
        out.push_str("//\n");
        comment(&mut out, "", note);
    }
    if !rest.is_empty() {
        let names: Vec<String> = rest.iter().take(LISTED).map(|key| shown(key)).collect();
        let more = match rest.len().saturating_sub(LISTED) {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        out.push_str("//\n");
        let text =
            format!("The rest of that file is the client's own, and not carried over: {}{more}.", names.join(", "));
        comment(&mut out, "", &text);
    }
    out.push_str("(\n");
    for (key, value) in &instance.settings {
        let _ = writeln!(out, "    {key}: {value},");
    }
    out.push_str("    servers: {\n");
    for (i, (was, name, entry)) in entries.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let margin = match &entry.here {
            Here::Left(why) => {
                comment(&mut out, "        ", &format!("{} is not carried over: {why}.", shown(was)));
                "        // "
            }
            Here::Runs => "        ",
        };
        for note in &entry.notes {
            comment(&mut out, "        ", note);
        }
        if let Some(settings) = &entry.settings {
            server(&mut out, margin, name, settings);
        }
    }
    out.push_str("    },\n)\n");
    out
}

/// A comment, broken where a line would be too long.
fn comment(out: &mut String, margin: &str, text: &str) {
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + word.chars().count() > LINE {
            let _ = writeln!(out, "{margin}//{line}");
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{margin}//{line}");
}

fn server(out: &mut String, margin: &str, name: &str, settings: &Settings) {
    let kind = if settings.url.is_some() { "Http" } else { "Stdio" };
    let _ = writeln!(out, "{margin}{}: {kind}(", quoted(name));
    match &settings.url {
        Some(url) => writeln!(out, "{margin}    url: {},", quoted(url)),
        None => writeln!(out, "{margin}    command: {},", quoted_list(&settings.command)),
    }
    .unwrap_or_default();
    for (key, map) in [("headers", &settings.headers), ("env", &settings.env)] {
        if !map.is_empty() {
            let _ = writeln!(out, "{margin}    {key}: {{");
            for (key, value) in map {
                let _ = writeln!(out, "{margin}        {}: {},", quoted(key), quoted(value));
            }
            let _ = writeln!(out, "{margin}    }},");
        }
    }
    for (key, value) in &settings.others {
        let _ = writeln!(out, "{margin}    {key}: {value},");
    }
    let _ = writeln!(out, "{margin}),");
}
