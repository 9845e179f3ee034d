//! Ids that other systems published decode to what they published, field for field.
//! The tests of the SQL functions read the same file.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(not(loom))]

use serde::Deserialize;
use snowflake_core::{Fields, Layout};

#[derive(Deserialize)]
struct Vector {
    layout: String,
    /// Microseconds since the Unix epoch; the preset's own where it is left out.
    epoch: Option<i64>,
    id: i64,
    time_ms: i64,
    datacenter: Option<u32>,
    worker: Option<u32>,
    sequence: u32,
    source: String,
}

#[test]
fn published_ids_decode_to_published_values() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("vectors.json")).unwrap();
    assert_eq!(vectors.len(), 15);
    for vector in vectors {
        let layout = Layout::parse(&vector.layout, vector.epoch).unwrap();
        let fields = Fields {
            tick: layout.tick_at(vector.time_ms * 1000).unwrap(),
            datacenter: vector.datacenter,
            worker: vector.worker,
            sequence: Some(vector.sequence),
        };
        assert_eq!(layout.unpack(vector.id), Ok(fields), "{}", vector.source);
        assert_eq!(layout.time_of(fields.tick), Some(vector.time_ms * 1000), "{}", vector.source);
        assert_eq!(layout.pack(&fields), Ok(vector.id), "{}", vector.source);
    }
}

#[test]
fn every_preset_is_a_layout_that_generates() {
    for preset in &snowflake_core::layout::PRESETS {
        let layout = preset.layout().unwrap();
        assert_eq!(layout.check_generates(), Ok(()), "{}", preset.name);
        assert_eq!(layout.to_string(), preset.spelling);
        assert_eq!(layout.preset().map(|found| found.name), Some(preset.name));
    }
}
