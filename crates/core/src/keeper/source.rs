//! Where the node's worker id comes from.

use super::verdict::State;
use super::world::Settings;
use crate::layout::{Field, Layout};
use crate::tenancy::{Asked, Held};
use crate::window::Number;

/// Where the node's number comes from.
#[derive(Clone)]
pub(super) enum Source {
    Setting(Assigned),
    Registry(Asked),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Setting(assigned) => f.debug_tuple("Setting").field(assigned).finish(),
            // The address can hold a password.
            Self::Registry(_) => f.write_str("Registry"),
        }
    }
}

/// The number that ids are to be issued with.
#[derive(Clone, Debug)]
pub(super) struct Assigned {
    pub(super) number: Number,
    /// The same as one, see [`Layout::node`].
    pub(super) node: u64,
    /// The lease of it; none where it is set by hand.
    pub(super) held: Option<Held>,
}

impl Assigned {
    pub(super) fn leased(layout: &Layout, held: Held) -> Self {
        Self { number: Number::of(layout, held.number), node: held.number, held: Some(held) }
    }

    /// No id of an earlier time, by its lease.
    pub(super) fn floor(&self) -> Option<i64> {
        self.held.as_ref().map(|held| held.floor)
    }

    /// By what the registry knows its lease.
    pub(super) fn nonce(&self) -> Option<&str> {
        self.held.as_ref().map(|held| held.nonce.as_str())
    }
}

/// Where the node's number comes from, by the settings; why there is none.
pub(super) fn source(layout: &Layout, settings: &Settings) -> Result<Source, State> {
    match (settings.worker_id, &settings.registry) {
        (Some(_), Some(_)) => return Err(State::TwoSources),
        (None, None) => return Err(State::NoWorkerId),
        _ => (),
    }
    if settings.datacenter_id.is_none() && layout.bits(Field::Datacenter) > 0 {
        return Err(State::NoDatacenterId);
    }
    // A number for a field that the layout does not have is 0, and is not part of the id.
    let part = |field, id: Option<u32>| id.filter(|_| layout.bits(field) > 0);
    let datacenter_id = part(Field::Datacenter, settings.datacenter_id);
    if let Some(registry) = &settings.registry {
        let worker_id = part(Field::Worker, Some(0));
        let base = layout.node(datacenter_id, worker_id).map_err(|_| State::NoDatacenterId)?;
        let (range, terms) = (settings.range.clone(), settings.terms);
        return Ok(Source::Registry(Asked { registry: registry.clone(), range, base, terms }));
    }
    // The settings' own checks refuse numbers that do not fit.
    let node = layout.node(datacenter_id, part(Field::Worker, settings.worker_id));
    let node = node.map_err(|_| State::NoWorkerId)?;
    Ok(Source::Setting(Assigned { number: Number::of(layout, node), node, held: None }))
}
