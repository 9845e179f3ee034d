//! What a registry says of one number.

use crate::words::Words;
use serde::{Deserialize, Serialize};

/// Who may use a number, and for ids of which time. As JSON it is the value in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The version of this format: [`Record::FORMAT`].
    pub format: u32,
    /// Which node's.
    pub node: String,
    /// Where the node is, for people.
    pub host: String,
    /// What tells this holder from all others, and from its own earlier runs.
    pub nonce: String,
    /// How far the holder has come.
    pub state: State,
    /// The time of the holder's first id is not below this: microseconds since the Unix epoch.
    pub floor: i64,
    /// The time of the holder's last id is below this: microseconds since the Unix epoch.
    pub until: i64,
    /// The layout of the ids, spelled out: the same for all that share a registry.
    pub layout: String,
    /// Its epoch, in microseconds since the Unix epoch.
    pub epoch: i64,
    /// When the record was written, by the holder's clock: microseconds since the Unix epoch.
    pub updated_at: i64,
}

/// How far the holder of a number has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits for others to object, and generates no ids.
    Claimed,
    /// It generates ids.
    Held,
    /// It makes no more.
    Released,
}

impl Record {
    /// The only version that there is.
    pub const FORMAT: u32 = 1;

    /// The value in the registry.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The same, as it may be shown.
    pub(crate) fn shown(&self) -> Self {
        let shown = |text: &str| Words::of(text).to_string();
        Self { node: shown(&self.node), host: shown(&self.host), ..self.clone() }
    }

    /// Reads a value; else what is wrong with it.
    pub(crate) fn from_json(value: &str) -> Result<Self, String> {
        let record: Self = serde_json::from_str(value).map_err(|error| error.to_string())?;
        if record.format != Self::FORMAT {
            return Err(format!("format {} instead of {}", record.format, Self::FORMAT));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What 0.1.0 has written into registries is read, and written in the same form: nodes of
    /// several versions share a registry while they are upgraded one after the other.
    #[test]
    fn records_are_those_of_version_0_1_0() {
        let written = r#"{"format":1,"node":"7300000000000000001-00000000000000aa","host":"db7","nonce":"0123456789abcdef","state":"held","floor":1735689600000000,"until":1735693200000000,"layout":"timestamp:41,worker:10,sequence:12","epoch":1735689600000000,"updated_at":1735689601000000}"#;
        let record = Record::from_json(written).expect("a record of 0.1.0");
        assert_eq!(record.until - record.floor, 3_600_000_000);
        assert_eq!(record.to_json(), written);
        for (state, name) in
            [(State::Claimed, "claimed"), (State::Held, "held"), (State::Released, "released")]
        {
            let json = Record { state, ..record.clone() }.to_json();
            assert!(json.contains(&format!(r#""state":"{name}""#)));
            assert_eq!(Record::from_json(&json).map(|read| read.state), Ok(state));
        }
    }
}
