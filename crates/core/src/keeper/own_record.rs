//! What this node's record says, as far as the keeper knows, and what it is to say.

use crate::tenancy::KeptLease;
use crate::window::{Identity, Record};

/// This node's row, and what is to be written into it.
#[derive(Debug, Default)]
pub(super) struct OwnRecord {
    /// The greatest mark that was written, or tried to be; by an earlier keeper, too.
    pub(super) written: u64,
    /// Whether it says what was issued: there is a row with a mark.
    pub(super) has_mark: bool,
    /// What it says of a lease, and of which number.
    lease: Option<(u64, KeptLease)>,
    /// Whether it says so of the present timeline: else the lease may have been another's since.
    is_present: bool,
    /// There is a row, and it is of an earlier timeline.
    pub(super) is_stale: bool,
    /// What it is to say of the lease.
    pub(super) kept: Option<KeptLease>,
    /// Whether it says that the node is drained.
    pub(super) drained: bool,
    /// The last attempt to read or write failed, and is made again whether anybody asks or not: until
    /// then, there is nothing good to say of the node.
    pub(super) failed: bool,
}

impl OwnRecord {
    /// What the node has recorded of itself.
    pub(super) fn recall(records: &[Record], identity: &Identity<'_>) -> Self {
        let Identity { layout, timeline, .. } = *identity;
        let own = records.iter().find(|record| identity.is_own(record));
        let kept = own.and_then(|record| record.lease.clone());
        let number = own.filter(|record| record.has_mark() && record.is_of(layout));
        let number = number.and_then(|record| record.number.node(layout));
        Self {
            written: own.and_then(|record| record.slot(layout)).unwrap_or(0),
            has_mark: own.is_some_and(Record::has_mark),
            lease: number.zip(kept.clone()),
            is_present: own.is_some_and(|record| record.timeline == timeline),
            is_stale: own.is_some_and(|record| record.timeline != timeline),
            kept,
            drained: own.is_some_and(|record| record.drained),
            failed: false,
        }
    }

    /// By which nonce the record says it of a number.
    fn nonce_of(&self, number: u64) -> Option<&str> {
        let lease = self.lease.as_ref().filter(|(of, _)| *of == number);
        lease.map(|(_, lease)| lease.nonce.as_str())
    }

    /// The lease on this node's own disk: of which number, and until when.
    pub(super) fn lease(&self) -> Option<(u64, &KeptLease)> {
        self.lease.as_ref().filter(|_| self.is_present).map(|(number, lease)| (*number, lease))
    }

    /// A record has been written.
    pub(super) fn wrote(&mut self, number: u64, mark: u64, lease: Option<KeptLease>) {
        self.has_mark |= mark > 0;
        self.lease = lease.map(|lease| (number, lease));
        self.is_present = true;
        self.is_stale = false;
    }

    /// What it says of the lease.
    pub(super) fn recorded(&self) -> Option<KeptLease> {
        self.lease.as_ref().map(|(_, lease)| lease.clone())
    }

    /// Until when a number is leased, by what it says.
    pub(super) fn lease_end(&self, number: u64) -> Option<i64> {
        let lease = self.lease.as_ref().filter(|(of, _)| *of == number);
        lease.map(|(_, lease)| lease.until)
    }

    /// An attempt to write came to nothing, or to what nobody knows.
    pub(super) fn unknown(&mut self) {
        self.lease = None;
    }

    /// Its lease has been changed, and nothing else.
    pub(super) fn amended(&mut self, lease: Option<KeptLease>) {
        let number = self.lease.take().map(|(number, _)| number);
        self.lease = number.zip(lease);
    }

    /// Whether the record says of a number that it is leased by a nonce; or, without one, that there is
    /// no lease.
    pub(super) fn says(&self, number: u64, nonce: Option<&str>) -> bool {
        match nonce {
            Some(_) => self.nonce_of(number) == nonce,
            None => self.lease.is_none(),
        }
    }
}
