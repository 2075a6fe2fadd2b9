//! Which fields of a document decide what the image is. These are read strictly: one meaning for every reader, or refused. All else is free text, and
//! whatever stands there is passed over.
//!
//! Other readers are written in Go: `encoding/json` matches a key to a field without regard to case (`foldName`), by the simple folding of Unicode, so
//! that `Layers` and even `layerſ` are `layers` there. Such keys are read here as Go reads them, and two of them for one field are refused. A map of
//! free text, such as labels, keeps its keys apart, as it does in Go. `null` is the same as absent.

use std::borrow::Cow;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What is read of a part of a document.
#[derive(Debug)]
pub enum Shape {
    /// Whatever it is, as it is.
    Kept,
    /// Elements of one shape.
    List(&'static Shape),
    /// Fields that decide, by their names as Go's tags have them; others are passed over.
    Object(&'static [(&'static str, Shape)]),
    /// Nothing: a document that has it is refused.
    Refused,
}

const DESCRIPTOR: Shape = Shape::Object(&[
    ("mediaType", Shape::Kept),
    ("digest", Shape::Kept),
    ("size", Shape::Kept),
    ("platform", Shape::Object(&[("os", Shape::Kept), ("architecture", Shape::Kept), ("variant", Shape::Kept)])),
    // Names of images; a map.
    ("annotations", Shape::Kept),
]);

/// A manifest or an index, `index.json` included.
pub const DOCUMENT: Shape = Shape::Object(&[
    ("schemaVersion", Shape::Kept),
    ("mediaType", Shape::Kept),
    ("config", DESCRIPTOR),
    ("layers", Shape::List(&DESCRIPTOR)),
    ("manifests", Shape::List(&DESCRIPTOR)),
    // Some readers would take it for a manifest of schema 1 (CVE-2021-41190).
    ("fsLayers", Shape::Refused),
]);

/// An image config. What is below `config` (labels, volumes, ports, the command) does not decide what the image is made of.
pub const CONFIG: Shape = Shape::Object(&[
    ("os", Shape::Kept),
    ("architecture", Shape::Kept),
    ("variant", Shape::Kept),
    ("rootfs", Shape::Object(&[("diff_ids", Shape::Kept)])),
]);

/// `manifest.json` of an archive.
pub const ARCHIVE: Shape = Shape::List(&Shape::Object(&[("Config", Shape::Kept), ("RepoTags", Shape::Kept), ("Layers", Shape::Kept)]));

/// `oci-layout`.
pub const LAYOUT: Shape = Shape::Object(&[("imageLayoutVersion", Shape::Kept)]);

/// Reads what decides.
pub fn read<T: DeserializeOwned>(bytes: &[u8], shape: &'static Shape) -> Result<T, String> {
    let text = lenient(bytes);
    let mut reader = serde_json::Deserializer::from_str(&text);
    let value = Shaped(shape).deserialize(&mut reader).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// As Go reads text: what is no UTF-8, and half of a surrogate pair, is U+FFFD.
fn lenient(bytes: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(bytes);
    let mut lone = vec![];
    let escaped = |at: usize| {
        let digits = text.as_bytes().get(at..at + 6).and_then(|escape| escape.strip_prefix(b"\\u"))?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = text.as_bytes()[at..].iter().position(|byte| *byte == b'\\') {
        at += found;
        match escaped(at) {
            Some(0xd800..0xdc00) if escaped(at + 6).is_some_and(|next| (0xdc00..0xe000).contains(&next)) => at += 12,
            Some(0xd800..0xe000) => {
                lone.push(at);
                at += 6;
            }
            // Whatever is escaped, a backslash perhaps, begins no escape of its own.
            _ => at = text.len().min(at + 2),
        }
    }
    if lone.is_empty() {
        return text;
    }
    let mut text = text.into_owned();
    lone.into_iter().for_each(|at| text.replace_range(at..at + 6, "\\ufffd"));
    text.into()
}

#[derive(Clone, Copy)]
struct Shaped(&'static Shape);

impl<'de> DeserializeSeed<'de> for Shaped {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0 {
            Shape::Kept | Shape::Refused => serde::Deserialize::deserialize(deserializer),
            Shape::List(_) | Shape::Object(_) => deserializer.deserialize_any(self),
        }
    }
}

/// Something that has not the shape is kept, too: whoever wants it says what is wrong with it.
impl<'de> Visitor<'de> for Shaped {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let element = if let Shape::List(element) = self.0 { element } else { &Shape::Kept };
        let mut list = vec![];
        while let Some(value) = seq.next_element_seed(Shaped(element))? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let fields = if let Shape::Object(fields) = self.0 { *fields } else { &[] };
        let (mut object, mut seen) = (Map::new(), vec![]);
        while let Some(key) = map.next_key::<String>()? {
            let Some((name, shape)) = fields.iter().find(|(name, _)| folded(name).eq(folded(&key))) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen.contains(name) {
                return Err(de::Error::custom(format_args!("the key \"{name}\" stands twice in one object")));
            }
            if matches!(shape, Shape::Refused) {
                return Err(de::Error::custom(format_args!("it has the key \"{name}\", which would make another document of it")));
            }
            seen.push(*name);
            let value = map.next_value_seed(Shaped(shape))?;
            if !value.is_null() {
                object.insert((*name).to_owned(), value);
            }
        }
        Ok(object.into())
    }
}

/// As `foldName` of Go's `encoding/json` does it, for names of ASCII: beside the two cases of a letter there are the long s and the Kelvin sign.
fn folded(name: &str) -> impl Iterator<Item = char> {
    name.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(text: &str) -> Result<Value, String> {
        read(text.as_bytes(), &DOCUMENT)
    }

    #[test]
    fn keys_are_read_as_go_reads_them() {
        let text = r#"{"SchemaVersion": 2, "layer\u017f": [{"DIGEST": "a", "siZe": 1, "urls": ["x"]}], "manifests": null, "x": {"y": 1}}"#;
        assert_eq!(document(text).unwrap(), json!({"schemaVersion": 2, "layers": [{"digest": "a", "size": 1}]}));
    }

    #[test]
    fn two_keys_for_one_field_are_refused_wherever_it_decides() {
        for text in [
            r#"{"layers": [], "layer\u017f": []}"#,
            r#"{"layers": [], "LAYERS": []}"#,
            r#"{"layers": [], "layers": null}"#,
            r#"{"config": {"digest": "a", "Digest": "b"}}"#,
            r#"{"layers": [{"size": 1, "si\u007ae": 2}]}"#,
            r#"{"manifests": [{"platform": {"os": "linux", "OS": "windows"}}]}"#,
        ] {
            assert!(document(text).unwrap_err().contains("twice"), "{text}");
        }
        let config = r#"{"rootfs": {"diff_ids": [], "diff_IDs": []}}"#;
        assert!(read::<Value>(config.as_bytes(), &CONFIG).unwrap_err().contains("twice"));
        let archive = r#"[{"Config": "a", "config": "b"}]"#;
        assert!(read::<Value>(archive.as_bytes(), &ARCHIVE).unwrap_err().contains("twice"));
    }

    #[test]
    fn a_manifest_of_schema_1_inside_is_refused() {
        for text in [r#"{"fsLayers": []}"#, r#"{"FSLAYERS": null}"#, r#"{"f\u017flayer\u017f": 1}"#] {
            assert!(document(text).unwrap_err().contains("fsLayers"), "{text}");
        }
    }

    #[test]
    fn free_text_is_free() {
        let config = r#"{"os": "linux", "config": {"Labels": {"Version": "1", "version": "2"}, "Volumes": {"/Data": {}, "/data": {}}},
            "history": [{"comment": "a", "Comment": "b"}], "rootfs": {"type": "layers", "TYPE": "x", "diff_ids": ["a"]}, "\uD83D\uDE00": 1}"#;
        assert_eq!(read::<Value>(config.as_bytes(), &CONFIG).unwrap(), json!({"os": "linux", "rootfs": {"diff_ids": ["a"]}}));
        let annotated = r#"{"manifests": [{"annotations": {"A": "1", "a": "2"}}]}"#;
        assert_eq!(document(annotated).unwrap(), json!({"manifests": [{"annotations": {"A": "1", "a": "2"}}]}));
    }

    #[test]
    fn text_is_read_as_go_reads_it() {
        for (text, read) in [
            (
                &br#"{"A\ud800": "a", "B": "x\udc00\ud83d\ude00\udead", "C": "\\ud800"}"#[..],
                json!({"A\u{fffd}": "a", "B": "x\u{fffd}\u{1f600}\u{fffd}", "C": "\\ud800"}),
            ),
            (b"{\"a\xff\": \"\xc3\"}", json!({"a\u{fffd}": "\u{fffd}"})),
            (br#"{"a": "\ud800\u0041"}"#, json!({"a": "\u{fffd}A"})),
        ] {
            assert_eq!(super::read::<Value>(text, &Shape::Kept).unwrap(), read);
        }
        for text in [&br#"{"a": "\u12"}"#[..], b"{\"a\": \"\\", br#"{"a": "\ud8"#] {
            super::read::<Value>(text, &Shape::Kept).unwrap_err();
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["", "{", "{} {}", "{\"layers\": [}", &"[".repeat(100_000)] {
            document(text).unwrap_err();
        }
    }
}
