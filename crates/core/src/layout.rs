//! Layouts: which fields an id has, in which order and how wide.
//!
//! A layout is spelled as its fields from the most significant to the least,
//! `timestamp:41,worker:10,sequence:12`. The timestamp may carry the tick length,
//! `timestamp:39@10ms` (unit `us`, `ms` or `s`; 1 ms if it is left out). `unused:N`
//! leaves N bits zero. At most 63 bits, so that an id is never a negative
//! `bigint`. The least significant field ends at bit 0.
//!
//! One code path packs and unpacks all layouts; the presets are data.

use crate::error::{FieldError, LayoutError, TimeError};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Widest id: bit 63 is the sign of a `bigint`.
pub const MAX_BITS: u32 = 63;
/// Widest field other than the timestamp: its values are read as `integer`.
pub const MAX_FIELD_BITS: u32 = 31;
/// Longest tick, in microseconds: one hour.
pub const MAX_TICK: u64 = 3_600_000_000;
/// 2025-01-01 00:00:00 UTC in microseconds since the Unix epoch: tick 0 of every
/// layout that does not bring an epoch of its own.
pub const DEFAULT_EPOCH: i64 = 1_735_689_600_000_000;

/// A field of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Whole ticks since the epoch.
    Timestamp,
    /// The upper part of the node's number, where a layout splits it.
    Datacenter,
    /// The node's number, or its lower part.
    Worker,
    /// Counts inside one tick.
    Sequence,
}

impl Field {
    /// All fields.
    pub const ALL: [Self; 4] = [Self::Timestamp, Self::Datacenter, Self::Worker, Self::Sequence];

    /// The field's name in the spelling of a layout.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timestamp => "timestamp",
            Self::Datacenter => "datacenter",
            Self::Worker => "worker",
            Self::Sequence => "sequence",
        }
    }

    const fn max_bits(self) -> u32 {
        match self {
            Self::Timestamp => MAX_BITS,
            _ => MAX_FIELD_BITS,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an id says. A field that the layout does not have is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fields {
    /// Whole ticks since the layout's epoch.
    pub tick: u64,
    /// Datacenter id.
    pub datacenter: Option<u32>,
    /// Worker id.
    pub worker: Option<u32>,
    /// Sequence inside the tick.
    pub sequence: Option<u32>,
}

/// Where a field stands in an id. Width 0: the layout does not have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    shift: u32,
    bits: u32,
}

impl Place {
    /// The greatest value of the field.
    #[inline]
    const fn max(self) -> u64 {
        // A width is at most 63, so this cannot overflow.
        (1 << self.bits) - 1
    }

    #[inline]
    const fn put(self, value: u64) -> u64 {
        value << self.shift
    }

    #[inline]
    const fn get(self, id: u64) -> u64 {
        (id >> self.shift) & self.max()
    }

    /// The value of a field that is at most 31 bits wide; `None` where there is none.
    fn get_narrow(self, id: u64) -> Option<u32> {
        (self.bits > 0).then(|| self.get(id) as u32)
    }
}

/// Division by a number that is known only at run time, without the divide
/// instruction: clock readings become ticks on the hot path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Divisor {
    divisor: u64,
    /// ⌊(2⁶⁴ − 1) / divisor⌋. The quotient estimated with it is exact or one too
    /// small: the error is below dividend / 2⁶⁴, which is below 1.
    reciprocal: u64,
}

impl Divisor {
    const fn new(divisor: u64) -> Self {
        Self { divisor, reciprocal: u64::MAX / divisor }
    }

    #[inline]
    const fn divide(self, dividend: u64) -> u64 {
        let estimate = ((dividend as u128 * self.reciprocal as u128) >> 64) as u64;
        let rest = dividend - estimate * self.divisor;
        estimate + (rest >= self.divisor) as u64
    }
}

/// A layout with its epoch and tick length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    timestamp: Place,
    datacenter: Place,
    worker: Place,
    sequence: Place,
    /// Bits of all fields with the unused ones: the spelling needs it.
    total_bits: u32,
    tick: Divisor,
    epoch: i64,
}

impl Layout {
    /// Reads a preset's name or a spelled-out layout, in small letters or capitals.
    ///
    /// `epoch` is the moment of tick 0 in microseconds since the Unix epoch;
    /// without it, the preset's own, or [`DEFAULT_EPOCH`] for a spelled-out layout.
    pub fn parse(text: &str, epoch: Option<i64>) -> Result<Self, LayoutError> {
        let text = text.trim().to_ascii_lowercase();
        let preset = PRESETS.iter().find(|preset| preset.name == text);
        let (spelling, own_epoch) =
            preset.map_or((text.as_str(), DEFAULT_EPOCH), |preset| (preset.spelling, preset.epoch));
        Self::spelled(spelling, epoch.unwrap_or(own_epoch))
    }

    fn spelled(text: &str, epoch: i64) -> Result<Self, LayoutError> {
        let mut layout = Self {
            timestamp: Place::default(),
            datacenter: Place::default(),
            worker: Place::default(),
            sequence: Place::default(),
            total_bits: 0,
            tick: Divisor::new(1000),
            epoch,
        };
        // From the least significant: a field begins where those before it end.
        for item in text.rsplit(',').map(str::trim) {
            let bad_item = || LayoutError::BadItem(item.to_owned());
            let (name, width) = item.split_once(':').ok_or_else(bad_item)?;
            let (name, width) = (name.trim(), width.trim());
            let (width, tick) = match width.split_once('@') {
                Some((width, tick)) => (width.trim_end(), Some(tick.trim_start())),
                None => (width, None),
            };
            let field = Field::ALL.into_iter().find(|field| field.name() == name);
            if field.is_none() && name != "unused" {
                return Err(LayoutError::UnknownField(name.to_owned()));
            }
            if let Some(tick) = tick {
                if field != Some(Field::Timestamp) {
                    return Err(LayoutError::TickOnOtherField(name.to_owned()));
                }
                layout.tick = Divisor::new(parse_tick(tick)?);
            }
            let max = field.map_or(MAX_BITS, Field::max_bits);
            let bits = parse_digits(width)
                .and_then(|bits| u32::try_from(bits).ok())
                .filter(|bits| (1..=max).contains(bits))
                .ok_or_else(|| LayoutError::BadWidth {
                    field: name.to_owned(),
                    bits: width.to_owned(),
                    max,
                })?;
            if let Some(field) = field {
                let shift = layout.total_bits;
                let place = layout.place_mut(field);
                if place.bits > 0 {
                    return Err(LayoutError::DuplicateField(field));
                }
                // A shift of 63 and more is refused below, as is the whole layout.
                *place = Place { shift, bits };
            }
            layout.total_bits += bits;
        }
        if layout.timestamp.bits == 0 {
            return Err(LayoutError::NoTimestamp);
        }
        if layout.total_bits > MAX_BITS {
            return Err(LayoutError::TooWide(layout.total_bits));
        }
        Ok(layout)
    }

    /// Whether ids of this layout sort by time, which a layout needs to generate:
    /// its timestamp is the most significant field.
    pub fn check_generates(&self) -> Result<(), LayoutError> {
        let others = [self.datacenter, self.worker, self.sequence];
        if others.iter().any(|other| other.bits > 0 && other.shift > self.timestamp.shift) {
            return Err(LayoutError::TimestampNotFirst);
        }
        Ok(())
    }

    /// The preset that this layout is, if it is one, epoch included.
    pub fn preset(&self) -> Option<&'static Preset> {
        PRESETS.iter().find(|preset| preset.layout().as_ref() == Ok(self))
    }

    /// The moment of tick 0, in microseconds since the Unix epoch.
    pub const fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The tick's length in microseconds.
    pub const fn tick_length(&self) -> u64 {
        self.tick.divisor
    }

    /// A field's width in bits, 0 where the layout does not have it.
    pub const fn bits(&self, field: Field) -> u32 {
        self.place(field).bits
    }

    /// A field's greatest value, 0 where the layout does not have it.
    pub const fn max(&self, field: Field) -> u64 {
        self.place(field).max()
    }

    const fn place(&self, field: Field) -> Place {
        match field {
            Field::Timestamp => self.timestamp,
            Field::Datacenter => self.datacenter,
            Field::Worker => self.worker,
            Field::Sequence => self.sequence,
        }
    }

    fn place_mut(&mut self, field: Field) -> &mut Place {
        match field {
            Field::Timestamp => &mut self.timestamp,
            Field::Datacenter => &mut self.datacenter,
            Field::Worker => &mut self.worker,
            Field::Sequence => &mut self.sequence,
        }
    }

    // Packing and unpacking

    #[inline]
    const fn assemble(&self, tick: u64, datacenter: u64, worker: u64, sequence: u64) -> i64 {
        (self.timestamp.put(tick)
            | self.datacenter.put(datacenter)
            | self.worker.put(worker)
            | self.sequence.put(sequence)) as i64
    }

    /// The id with these fields. Every field of the layout must be given, no other,
    /// and each must fit.
    pub fn pack(&self, fields: &Fields) -> Result<i64, FieldError> {
        let tick = self.fit(Field::Timestamp, fields.tick)?;
        let datacenter = self.fit_optional(Field::Datacenter, fields.datacenter)?;
        let worker = self.fit_optional(Field::Worker, fields.worker)?;
        let sequence = self.fit_optional(Field::Sequence, fields.sequence)?;
        Ok(self.assemble(tick, datacenter, worker, sequence))
    }

    fn fit(&self, field: Field, value: u64) -> Result<u64, FieldError> {
        let max = self.max(field);
        if value > max { Err(FieldError::TooLarge { field, value, max }) } else { Ok(value) }
    }

    fn fit_optional(&self, field: Field, value: Option<u32>) -> Result<u64, FieldError> {
        match (self.bits(field) > 0, value) {
            (true, Some(value)) => self.fit(field, u64::from(value)),
            (true, None) => Err(FieldError::Missing(field)),
            (false, Some(_)) => Err(FieldError::NoSuchField(field)),
            (false, None) => Ok(0),
        }
    }

    /// The fields of an id. A number that this layout cannot have made, because
    /// it is negative or has a bit set that the layout leaves zero, is an error:
    /// reading it would be a guess.
    #[inline]
    pub fn unpack(&self, id: i64) -> Result<Fields, FieldError> {
        let named = self.assemble(
            self.timestamp.max(),
            self.datacenter.max(),
            self.worker.max(),
            self.sequence.max(),
        );
        if id & !named != 0 {
            return Err(FieldError::NotOfLayout(id));
        }
        let id = id as u64;
        Ok(Fields {
            tick: self.timestamp.get(id),
            datacenter: self.datacenter.get_narrow(id),
            worker: self.worker.get_narrow(id),
            sequence: self.sequence.get_narrow(id),
        })
    }

    /// The least id of a tick. The tick must fit.
    pub fn min_id(&self, tick: u64) -> Result<i64, FieldError> {
        Ok(self.assemble(self.fit(Field::Timestamp, tick)?, 0, 0, 0))
    }

    /// The greatest id of a tick. The tick must fit.
    pub fn max_id(&self, tick: u64) -> Result<i64, FieldError> {
        let tick = self.fit(Field::Timestamp, tick)?;
        Ok(self.assemble(tick, self.datacenter.max(), self.worker.max(), self.sequence.max()))
    }

    // Times

    /// The tick that a moment falls in, the moment in microseconds since the Unix epoch.
    pub fn tick_at(&self, time: i64) -> Result<u64, TimeError> {
        // The difference of two i64 fits into u64 once its sign is known.
        if time < self.epoch {
            return Err(TimeError::BeforeEpoch);
        }
        let tick = self.tick.divide(time.abs_diff(self.epoch));
        if tick > self.timestamp.max() { Err(TimeError::AfterEnd) } else { Ok(tick) }
    }

    /// When a tick begins, in microseconds since the Unix epoch; `None` beyond
    /// the range of `i64` (the year 294,247).
    pub fn time_of(&self, tick: u64) -> Option<i64> {
        self.epoch.checked_add_unsigned(tick.checked_mul(self.tick.divisor)?)
    }

    /// The least id whose time is at or after a moment: ids from `a` up to but not
    /// including `b` are those not below `lower_bound(a)` and below `lower_bound(b)`.
    /// Defined for every moment, so that a search may begin before the epoch. Behind
    /// the layout's end it is above every id, or `i64::MAX` where that is an id: the
    /// last slot of the last tick, which the allocator never issues.
    pub fn lower_bound(&self, time: i64) -> i64 {
        if time <= self.epoch {
            return 0;
        }
        // The tick after the one in which the last microsecond before the moment lies.
        let tick = self.tick.divide(time.abs_diff(self.epoch) - 1) + 1;
        let bound = self.timestamp.put(tick.min(self.timestamp.max() + 1));
        i64::try_from(bound).unwrap_or(i64::MAX)
    }

    /// The first moment after the last tick, in microseconds since the Unix
    /// epoch; `None` beyond the range of `i64`.
    pub fn ends_at(&self) -> Option<i64> {
        self.time_of(self.timestamp.max().checked_add(1)?)
    }

    // Nodes and slots, for the allocator

    /// The node's number: datacenter and worker id as one.
    pub fn node(&self, datacenter: Option<u32>, worker: Option<u32>) -> Result<u64, FieldError> {
        let datacenter = self.fit_optional(Field::Datacenter, datacenter)?;
        let worker = self.fit_optional(Field::Worker, worker)?;
        Ok(datacenter << self.worker.bits | worker)
    }

    /// The part of a node's number that a field holds; `None` where there is no such field.
    pub const fn number_in(&self, field: Field, node: u64) -> Option<u64> {
        match field {
            Field::Datacenter if self.datacenter.bits > 0 => Some(node >> self.worker.bits),
            Field::Worker if self.worker.bits > 0 => Some(node & self.worker.max()),
            _ => None,
        }
    }

    /// Bits below the time field of a layout that generates.
    pub(crate) const fn bits_below_time(&self) -> u32 {
        self.timestamp.shift
    }

    /// Bits of a slot: tick and sequence.
    #[inline]
    pub(crate) const fn slot_bits(&self) -> u32 {
        self.timestamp.bits + self.sequence.bits
    }

    /// The first slot of a tick.
    #[inline]
    pub const fn first_slot(&self, tick: u64) -> u64 {
        tick << self.sequence.bits
    }

    /// The tick of a slot.
    #[inline]
    pub const fn tick_of_slot(&self, slot: u64) -> u64 {
        slot >> self.sequence.bits
    }

    /// The slot of an id.
    pub fn slot_of(&self, id: i64) -> Result<u64, FieldError> {
        let fields = self.unpack(id)?;
        Ok(self.first_slot(fields.tick) | u64::from(fields.sequence.unwrap_or(0)))
    }

    /// The greatest number that a slot has room for. It serves as the mask of the
    /// slot in a word and as the greatest exclusive end, so the last slot of the
    /// last tick is never issued: else the end would need one more bit.
    #[inline]
    pub(crate) const fn last_slot(&self) -> u64 {
        (1 << self.slot_bits()) - 1
    }

    /// Ticks in so many microseconds since the epoch, rounded down.
    #[inline]
    pub(crate) const fn ticks(&self, micros: u64) -> u64 {
        self.tick.divide(micros)
    }

    /// The id of a node's slot.
    #[inline]
    pub const fn id(&self, node: u64, slot: u64) -> i64 {
        self.assemble(
            self.tick_of_slot(slot),
            node >> self.worker.bits,
            node & self.worker.max(),
            slot & self.sequence.max(),
        )
    }

    /// The id of a slot, given with the node's number above it.
    #[inline]
    pub(crate) const fn id_of_word(&self, word: u64) -> i64 {
        self.id(word >> self.slot_bits(), word & self.last_slot())
    }

    /// What a sequence adds to an id that has sequence 0.
    #[inline]
    pub(crate) const fn sequence_in_id(&self, sequence: u64) -> i64 {
        self.sequence.put(sequence).cast_signed()
    }
}

/// The spelling: what [`Layout::parse`] reads.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut places: Vec<_> = Field::ALL
            .into_iter()
            .map(|field| (field, self.place(field)))
            .filter(|(_, place)| place.bits > 0)
            .collect();
        places.sort_by_key(|(_, place)| std::cmp::Reverse(place.shift));
        let mut items = Vec::new();
        let mut above = self.total_bits;
        for (field, place) in places {
            let end = place.shift + place.bits;
            if above > end {
                items.push(format!("unused:{}", above - end));
            }
            let tick = match (field, self.tick.divisor) {
                (Field::Timestamp, length) if length != 1000 => format!("@{}", TickLength(length)),
                _ => String::new(),
            };
            items.push(format!("{field}:{}{tick}", place.bits));
            above = place.shift;
        }
        if above > 0 {
            items.push(format!("unused:{above}"));
        }
        f.write_str(&items.join(","))
    }
}

/// A tick length in the greatest unit that divides it.
struct TickLength(u64);

impl fmt::Display for TickLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            micros if micros % 1_000_000 == 0 => write!(f, "{}s", micros / 1_000_000),
            micros if micros % 1000 == 0 => write!(f, "{}ms", micros / 1000),
            micros => write!(f, "{micros}us"),
        }
    }
}

fn parse_tick(text: &str) -> Result<u64, LayoutError> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim_start() {
        "us" => Some(1),
        "ms" => Some(1000),
        "s" => Some(1_000_000),
        _ => None,
    };
    parse_digits(digits)
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .filter(|tick| (1..=MAX_TICK).contains(tick))
        .ok_or_else(|| LayoutError::BadTick(text.to_owned()))
}

/// Digits and nothing else; `str::parse` would take a plus sign.
fn parse_digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A layout with a name.
#[derive(Debug)]
pub struct Preset {
    /// The name that settings and functions take.
    pub name: &'static str,
    /// The layout as it is spelled out.
    pub spelling: &'static str,
    /// Tick 0 in microseconds since the Unix epoch.
    pub epoch: i64,
    /// Where the system publishes both.
    pub source: &'static str,
}

impl Preset {
    /// The layout that the name stands for.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        Layout::spelled(self.spelling, self.epoch)
    }
}

/// All presets, the default first.
///
/// The systems whose ids have 64 bits never set the highest one before their
/// time field is half used up; a `bigint` cannot hold those ids, so the presets
/// leave that bit away.
pub const PRESETS: [Preset; 8] = [
    Preset {
        name: "default",
        spelling: "timestamp:41,worker:10,sequence:12",
        epoch: DEFAULT_EPOCH,
        source: "This extension: 1,024 nodes with 4,096 ids per millisecond each, until 2094.",
    },
    Preset {
        name: "twitter",
        spelling: "timestamp:41,datacenter:5,worker:5,sequence:12",
        epoch: 1_288_834_974_657_000,
        source: "github.com/twitter-archive/snowflake, IdWorker.scala.",
    },
    Preset {
        // The documentation calls the upper five bits the internal worker id and
        // the lower five the internal process id.
        name: "discord",
        spelling: "timestamp:41,worker:5,datacenter:5,sequence:12",
        epoch: 1_420_070_400_000_000,
        source: "discord.com/developers/docs/reference#snowflakes; datacenter is its internal process id.",
    },
    Preset {
        name: "instagram",
        spelling: "timestamp:40,worker:13,sequence:10",
        epoch: 1_314_220_021_721_000,
        source: "instagram-engineering.com, Sharding & IDs at Instagram; worker is its logical shard id.",
    },
    Preset {
        name: "sonyflake",
        spelling: "timestamp:39@10ms,sequence:8,worker:16",
        epoch: 1_409_529_600_000_000,
        source: "github.com/sony/sonyflake, version 1 with its default start time.",
    },
    Preset {
        name: "mastodon",
        spelling: "timestamp:47,sequence:16",
        epoch: 0,
        source: "github.com/mastodon/mastodon, lib/mastodon/snowflake.rb; sequence is a hash and a counter.",
    },
    Preset {
        name: "pgedge",
        spelling: "timestamp:41,worker:10,sequence:12",
        epoch: 1_672_531_200_000_000,
        source: "github.com/pgEdge/snowflake, version 1.2 and later (before: timestamp:41,sequence:12,worker:10).",
    },
    Preset {
        name: "js53",
        spelling: "timestamp:41,worker:5,sequence:7",
        epoch: DEFAULT_EPOCH,
        source: "This extension: below 2^53, the greatest integer that JavaScript's Number.isSafeInteger takes.",
    },
];
