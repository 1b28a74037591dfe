//! Nothing that a producer can send makes the codec panic, and what it decodes it writes so that it
//! reads back as the same event.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../round_trip.rs"]
mod round_trip;

fuzz_target!(|input: &[u8]| {
    let _ = round_trip::round_trip(input);
});
