//! What is done to the stack, when and for how long: it follows from the seed alone.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// One of the processes that ganesh runs as.
pub type Replica = usize;
/// How many there are.
pub const REPLICAS: usize = 2;
/// One of the servers of a NATS cluster; without one, the server.
pub type Member = usize;
/// How many servers a cluster has.
pub const MEMBERS: usize = 3;

/// A network connection that all replicas have through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// To NATS.
    Nats,
    /// To Postgres.
    Postgres,
    /// To the cache.
    Cache,
}

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Connections are closed, once.
    Cut,
    /// The servers' sides of connections end, once.
    HalfClosed,
    /// Nothing passes for a while, and then all of it.
    Held,
    /// What is sent is lost and nobody is told, until the connections are closed.
    Swallowed,
    /// Everything comes later.
    Slow,
}

/// What can be done to the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of a `serve`, which is started again afterwards.
    ServeKilled(Replica),
    /// SIGTERM, which has to end well within the grace period.
    ServeTerminated(Replica),
    /// SIGSTOP: longer than `GANESH_ACK_WAIT` now and then, so that its messages go to others.
    ServePaused(Replica),
    /// It may open no file, and loses its connections.
    ServeWithoutFiles(Replica),
    /// The disk of its log is full, and it has something to say.
    LogDiskFull(Replica),
    /// `kill -9` of the server.
    NatsKilled(Member),
    /// SIGTERM of the server, which says goodbye to its clients.
    NatsTerminated(Member),
    /// SIGSTOP of the server.
    NatsPaused(Member),
    /// Another server of a cluster leads the stream, or the consumer; without a cluster the server is
    /// killed.
    LeaderMoved(Member),
    /// Replicas read nothing while large messages come, until a server of NATS disconnects one.
    SlowConsumer,
    /// A message that the NATS client cannot read, or at which it panics.
    Unreadable,
    /// So many rows are refused that the writers pause.
    TooManyRefused,
    /// A crash: all its processes end at once, and it recovers at its next start.
    PostgresCrashed,
    /// SIGSTOP of all its processes.
    PostgresPaused,
    /// `pg_terminate_backend` for everybody.
    ConnectionsKilled,
    /// Somebody locks `events`.
    EventsLocked,
    /// Somebody locks a partition that no event goes into.
    PartitionLocked,
    /// A partition is not there any more, and its rows are in the default one: upkeep makes it
    /// again, and moves them, while the replica that does it is killed, and somebody deletes and changes
    /// some.
    PartitionGone(Replica),
    /// The role may not insert any more: both replicas end with 1, and start again when it may.
    PermissionRevoked,
    /// Everything is read-only, as after a failover to a standby.
    PostgresReadOnly,
    /// Its disk is full (53100).
    PostgresFull,
    /// Somebody adds a constraint that some events violate.
    ConstraintAdded,
    /// Somebody deletes and changes rows.
    OperatorAtWork,
    /// `kill -9` of the pooler.
    PoolerKilled,
    /// SIGSTOP of the pooler.
    PoolerPaused,
    /// Others have all its connections, and ganesh loses those that it had.
    ConnectionsTaken,
    /// `kill -9` of the cache: it comes back with what its last snapshot has.
    CacheKilled,
    /// SIGSTOP of the cache.
    CachePaused,
    /// Each of its answers comes 50 to 200 ms late.
    CacheLate,
    /// FLUSHALL.
    CacheFlushed,
    /// Its memory is full, and it evicts nothing.
    CacheFull,
    /// Its memory is full, and it evicts what it likes.
    CacheEvicting,
    /// It becomes a replica (of nobody who answers), as after a failover: READONLY.
    CacheReplica,
    /// Something else is under all of its keys.
    CacheForeign,
    /// The wall clocks of all replicas are set, forward or back, by a minute to an hour.
    ClocksStepped,
    /// Somebody deletes the consumer.
    ConsumerDeleted,
    /// Somebody makes streams beside ganesh's, and deletes others.
    NeighbourMovesIn,
    /// The network between the replicas and one server.
    Network(Link, Trouble),
}

const LINKS: [Link; 3] = [Link::Nats, Link::Postgres, Link::Cache];
const TROUBLES: [Trouble; 5] = [
    Trouble::Cut,
    Trouble::HalfClosed,
    Trouble::Held,
    Trouble::Swallowed,
    Trouble::Slow,
];

/// One fault.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The quiet before it.
    pub after: Duration,
    /// What happens.
    pub fault: Fault,
    /// Until it is undone.
    pub lasts: Duration,
}

/// The endless schedule of a seed.
pub fn steps(seed: u64) -> impl Iterator<Item = Step> {
    let mut random = StdRng::seed_from_u64(seed);
    std::iter::repeat_with(move || {
        let replica = random.random_range(0..REPLICAS);
        let member = random.random_range(0..MEMBERS);
        let link = LINKS[random.random_range(0..LINKS.len())];
        let trouble = TROUBLES[random.random_range(0..TROUBLES.len())];
        let network = Fault::Network(link, trouble);
        let all = [
            Fault::ServeKilled(replica),
            Fault::ServeTerminated(replica),
            Fault::ServePaused(replica),
            Fault::ServeWithoutFiles(replica),
            Fault::LogDiskFull(replica),
            Fault::NatsKilled(member),
            Fault::NatsTerminated(member),
            Fault::NatsPaused(member),
            Fault::LeaderMoved(member),
            Fault::SlowConsumer,
            Fault::Unreadable,
            Fault::TooManyRefused,
            Fault::PostgresCrashed,
            Fault::PostgresPaused,
            Fault::ConnectionsKilled,
            Fault::EventsLocked,
            Fault::PartitionLocked,
            Fault::PartitionGone(replica),
            Fault::PermissionRevoked,
            Fault::PostgresReadOnly,
            Fault::PostgresFull,
            Fault::ConnectionsTaken,
            Fault::ConstraintAdded,
            Fault::OperatorAtWork,
            // As often as two others.
            Fault::OperatorAtWork,
            Fault::PoolerKilled,
            Fault::PoolerPaused,
            Fault::CacheKilled,
            Fault::CachePaused,
            Fault::CacheLate,
            Fault::CacheFlushed,
            Fault::CacheFull,
            Fault::CacheEvicting,
            Fault::CacheReplica,
            Fault::CacheForeign,
            Fault::ClocksStepped,
            Fault::ConsumerDeleted,
            Fault::NeighbourMovesIn,
            // As often as four others.
            network,
            network,
            network,
            network,
        ];
        Step {
            after: Duration::from_millis(random.random_range(100..1_500)),
            fault: all[random.random_range(0..all.len())],
            lasts: Duration::from_millis(random.random_range(50..4_000)),
        }
    })
}
