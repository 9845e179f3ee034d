//! Layouts of every shape, by property.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(not(loom))]

use proptest::prelude::*;
use snowflake_core::{Field, FieldError, Fields, Layout, LayoutError, TimeError};

/// Any layout: fields in any order, each there or not, of any width that fits, with
/// unused bits between, and any tick length and epoch.
fn any_layout() -> impl Strategy<Value = Layout> {
    let fields = Just(vec!["timestamp", "datacenter", "worker", "sequence", "unused"]);
    let widths = proptest::collection::vec(1u32..=31, 5);
    let tick = prop_oneof![
        Just("1ms".to_owned()),
        Just("10ms".to_owned()),
        (1u32..5000).prop_map(|us| format!("{us}us")),
        (1u32..=3600).prop_map(|s| format!("{s}s"))
    ];
    (
        fields.prop_shuffle(),
        widths,
        1usize..=5,
        tick,
        -4_000_000_000_000_000i64..4_000_000_000_000_000,
    )
        .prop_filter_map("no timestamp", |(fields, widths, count, tick, epoch)| {
            let mut left = 63;
            let mut items = Vec::new();
            for (name, width) in fields.iter().zip(widths).take(count) {
                let width = width.min(left);
                left -= width;
                match (*name, width) {
                    (_, 0) => {}
                    ("timestamp", _) => items.push(format!("timestamp:{width}@{tick}")),
                    (name, _) => items.push(format!("{name}:{width}")),
                }
            }
            Layout::parse(&items.join(","), Some(epoch)).ok()
        })
}

/// A layout with fields that fit into it.
fn layout_and_fields() -> impl Strategy<Value = (Layout, Fields)> {
    any_layout().prop_flat_map(with_fields)
}

/// The same, of layouts whose ids sort by time.
fn generating_layout_and_fields() -> impl Strategy<Value = (Layout, Fields)> {
    any_layout()
        .prop_filter("does not generate", |layout| layout.check_generates().is_ok())
        .prop_flat_map(with_fields)
}

fn with_fields(layout: Layout) -> impl Strategy<Value = (Layout, Fields)> {
    any::<[u64; 4]>().prop_map(move |random| {
        let value = |field, random: u64| {
            (layout.bits(field) > 0).then(|| (random & layout.max(field)) as u32)
        };
        let fields = Fields {
            tick: random[0] & layout.max(Field::Timestamp),
            datacenter: value(Field::Datacenter, random[1]),
            worker: value(Field::Worker, random[2]),
            sequence: value(Field::Sequence, random[3]),
        };
        (layout, fields)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        max_local_rejects: 1_000_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_spelling_is_read_back(layout in any_layout()) {
        prop_assert_eq!(Layout::parse(&layout.to_string(), Some(layout.epoch())), Ok(layout));
    }

    #[test]
    fn fields_survive_packing((layout, fields) in layout_and_fields()) {
        let id = layout.pack(&fields).unwrap();
        prop_assert!(id >= 0);
        prop_assert_eq!(layout.unpack(id), Ok(fields));
    }

    #[test]
    fn any_number_is_an_id_or_refused(layout in any_layout(), id: i64) {
        match layout.unpack(id) {
            Ok(fields) => prop_assert_eq!(layout.pack(&fields), Ok(id)),
            Err(error) => prop_assert_eq!(error, FieldError::NotOfLayout(id)),
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused(
        (layout, fields) in layout_and_fields(), which in 0usize..4, above in 1u32..1000,
    ) {
        let field = Field::ALL[which];
        let max = layout.max(field);
        let value = max.saturating_add(u64::from(above));
        let mut bad = fields;
        if field == Field::Timestamp {
            bad.tick = value;
        } else {
            let Ok(value) = u32::try_from(value) else { return Ok(()) };
            match field {
                Field::Datacenter => bad.datacenter = Some(value),
                Field::Worker => bad.worker = Some(value),
                _ => bad.sequence = Some(value),
            }
        }
        let error = if layout.bits(field) == 0 {
            FieldError::NoSuchField(field)
        } else {
            FieldError::TooLarge { field, value, max }
        };
        prop_assert_eq!(layout.pack(&bad), Err(error));
    }

    #[test]
    fn a_missing_value_is_refused((layout, fields) in layout_and_fields()) {
        for (field, gone) in [
            (Field::Datacenter, Fields { datacenter: None, ..fields }),
            (Field::Worker, Fields { worker: None, ..fields }),
            (Field::Sequence, Fields { sequence: None, ..fields }),
        ] {
            if layout.bits(field) > 0 {
                prop_assert_eq!(layout.pack(&gone), Err(FieldError::Missing(field)));
            }
        }
    }

    #[test]
    fn a_tick_holds_its_times(layout in any_layout(), time: i64) {
        match layout.tick_at(time) {
            Ok(tick) => {
                let begins = layout.time_of(tick).unwrap();
                prop_assert!(begins <= time);
                prop_assert!(time.abs_diff(begins) < layout.tick_length());
            }
            Err(TimeError::BeforeEpoch) => prop_assert!(time < layout.epoch()),
            Err(TimeError::AfterEnd) => prop_assert!(layout.ends_at().is_some_and(|end| time >= end)),
        }
    }

    #[test]
    fn a_search_bound_splits_by_time(
        (layout, fields) in generating_layout_and_fields(), near in -5000i64..5000, far: i64,
    ) {
        let id = layout.pack(&fields).unwrap();
        let Some(time) = layout.time_of(fields.tick) else { return Ok(()) };
        for bound in [time.saturating_add(near), far, i64::MIN, i64::MAX] {
            let before = id < layout.lower_bound(bound);
            prop_assert_eq!(before, time < bound && id != i64::MAX);
        }
    }

    #[test]
    fn least_and_greatest_of_a_tick((layout, fields) in generating_layout_and_fields()) {
        let id = layout.pack(&fields).unwrap();
        let (min, max) = (layout.min_id(fields.tick).unwrap(), layout.max_id(fields.tick).unwrap());
        prop_assert!((min..=max).contains(&id));
        prop_assert_eq!(layout.unpack(min).unwrap().tick, fields.tick);
        prop_assert_eq!(layout.unpack(max).unwrap().tick, fields.tick);
    }

    #[test]
    fn any_text_is_a_layout_or_refused(text in "\\PC{0,40}") {
        if let Ok(layout) = Layout::parse(&text, None) {
            prop_assert_eq!(Layout::parse(&layout.to_string(), Some(layout.epoch())), Ok(layout));
        }
    }

    #[test]
    fn near_layouts_are_layouts_or_refused(text in "(timestamp|worker|sequence|unused|datacenter)?:?[0-9]{0,3}@?[0-9]{0,4}(us|ms|s)?,(timestamp|worker|sequence|unused):[0-9]{1,3}") {
        if let Ok(layout) = Layout::parse(&text, None) {
            prop_assert!(Field::ALL.iter().map(|&field| layout.bits(field)).sum::<u32>() <= 63);
        }
    }
}

#[test]
fn nonsense_is_refused_by_name() {
    let error = |text: &str| Layout::parse(text, None).unwrap_err();
    let bad_width = |field: &str, bits: &str, max| LayoutError::BadWidth {
        field: field.to_owned(),
        bits: bits.to_owned(),
        max,
    };
    assert_eq!(error(""), LayoutError::BadItem(String::new()));
    assert_eq!(error("nonsense"), LayoutError::BadItem("nonsense".to_owned()));
    assert_eq!(error("timestamp:41,"), LayoutError::BadItem(String::new()));
    assert_eq!(error("timestamp:41,node:10"), LayoutError::UnknownField("node".to_owned()));
    assert_eq!(error("timestamp:1,sequence:62"), bad_width("sequence", "62", 31));
    assert_eq!(error("timestamp:41,worker:0"), bad_width("worker", "0", 31));
    assert_eq!(error("timestamp:+41"), bad_width("timestamp", "+41", 63));
    assert_eq!(error("timestamp:-1"), bad_width("timestamp", "-1", 63));
    assert_eq!(
        error("timestamp:99999999999999999999"),
        bad_width("timestamp", "99999999999999999999", 63)
    );
    assert_eq!(error("timestamp:41,unused:64"), bad_width("unused", "64", 63));
    assert_eq!(error("worker:10,sequence:12"), LayoutError::NoTimestamp);
    assert_eq!(
        error("timestamp:41,worker:10,worker:5"),
        LayoutError::DuplicateField(Field::Worker)
    );
    assert_eq!(error("timestamp:41,worker:12,sequence:12"), LayoutError::TooWide(65));
    assert_eq!(error("timestamp:41@0ms"), LayoutError::BadTick("0ms".to_owned()));
    assert_eq!(error("timestamp:41@3601s"), LayoutError::BadTick("3601s".to_owned()));
    assert_eq!(error("timestamp:41@10"), LayoutError::BadTick("10".to_owned()));
    assert_eq!(error("timestamp:41@1h"), LayoutError::BadTick("1h".to_owned()));
    assert_eq!(error("timestamp:41@ms"), LayoutError::BadTick("ms".to_owned()));
    assert_eq!(
        error("timestamp:41,sequence:12@1ms"),
        LayoutError::TickOnOtherField("sequence".to_owned())
    );
}

#[test]
fn only_a_layout_with_its_timestamp_first_generates() {
    let check = |text| Layout::parse(text, None).unwrap().check_generates();
    assert_eq!(check("timestamp:41,sequence:12,worker:10"), Ok(()));
    assert_eq!(check("unused:3,timestamp:41,worker:10"), Ok(()));
    assert_eq!(check("worker:10,timestamp:41,sequence:12"), Err(LayoutError::TimestampNotFirst));
}

#[test]
fn spaces_and_capitals_are_allowed_and_a_tick_is_spelled_shortest() {
    let layout = Layout::parse(" timestamp : 39 @ 10000 us , Sequence:8,WORKER:16 ", None).unwrap();
    assert_eq!(layout.to_string(), "timestamp:39@10ms,sequence:8,worker:16");
}
