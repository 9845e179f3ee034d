//! What is to happen, from a seed: so that parts of it can be left out, and the rest stays as it was.

use crate::chance::Chance;

/// What kinds of things happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A clock is set by up to 20 s.
    ClockStep,
    /// A clock jumps by hours or days, and is put right.
    ClockJump,
    /// A node stands still for a while.
    Freeze,
    /// A backend dies, and PostgreSQL begins anew.
    CrashOfABackend,
    /// The server is killed, and maybe its machine is started again.
    Kill,
    /// The server is stopped in order.
    Stop,
    /// Somebody terminates the keeper.
    TerminateKeeper,
    /// A node is cut off from the registry.
    CutFromRegistry,
    /// The registry is down.
    RegistryDown,
    /// It answers slowly.
    SlowRegistry,
    /// It does what it is asked, and its answers are lost.
    LostAnswers,
    /// Its standby is cut off, and takes over.
    RegistryFailover,
    /// It is restored from a backup.
    RegistryRestored,
    /// Somebody locks the table.
    LockedTable,
    /// Commits take long, or fail.
    BadDisk,
    /// A standby hears nothing of its primary.
    CutStandby,
    /// A standby is promoted.
    Promotion,
    /// Recovery to a point in time, in place.
    Recovery,
    /// A base backup is started beside its original.
    Copy,
    /// Another version of PostgreSQL.
    Upgrade,
    /// A record of another node comes with a dump, while ids are issued.
    RestoredRows,
    /// Settings change.
    Reload,
    /// An administrator drains a node,
    Drain,
    /// and has it issue ids again;
    Resume,
    /// gives its leased worker id back;
    Exchange,
    /// accepts a clock,
    AcceptClock,
    /// or sets a floor for ids.
    Floor,
}

/// Each, with its name and how often it comes.
const FAULTS: [(Fault, &str, u64); 27] = [
    (Fault::ClockStep, "clock step", 5),
    (Fault::ClockJump, "clock jump", 2),
    (Fault::Freeze, "freeze", 3),
    (Fault::CrashOfABackend, "crash of a backend", 4),
    (Fault::Kill, "kill", 4),
    (Fault::Stop, "stop", 6),
    (Fault::TerminateKeeper, "keeper terminated", 2),
    (Fault::CutFromRegistry, "cut off from the registry", 4),
    (Fault::RegistryDown, "registry down", 2),
    (Fault::SlowRegistry, "slow registry", 3),
    (Fault::LostAnswers, "lost answers", 2),
    (Fault::RegistryFailover, "registry failover", 1),
    (Fault::RegistryRestored, "registry restored", 2),
    (Fault::LockedTable, "locked table", 2),
    (Fault::BadDisk, "bad disk", 3),
    (Fault::CutStandby, "standby cut off", 4),
    (Fault::Promotion, "promotion", 4),
    (Fault::Recovery, "recovery to a point in time", 2),
    (Fault::Copy, "copy", 1),
    (Fault::Upgrade, "upgrade", 2),
    (Fault::RestoredRows, "restored rows", 1),
    (Fault::Reload, "reload", 9),
    (Fault::Drain, "drain", 2),
    (Fault::Resume, "resume", 3),
    (Fault::Exchange, "exchange", 2),
    (Fault::AcceptClock, "accept clock", 2),
    (Fault::Floor, "floor", 4),
];

impl Fault {
    /// For people.
    pub fn name(self) -> &'static str {
        FAULTS.iter().find(|(fault, ..)| *fault == self).map_or("", |(_, name, _)| name)
    }
}

/// Something that happens at some time.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Virtual microseconds from the beginning.
    pub at: i64,
    /// What.
    pub fault: Fault,
    /// Where.
    pub place: u64,
    /// How long, how much.
    pub chance: u64,
}

/// How the cluster is.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Nodes at the beginning.
    pub nodes: u32,
    /// The layout of ids.
    pub layout: &'static str,
    /// Sessions of each server.
    pub sessions: u32,
    /// How long a session rests between its calls, on average, for a while: one of these;
    /// microseconds.
    pub pauses: &'static [u64],
    /// Numbers are leased: by none, by all, by some.
    pub leased: u64,
    /// How many numbers the registry has.
    pub range: u32,
    /// How long leases last, in seconds.
    pub lease: u64,
    /// What docs/GUARANTEES.md admits.
    pub admitted: Option<Admitted>,
}

/// What docs/GUARANTEES.md says that no node can keep: only on request, and the judge then finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Two running nodes with one number that was set by hand.
    Twins,
    /// A registry that forgets while nodes cannot reach it.
    Forgetting,
    /// A promoted standby whose clock is further behind than the guard.
    SlowStandby,
}

/// One history.
#[derive(Clone, Debug)]
pub struct Plan {
    /// From which all follows.
    pub seed: u64,
    /// Where it happens.
    pub world: World,
    /// What happens.
    pub events: Vec<Event>,
    /// How long it lasts: virtual microseconds, the end without faults aside.
    pub length: i64,
}

/// How long nothing more happens at the end, in microseconds: as long as a lease that nobody gave back
/// may last, and as clocks that were ahead have to be waited for.
pub const QUIET: i64 = 170_000_000;

impl Plan {
    /// The history of a seed.
    pub fn new(seed: u64, nodes: Option<u32>, length: i64, admitted: Option<Admitted>) -> Self {
        let mut chance = Chance::part(seed, 0);
        let world = World {
            nodes: nodes.unwrap_or(3 + chance.below(3) as u32),
            layout: chance.pick(&[
                "timestamp:41,worker:10,sequence:12",
                "timestamp:38@10ms,worker:8,sequence:6",
                "timestamp:36@50ms,worker:8,sequence:4",
                "timestamp:36@50ms,sequence:4,worker:8",
                "timestamp:35@200ms,worker:7,sequence:8",
            ]),
            sessions: 1 + chance.below(2) as u32,
            pauses: &[30_000, 100_000, 300_000, 1_000_000, 1_500_000, 7_000_000],
            leased: match (admitted, chance.below(3)) {
                (Some(Admitted::Twins), _) => 0,
                (Some(Admitted::Forgetting), _) => 1,
                (_, leased) => leased,
            },
            // Where there are few, they are soon leased again.
            range: chance.pick(&[24, 24, 12]),
            lease: 60,
            admitted,
        };
        let faults = (length - QUIET).max(0);
        let weights: u64 = FAULTS.iter().map(|(.., weight)| weight).sum();
        // Some histories are wilder than others.
        let pause = chance.pick(&[2_000_000, 6_000_000, 15_000_000]);
        let (mut at, mut place, mut events) = (2_000_000, chance.next(), Vec::new());
        while at < faults {
            let mut ticket = chance.below(weights);
            let fault = FAULTS.iter().find(|(.., weight)| {
                let found = ticket < *weight;
                ticket = ticket.saturating_sub(*weight);
                found
            });
            if let Some((fault, ..)) = fault {
                events.push(Event { at, fault: *fault, place, chance: chance.next() });
            }
            // Some come on the heels of others, and to the same node.
            let is_next = chance.one_in(4);
            let pause = if is_next { chance.pick(&[50_000, 50_000, 1_000_000]) } else { pause };
            if !is_next || chance.one_in(4) {
                place = chance.next();
            }
            at += chance.between(0, 2 * pause);
        }
        Self { seed, world, events, length }
    }
}
