//! The corpus of the fuzz target, and the target's own code with it: neither is run otherwise without a
//! nightly compiler.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/round_trip.rs"]
mod round_trip;

#[test]
fn every_event_of_the_corpus_reads_back_as_it_was() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decode");
    let mut events = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let event = round_trip::round_trip(&fs::read(&path).unwrap());
        let name = path.file_name().unwrap().to_str().unwrap();
        // What a run of the fuzzer found is named by its hash, and may be anything.
        if name.len() < 40 {
            assert_eq!(event.is_none(), name == "damaged", "{name}: {event:?}");
        }
        events += usize::from(event.is_some());
    }
    assert!(events >= 5, "{events}");
}
