//! Every message from any bytes: refused, or itself again when encoded and decoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::frame::{self, Bounded};
use proto::{control, host, join, peer};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn decode<T: Serialize + DeserializeOwned + Bounded>(body: &[u8]) {
    let Ok(message) = frame::decode::<T>(body) else { return };
    let encoded = frame::encode_body(&message);
    let Ok(again) = frame::decode::<T>(&encoded) else { panic!("what was decoded is refused when it is encoded") };
    assert_eq!(frame::encode_body(&again), encoded);
}

fuzz_target!(|body: &[u8]| {
    decode::<control::Event>(body);
    decode::<control::Hello>(body);
    decode::<control::Request>(body);
    decode::<host::MemberList>(body);
    decode::<host::SignedMemberList>(body);
    decode::<join::JoinAnswer>(body);
    decode::<join::JoinRequest>(body);
    decode::<peer::Answer>(body);
    decode::<peer::Block>(body);
    decode::<peer::Get>(body);
    decode::<peer::Greeting>(body);
    decode::<peer::Hello>(body);
    decode::<peer::Request>(body);
});
