//! What has been said already, so that the log does not repeat it.

use super::verdict::{State, Verdict};
use super::world::{Notice, Shown, World};
use crate::tenancy::{Terms, Trouble};
use crate::window::{Conflict, Number};

#[derive(Debug, Default)]
pub(super) struct Said {
    verdict: Option<(Verdict, Option<Number>)>,
    /// Why a changed number has to wait.
    put_off: Option<State>,
    /// Why the settings are not used.
    unusable: Option<State>,
    /// The node that has this node's number.
    conflict: String,
    /// Whether the clock stood ahead of where it is trusted.
    jumped: bool,
    /// Whether the lease was said not to be renewed.
    unrenewed: bool,
}

impl Said {
    /// Shows a verdict, and logs it if it is a new one.
    pub(super) fn verdict(
        &mut self,
        world: &mut impl World,
        verdict: &Verdict,
        number: Option<Number>,
    ) {
        world.show(Shown::Verdict(verdict));
        let is_same = self.verdict.as_ref().is_some_and(|(said, of)| {
            // How far a clock is off changes with each look.
            (said.state, &said.text, *of) == (verdict.state, &verdict.text, number)
        });
        if is_same {
            return;
        }
        self.verdict = Some((verdict.clone(), number));
        match verdict.state {
            State::Ready => world.log(Notice::Ready(number.unwrap_or_default())),
            _ => world.log(Notice::Stopped(verdict)),
        }
    }

    /// Says, once, why a changed number is not used yet.
    pub(super) fn put_off(&mut self, world: &mut impl World, verdict: &Verdict) {
        if self.put_off.replace(verdict.state) != Some(verdict.state) {
            world.log(Notice::NewWorkerIdWaits(verdict));
        }
    }

    pub(super) const fn forget_put_off(&mut self) {
        self.put_off = None;
    }

    /// Says, once, why the settings are not used.
    pub(super) fn unusable(&mut self, world: &mut impl World, verdict: &Verdict) {
        if self.unusable.replace(verdict.state) != Some(verdict.state) {
            world.log(Notice::SettingsNotUsed(verdict));
        }
    }

    pub(super) const fn forget_unusable(&mut self) {
        self.unusable = None;
    }

    /// Says whose record has this node's number, once.
    pub(super) fn conflict(&mut self, world: &mut impl World, conflict: Option<Conflict<'_>>) {
        let name = conflict.map(|conflict| conflict.record.node.to_string()).unwrap_or_default();
        world.show(Shown::Conflict(&name));
        if self.conflict == name {
            return;
        }
        self.conflict = name;
        if let Some(conflict) = conflict {
            world.log(Notice::WorkerIdInUse(conflict));
        }
    }

    /// Says, once, that the lease by which ids flow is not renewed, where that lasts: it is the only
    /// notice before they stop. And that it is renewed again.
    pub(super) fn lease(
        &mut self,
        world: &mut impl World,
        trouble: Option<&Trouble>,
        until: i64,
        (now, terms): (i64, Terms),
    ) {
        let Some(trouble) = trouble else {
            if std::mem::take(&mut self.unrenewed) {
                world.log(Notice::LeaseRenewed);
            }
            return;
        };
        let lasts = u128::from(now.saturating_sub(trouble.since).max(0).unsigned_abs());
        if !self.unrenewed && lasts >= terms.presence().as_micros() {
            self.unrenewed = true;
            world.log(Notice::LeaseNotRenewed { trouble, until });
        }
    }

    /// Whether the clock has begun to stand ahead.
    pub(super) const fn is_new_jump(&mut self, by: u64) -> bool {
        let before = std::mem::replace(&mut self.jumped, by != 0);
        by != 0 && !before
    }
}
