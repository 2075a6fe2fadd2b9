//! The bytes of every message. A line that changes here is a protocol that two versions no longer share: it needs a new major version or a
//! capability (PROTOCOL.md, "Frames"), never a new line in place of the old one.

mod control;
mod join;
mod peer;

use proto::frame::{self, Bounded};
use proto::{Digest, HostId, Platform, Reference};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bodies up to this length stand in the lists byte for byte; of longer ones length and digest.
const WHOLE_BYTES: usize = 96;

/// The lines of one conversation.
#[derive(Default)]
struct Golden(Vec<String>);

impl Golden {
    /// Encodes, decodes back, and notes the bytes.
    fn message<T: Serialize + DeserializeOwned + Bounded + PartialEq>(&mut self, name: &str, message: &T) {
        let body = frame::encode_body(message);
        assert!(frame::decode::<T>(&body).is_ok_and(|decoded| decoded == *message), "{name} is another one when it is decoded");
        let bytes = match body.len() {
            0..=WHOLE_BYTES => body.iter().map(|byte| format!("{byte:02x}")).collect(),
            length => format!("{length} bytes, {}", Digest::of(&body).short()),
        };
        self.0.push(format!("{name} {bytes}"));
    }

    /// The same for every variant of an enum, in the messages that `wrap` puts them into. A variant that is missing here is an error.
    fn variants<E, T>(&mut self, name: &str, samples: Vec<E>, wrap: impl Fn(E) -> T)
    where
        E: Serialize + DeserializeOwned,
        T: Serialize + DeserializeOwned + Bounded + PartialEq,
    {
        let names: Vec<String> = samples.iter().map(variant).collect();
        for variant in all_variants::<E>() {
            assert!(names.contains(&variant), "{name}::{variant} has no golden bytes");
        }
        for (sample, variant) in samples.into_iter().zip(names) {
            self.message(&format!("{name}::{variant}"), &wrap(sample));
        }
    }

    fn compare(self, expected: &str) {
        let is = self.0.join("\n");
        let differs = |(is, expected): &(&str, &str)| is != expected;
        if let Some((is, expected)) = is.lines().zip(expected.lines()).find(differs) {
            panic!("bytes have changed:\n  is  {is}\n  was {expected}");
        }
        assert_eq!(self.0.len(), expected.lines().count(), "messages have come or gone:\n{is}");
    }
}

/// Name of the variant, as serde knows it.
fn variant<E: Serialize>(sample: &E) -> String {
    match serde_json::to_value(sample).unwrap() {
        serde_json::Value::String(name) => name,
        serde_json::Value::Object(fields) => fields.keys().next().unwrap().clone(),
        other => panic!("{other} is no variant"),
    }
}

/// Names of all variants: serde lists them when it is given one that there is not.
fn all_variants<E: DeserializeOwned>() -> Vec<String> {
    let Err(error) = serde_json::from_str::<E>("\"?\"") else { panic!("there is no such variant") };
    let text = error.to_string();
    let (_, expected) = text.split_once("expected ").unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn id(name: &str) -> HostId {
    HostId::of_public_key(name.as_bytes())
}

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn reference() -> Reference {
    "demo:nautilus".parse().unwrap()
}

fn platform() -> Platform {
    "linux/arm/v7".parse().unwrap()
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[test]
fn variants_are_found_by_themselves() {
    assert_eq!(all_variants::<proto::peer::Encoding>(), ["Raw"]);
    assert_eq!(all_variants::<proto::join::JoinAnswer>(), ["Accepted", "Refused"]);
    assert!(all_variants::<proto::control::Event>().len() > 20);
}
