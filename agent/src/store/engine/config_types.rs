//! Types of the fields of an image config, as Podman reads them for Docker's form of it. It takes an image whose config has others, and from then on lists no
//! image at all: such a config must not reach it. What the OCI form knows too it refuses by itself.

use proto::text::escape_short;
use serde_json::Value;

enum Type {
    Text,
    Flag,
    Whole,
    List(&'static Type),
    Map(&'static Type),
    Object(&'static [(&'static str, Type)]),
    /// Whatever it is.
    Free,
}

use Type::{Flag, Free, List, Map, Object, Text, Whole};

/// `container.Config` of Docker.
const CONTAINER: Type = Object(&[
    ("Hostname", Text),
    ("Domainname", Text),
    ("User", Text),
    ("AttachStdin", Flag),
    ("AttachStdout", Flag),
    ("AttachStderr", Flag),
    ("ExposedPorts", Map(&Free)),
    ("Tty", Flag),
    ("OpenStdin", Flag),
    ("StdinOnce", Flag),
    ("Env", List(&Text)),
    ("Cmd", List(&Text)),
    (
        "Healthcheck",
        Object(&[
            ("Test", List(&Text)),
            ("Interval", Whole),
            ("Timeout", Whole),
            ("StartPeriod", Whole),
            ("StartInterval", Whole),
            ("Retries", Whole),
        ]),
    ),
    ("ArgsEscaped", Flag),
    ("Image", Text),
    ("Volumes", Map(&Free)),
    ("WorkingDir", Text),
    ("Entrypoint", List(&Text)),
    ("NetworkDisabled", Flag),
    ("MacAddress", Text),
    ("OnBuild", List(&Text)),
    ("Labels", Map(&Text)),
    ("StopSignal", Text),
    ("StopTimeout", Whole),
]);

/// `V1Image` and what schema 2 adds to it.
const CONFIG: Type = Object(&[
    ("id", Text),
    ("parent", Text),
    ("comment", Text),
    ("created", Text),
    ("container", Text),
    ("container_config", Object(&[])),
    ("docker_version", Text),
    ("author", Text),
    ("config", CONTAINER),
    ("architecture", Text),
    ("variant", Text),
    ("os", Text),
    ("Size", Whole),
]);

/// Says which field has another type.
pub(super) fn check(config: &[u8]) -> Result<(), String> {
    match serde_json::from_slice(config) {
        Ok(config) => fits(&config, &CONFIG, ""),
        // What is no JSON was refused before; what only this reader cannot read (half of a surrogate pair) is for the engine to judge.
        Err(_) => Ok(()),
    }
}

fn fits(value: &Value, expected: &Type, at: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{} in its config is {}, not {what}", escape_short(at, 80), kind(value)));
    match (expected, value) {
        // As for Go, null is nothing.
        (_, Value::Null) | (Free, _) | (Text, Value::String(_)) | (Flag, Value::Bool(_)) => Ok(()),
        (Text, _) => wrong("a text"),
        (Flag, _) => wrong("true or false"),
        (Whole, value) if value.is_i64() => Ok(()),
        (Whole, _) => wrong("a whole number"),
        (List(element), Value::Array(list)) => list.iter().try_for_each(|value| fits(value, element, at)),
        (List(_), _) => wrong("a list"),
        (Map(element), Value::Object(map)) => map.values().try_for_each(|value| fits(value, element, at)),
        (Object(fields), Value::Object(map)) => map.iter().try_for_each(|(key, value)| {
            let field = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
            let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            field.map_or(Ok(()), |(_, expected)| fits(value, expected, &at))
        }),
        (Map(_) | Object(_), _) => wrong("an object"),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_another_type_is_named() {
        for (config, named) in [
            (r#"{"docker_version": 1.12}"#, "docker_version in its config is a fraction, not a text"),
            (r#"{"Size": "12"}"#, "Size in its config is a text, not a whole number"),
            (
                r#"{"config": {"Healthcheck": {"Interval": "30s"}}}"#,
                "config.Healthcheck.Interval in its config is a text, not a whole number",
            ),
            (r#"{"config": {"tty": "x"}}"#, "config.tty in its config is a text, not true or false"),
            (r#"{"config": {"OnBuild": "x"}}"#, "config.OnBuild in its config is a text, not a list"),
            (r#"{"config": {"Labels": {"a": 1}}}"#, "config.Labels in its config is a number, not a text"),
            (r#"{"container_config": "x"}"#, "container_config in its config is a text, not an object"),
        ] {
            assert_eq!(check(config.as_bytes()).as_ref().map_err(String::as_str), Err(named), "{config}");
        }
        for config in [
            r#"{"docker_version": null, "Size": 12, "config": {"Env": null, "Shell": "x", "Memory": "1g", "Labels": {"a": null, "A": "b"}}}"#,
            r#"{"config": null, "container_config": {"Cmd": "x"}, "history": 7}"#,
            "{",
        ] {
            assert_eq!(check(config.as_bytes()), Ok(()), "{config}");
        }
    }
}
