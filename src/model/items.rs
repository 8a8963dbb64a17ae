//! Whether a tool, prompt, resource or template is what its schema says (schema of 2025-11-25 and 2026-07-28).
//!
//! Clients check a list as a whole, so one item that is wrong would take all others with it. Optional members that are null
//! are as good as not there. Pure.

use std::borrow::Cow;

use super::bridge::List;
use super::envelope::{batch, member, members, quote};

/// What a member has to be.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Number,
    Truth,
    Object,
    /// A JSON schema of an object.
    Schema,
    /// A section with members of its own that may be null.
    Section(&'static [Field]),
    /// A list of such sections.
    Sections(&'static [Field]),
    /// Of such sections those that are as they must be: what is shown beside an item is not worth the item.
    Soundest(&'static [Field]),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of texts; of these words, where there are any.
    Words(&'static [&'static str]),
    /// From 0 to 1.
    Share,
    /// A moment (ISO 8601).
    Moment,
    /// As good as not there, where it is not this.
    Loose(&'static Shape),
}

/// A member: its name, whether it must be there, and what it has to be.
type Field = (&'static str, bool, Shape);

const COMMON: [Field; 4] = [
    ("title", false, Shape::Text),
    ("description", false, Shape::Text),
    ("icons", false, Shape::Soundest(ICON)),
    ("_meta", false, Shape::Object),
];
const ICON: &[Field] = &[
    ("src", true, Shape::Text),
    ("mimeType", false, Shape::Loose(&Shape::Text)),
    ("sizes", false, Shape::Loose(&Shape::Words(&[]))),
    ("theme", false, Shape::Loose(&Shape::Word(&["light", "dark"]))),
];
const EXECUTION: &[Field] =
    &[("taskSupport", false, Shape::Loose(&Shape::Word(&["forbidden", "optional", "required"])))];
const HINTS: &[Field] = &[
    ("title", false, Shape::Text),
    ("readOnlyHint", false, Shape::Truth),
    ("destructiveHint", false, Shape::Truth),
    ("idempotentHint", false, Shape::Truth),
    ("openWorldHint", false, Shape::Truth),
];
const TOOL: &[Field] = &[
    ("name", true, Shape::Text),
    ("inputSchema", true, Shape::Schema),
    ("outputSchema", false, Shape::Schema),
    ("annotations", false, Shape::Section(HINTS)),
    ("execution", false, Shape::Loose(&Shape::Section(EXECUTION))),
];
const ARGUMENT: &[Field] = &[
    ("name", true, Shape::Text),
    ("title", false, Shape::Text),
    ("description", false, Shape::Text),
    ("required", false, Shape::Truth),
];
const PROMPT: &[Field] = &[("name", true, Shape::Text), ("arguments", false, Shape::Sections(ARGUMENT))];
const AUDIENCE: &[Field] = &[
    ("audience", false, Shape::Loose(&Shape::Words(&["user", "assistant"]))),
    ("priority", false, Shape::Loose(&Shape::Share)),
    ("lastModified", false, Shape::Loose(&Shape::Moment)),
];
const RESOURCE: &[Field] = &[
    ("uri", true, Shape::Text),
    ("name", true, Shape::Text),
    ("mimeType", false, Shape::Text),
    ("size", false, Shape::Number),
    ("annotations", false, Shape::Section(AUDIENCE)),
];
const TEMPLATE: &[Field] = &[
    ("uriTemplate", true, Shape::Text),
    ("name", true, Shape::Text),
    ("mimeType", false, Shape::Text),
    ("annotations", false, Shape::Section(AUDIENCE)),
];

/// An item as clients can take it; the error names the member that is wrong.
pub fn sound(list: List, text: &str) -> Result<Cow<'_, str>, String> {
    let own = match list {
        List::Tools => TOOL,
        List::Prompts => PROMPT,
        List::Resources => RESOURCE,
        List::Templates => TEMPLATE,
    };
    let all: Vec<Field> = own.iter().chain(&COMMON).copied().collect();
    section(text, &all)
}

fn section<'t>(text: &'t str, fields: &[Field]) -> Result<Cow<'t, str>, String> {
    let all = members(text);
    for (name, required, _) in fields.iter().filter(|(_, required, _)| *required) {
        if *required && !all.iter().any(|(key, span)| key == name && &text[span.clone()] != "null") {
            return Err(format!("'{name}' is missing"));
        }
    }
    let (mut kept, mut changed) = (Vec::with_capacity(all.len()), false);
    for (key, span) in &all {
        let value = &text[span.clone()];
        let Some((name, _, shape)) = fields.iter().find(|(name, ..)| name == key) else {
            kept.push((key, Cow::Borrowed(value)));
            continue;
        };
        if value == "null" {
            changed = true;
            continue;
        }
        let mended = match (of_shape(value, *shape), shape) {
            (Ok(mended), _) => mended,
            (Err(_), Shape::Loose(_)) => {
                changed = true;
                continue;
            }
            (Err(None), _) => return Err(format!("'{name}' is not what it must be")),
            (Err(Some(why)), _) => return Err(format!("'{name}': {why}")),
        };
        changed |= matches!(mended, Cow::Owned(_));
        kept.push((key, mended));
    }
    if !changed {
        return Ok(Cow::Borrowed(text));
    }
    let kept: Vec<String> = kept.iter().map(|(key, value)| format!("{}:{value}", quote(key))).collect();
    Ok(Cow::Owned(format!("{{{}}}", kept.join(","))))
}

/// A value, if it has this shape; else why not, where there is more to say.
fn of_shape(value: &str, shape: Shape) -> Result<Cow<'_, str>, Option<String>> {
    let begins = |with: &[char]| if value.starts_with(with) { Ok(Cow::Borrowed(value)) } else { Err(None) };
    match shape {
        Shape::Text => begins(&['"']),
        Shape::Number => match value.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            true => Ok(Cow::Borrowed(value)),
            false => Err(None),
        },
        Shape::Truth => begins(&['t', 'f']),
        Shape::Object => begins(&['{']),
        Shape::Loose(shape) => of_shape(value, *shape),
        Shape::Word(words) => match is_word(value, words) {
            true => Ok(Cow::Borrowed(value)),
            false => Err(None),
        },
        Shape::Words(words) => match batch(value).is_some_and(|all| all.iter().all(|one| is_word(one, words))) {
            true => Ok(Cow::Borrowed(value)),
            false => Err(None),
        },
        Shape::Share => match value.parse::<f64>().is_ok_and(|share| (0.0..=1.0).contains(&share)) {
            true => Ok(Cow::Borrowed(value)),
            false => Err(None),
        },
        Shape::Moment => match is_moment(value.trim_matches('"')) {
            true => Ok(Cow::Borrowed(value)),
            false => Err(None),
        },
        Shape::Soundest(fields) => {
            let all = batch(value).ok_or(None)?;
            let count = all.len();
            let objects = all.into_iter().filter(|one| one.starts_with('{'));
            let kept: Vec<Cow<'_, str>> = objects.filter_map(|one| section(one, fields).ok()).collect();
            let same = kept.len() == count && kept.iter().all(|one| matches!(one, Cow::Borrowed(_)));
            Ok(if same { Cow::Borrowed(value) } else { Cow::Owned(format!("[{}]", kept.join(","))) })
        }
        Shape::Schema => schema(value).map_err(|why| Some(why.to_owned())),
        Shape::Section(fields) => {
            begins(&['{'])?;
            section(value, fields).map_err(Some)
        }
        Shape::Sections(fields) => {
            let (mut changed, mut all) = (false, Vec::new());
            for one in batch(value).ok_or(None)? {
                if !one.starts_with('{') {
                    return Err(None);
                }
                let one = section(one, fields).map_err(Some)?;
                changed |= matches!(one, Cow::Owned(_));
                all.push(one);
            }
            Ok(if changed { Cow::Owned(format!("[{}]", all.join(","))) } else { Cow::Borrowed(value) })
        }
    }
}

/// A text that is one of these, or any where there are none.
fn is_word(value: &str, words: &[&str]) -> bool {
    let word = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    word.is_some_and(|word| words.is_empty() || words.contains(&word))
}

/// `2026-11-28T10:00:00Z`, with or without seconds and a fraction of them, or with an offset.
fn is_moment(text: &str) -> bool {
    let digits = |part: &str, count: usize| part.len() == count && part.bytes().all(|b| b.is_ascii_digit());
    let Some((date, time)) = text.split_once('T') else { return false };
    let date: Vec<&str> = date.split('-').collect();
    let zone = time.find(['Z', '+', '-']).map(|at| time.split_at(at));
    let Some((time, zone)) = zone else { return false };
    let offset = zone.get(1..).and_then(|zone| zone.split_once(':'));
    let zoned = zone == "Z" || offset.is_some_and(|(hours, minutes)| digits(hours, 2) && digits(minutes, 2));
    let time: Vec<&str> = time.split(':').collect();
    let second = |text: &str| {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        digits(whole, 2) && !part.is_empty() && digits(part, part.len())
    };
    let timed = match time.as_slice() {
        [hour, minute] => digits(hour, 2) && digits(minute, 2),
        [hour, minute, seconds] => digits(hour, 2) && digits(minute, 2) && second(seconds),
        _ => false,
    };
    zoned && timed && matches!(date.as_slice(), [y, m, d] if digits(y, 4) && digits(m, 2) && digits(d, 2))
}

/// The schema of an object: its type says so, its properties are objects or truths, and what it requires is a list of names.
fn schema(text: &str) -> Result<Cow<'_, str>, &'static str> {
    if !text.starts_with('{') {
        return Err("it is no object");
    }
    if member(text, "type") != Some("\"object\"") {
        return Err("its 'type' is not \"object\"");
    }
    let all = members(text);
    for (key, span) in &all {
        let value = &text[span.clone()];
        match key.as_ref() {
            _ if value == "null" => {}
            "properties" => {
                let sound = |(_, span): &(Cow<'_, str>, std::ops::Range<usize>)| {
                    value[span.clone()].starts_with(['{', 't', 'f'])
                };
                if !value.starts_with('{') || !members(value).iter().all(sound) {
                    return Err("its 'properties' are no schemas");
                }
            }
            "required" if !batch(value).is_some_and(|names| names.iter().all(|name| name.starts_with('"'))) => {
                return Err("what it requires is no list of names");
            }
            _ => {}
        }
    }
    // Other members of a schema may be null: `default`, say.
    let void = |key: &str, value: &str| value == "null" && matches!(key, "properties" | "required");
    let mut changed = false;
    let mut kept = Vec::with_capacity(all.len());
    for (key, span) in &all {
        let value = &text[span.clone()];
        if void(key, value) {
            changed = true;
            continue;
        }
        let value = match key.as_ref() {
            "properties" => in_objects(value),
            _ => Cow::Borrowed(value),
        };
        changed |= matches!(value, Cow::Owned(_));
        kept.push(format!("{}:{value}", quote(key)));
    }
    if !changed {
        return Ok(Cow::Borrowed(text));
    }
    Ok(Cow::Owned(format!("{{{}}}", kept.join(","))))
}

/// Schemas that are `true` or `false` as the objects that mean the same: clients know no others there.
fn in_objects(properties: &str) -> Cow<'_, str> {
    let all = members(properties);
    let as_object = |value: &str| match value {
        "true" => Some("{}"),
        "false" => Some("{\"not\":{}}"),
        _ => None,
    };
    if !all.iter().any(|(_, span)| as_object(&properties[span.clone()]).is_some()) {
        return Cow::Borrowed(properties);
    }
    let each = |(key, span): &(Cow<'_, str>, std::ops::Range<usize>)| {
        let value = &properties[span.clone()];
        format!("{}:{}", quote(key), as_object(value).unwrap_or(value))
    };
    Cow::Owned(format!("{{{}}}", all.iter().map(each).collect::<Vec<_>>().join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_null_is_dropped_and_what_is_wrong_is_named() {
        let good = r#"{"name":"t","inputSchema":{"type":"object","properties":{"a":{}}},"x":null}"#;
        assert!(matches!(sound(List::Tools, good), Ok(Cow::Borrowed(_))), "nothing is copied");
        for moment in ["2026-11-28T10:00:00Z", "2026-11-28T10:00Z", "2026-11-28T10:00:00.123+01:00"] {
            assert!(is_moment(moment), "{moment}");
        }
        for none in
            ["2026-11-28", "2026-11-28T10:00:00", "26-11-28T10:00:00Z", "2026-11-28T10:00:00.Z", "T", "yesterday"]
        {
            assert!(!is_moment(none), "{none}");
        }
        for (list, text, mended) in [
            (
                List::Tools,
                r#"{"name":"t","description":null,"inputSchema":{"type":"object"}}"#,
                r#"{"name":"t","inputSchema":{"type":"object"}}"#,
            ),
            (
                List::Tools,
                r#"{"name":"t","annotations":{"title":null,"readOnlyHint":true},"outputSchema":null,"inputSchema":{"type":"object","properties":null,"default":null}}"#,
                r#"{"name":"t","annotations":{"readOnlyHint":true},"inputSchema":{"type":"object","default":null}}"#,
            ),
            (
                List::Prompts,
                r#"{"name":"p","arguments":[{"name":"a","description":null},{"name":"b"}]}"#,
                r#"{"name":"p","arguments":[{"name":"a"},{"name":"b"}]}"#,
            ),
            (List::Resources, r#"{"uri":"u","name":"n","size":null}"#, r#"{"uri":"u","name":"n"}"#),
            // What is shown beside an item, and is wrong, is not worth the item.
            (
                List::Tools,
                r#"{"name":"t","execution":{"taskSupport":"maybe"},"icons":[null,{},{"src":"x","mimeType":null,"sizes":"48x48","theme":"blue"}],"inputSchema":{"type":"object","properties":{"a":true,"b":false,"c":{}}}}"#,
                r#"{"name":"t","execution":{},"icons":[{"src":"x"}],"inputSchema":{"type":"object","properties":{"a":{},"b":{"not":{}},"c":{}}}}"#,
            ),
            (
                List::Tools,
                r#"{"name":"t","execution":"x","inputSchema":{"type":"object"}}"#,
                r#"{"name":"t","inputSchema":{"type":"object"}}"#,
            ),
            (
                List::Resources,
                r#"{"uri":"u","name":"n","annotations":{"audience":["bot"],"priority":5,"lastModified":"yesterday"}}"#,
                r#"{"uri":"u","name":"n","annotations":{}}"#,
            ),
            (
                List::Templates,
                r#"{"uriTemplate":"u","name":"n","annotations":{"priority":-1}}"#,
                r#"{"uriTemplate":"u","name":"n","annotations":{}}"#,
            ),
            (List::Templates, r#"{"uriTemplate":"u","name":"n","mimeType":null}"#, r#"{"uriTemplate":"u","name":"n"}"#),
        ] {
            assert_eq!(sound(list, text).unwrap(), mended, "{text}");
        }
        for (list, text, why) in [
            (List::Tools, r#"{"name":"t"}"#, "'inputSchema' is missing"),
            (List::Tools, r#"{"name":"t","inputSchema":null}"#, "'inputSchema' is missing"),
            (List::Tools, r#"{"name":"t","inputSchema":{}}"#, "'inputSchema': its 'type' is not \"object\""),
            (List::Tools, r#"{"name":"t","inputSchema":"x"}"#, "'inputSchema': it is no object"),
            (
                List::Tools,
                r#"{"name":"t","inputSchema":{"type":"object","properties":{"a":7}}}"#,
                "'inputSchema': its 'properties' are no schemas",
            ),
            (
                List::Tools,
                r#"{"name":"t","inputSchema":{"type":"object","required":"a"}}"#,
                "'inputSchema': what it requires is no list of names",
            ),
            (
                List::Tools,
                r#"{"name":"t","description":7,"inputSchema":{"type":"object"}}"#,
                "'description' is not what it must be",
            ),
            (List::Prompts, r#"{"name":"p","arguments":[{}]}"#, "'arguments': 'name' is missing"),
            (List::Prompts, r#"{"name":"p","arguments":{}}"#, "'arguments' is not what it must be"),
            (List::Resources, r#"{"uri":"u"}"#, "'name' is missing"),
            (List::Templates, r#"{"uriTemplate":"u","name":null}"#, "'name' is missing"),
        ] {
            assert_eq!(sound(list, text).unwrap_err(), why, "{text}");
        }
    }
}
