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
    Array,
    /// A JSON schema of an object.
    Schema,
    /// A section with members of its own that may be null.
    Section(&'static [Field]),
    /// A list of such sections.
    Sections(&'static [Field]),
}

/// A member: its name, whether it must be there, and what it has to be.
type Field = (&'static str, bool, Shape);

const COMMON: [Field; 4] = [
    ("title", false, Shape::Text),
    ("description", false, Shape::Text),
    ("icons", false, Shape::Array),
    ("_meta", false, Shape::Object),
];
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
    ("execution", false, Shape::Object),
];
const ARGUMENT: &[Field] = &[
    ("name", true, Shape::Text),
    ("title", false, Shape::Text),
    ("description", false, Shape::Text),
    ("required", false, Shape::Truth),
];
const PROMPT: &[Field] = &[("name", true, Shape::Text), ("arguments", false, Shape::Sections(ARGUMENT))];
const AUDIENCE: &[Field] =
    &[("audience", false, Shape::Array), ("priority", false, Shape::Number), ("lastModified", false, Shape::Text)];
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
        let mended = of_shape(value, *shape).map_err(|why| match why {
            None => format!("'{name}' is not what it must be"),
            Some(why) => format!("'{name}': {why}"),
        })?;
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
        Shape::Array => begins(&['[']),
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
        match key.as_str() {
            _ if value == "null" => {}
            "properties" => {
                let sound =
                    |(_, span): &(String, std::ops::Range<usize>)| value[span.clone()].starts_with(['{', 't', 'f']);
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
    if !all.iter().any(|(key, span)| void(key, &text[span.clone()])) {
        return Ok(Cow::Borrowed(text));
    }
    let kept = all.iter().filter(|(key, span)| !void(key, &text[span.clone()]));
    let kept: Vec<String> = kept.map(|(key, span)| format!("{}:{}", quote(key), &text[span.clone()])).collect();
    Ok(Cow::Owned(format!("{{{}}}", kept.join(","))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_null_is_dropped_and_what_is_wrong_is_named() {
        let good = r#"{"name":"t","inputSchema":{"type":"object","properties":{"a":{}}},"x":null}"#;
        assert!(matches!(sound(List::Tools, good), Ok(Cow::Borrowed(_))), "nothing is copied");
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
