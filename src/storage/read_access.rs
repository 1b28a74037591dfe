//! Whether the API's reads get sessions that are fit: let in, allowed to read, and of the server that the pipeline
//! writes to. A standby that was promoted and an old primary have the same identity as the database in use, and other
//! rows: a read there could be older than what was acknowledged.
//!
//! A look finds out, at start, from time to time, and when a read meets something odd. While it finds a refusal,
//! reads without a session answer with it, and it looks every second.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::classify::classify;
use super::deadline::LentConnection;
use super::identity::ServerIdentity;
use super::pool::{self, MAX_OF_READS};
use super::read_role::{ANOTHER_SERVER, ReadRole};
use super::session::{self, SessionUse};
use crate::config::PostgresConfig;
use crate::error::{Class, Code, Dependency, Error};
use crate::telemetry::Health;

/// While there is a refusal, a read without a session waits so long before it says so: a flood of refusals would
/// take the processor.
const BEFORE_REFUSAL: Duration = Duration::from_millis(100);
/// A session that takes longer to come is a reason to look.
const SLOW: Duration = Duration::from_millis(500);
/// Between two looks, at least, and while something is wrong.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks while all is well.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// One late answer under load is no refusal.
const FAILURES_OF_AN_OUTAGE: u32 = 3;

/// Cloning clones an `Arc`.
#[derive(Clone, Default)]
pub(crate) struct ReadAccess(Arc<AccessState>);

#[derive(Default)]
struct AccessState {
    refusal: watch::Sender<Option<Arc<str>>>,
    look: Notify,
    /// Where the pipeline's newest session leads.
    in_use: ArcSwapOption<ServerIdentity>,
}

impl ReadAccess {
    /// To be called for each new session of the pipeline, before it writes.
    pub(super) fn set_in_use(&self, server: ServerIdentity) {
        self.0.in_use.store(Some(Arc::new(server)));
    }

    /// Why reads get no session, if they get none.
    pub(crate) fn refusal(&self) -> Option<Arc<str>> {
        self.0.refusal.borrow().clone()
    }

    /// Has somebody look at once.
    pub(super) fn doubt(&self) {
        self.0.look.notify_one();
    }

    /// The same after a failure that a role or a server can be the reason of.
    pub(super) fn note(&self, error: &Error) {
        if error.code == Code::Setup {
            self.doubt();
        }
    }

    /// Whether a session of reads leads to the server in use.
    pub(super) fn is_of_server_in_use(&self, server: &ServerIdentity) -> bool {
        let in_use = self.0.in_use.load();
        in_use.as_deref().is_none_or(|in_use| in_use == server)
    }

    /// Refuses what a session read whose server started then, if it is not the server in use by now: the pipeline has
    /// gone over to another one. The next session may lead there, too.
    pub(super) fn check(&self, started: &str) -> Result<(), sqlx::Error> {
        let in_use = self.0.in_use.load();
        if in_use
            .as_deref()
            .is_none_or(|in_use| in_use.started == started)
        {
            return Ok(());
        }
        self.doubt();
        let reset = io::Error::new(io::ErrorKind::ConnectionReset, ANOTHER_SERVER);
        Err(sqlx::Error::Io(reset))
    }

    /// A connection for a read. With a refusal it is one that is open already.
    pub(super) async fn lend(&self, pool: &PgPool) -> Result<LentConnection, sqlx::Error> {
        let mut refusal = self.0.refusal.subscribe();
        let refused = async {
            let is_there = |why: &Option<_>| why.is_some();
            if timeout(SLOW, refusal.wait_for(is_there)).await.is_err() {
                self.doubt();
            }
            let why = refusal.wait_for(is_there).await.map(|why| why.clone());
            sleep(BEFORE_REFUSAL).await;
            let why = why.ok().flatten().unwrap_or_default();
            Err(sqlx::Error::Configuration(why.as_ref().into()))
        };
        let may_connect = self.refusal().is_none() || pool.num_idle() > 0;
        if !may_connect {
            return refused.await;
        }
        let (mut lent, mut refused) = (pin!(LentConnection::of(pool)), pin!(refused));
        tokio::select! {
            biased;
            lent = &mut lent => lent,
            refused = &mut refused => refused,
        }
    }

    /// Looks until `stop` is cancelled, and says what it finds.
    pub(crate) async fn watch(
        self,
        config: PostgresConfig,
        pool: PgPool,
        health: Health,
        stop: CancellationToken,
    ) {
        let watch = async {
            let (mut failures, mut is_doubted) = (0, false);
            loop {
                let found = self.look(&config, &pool, is_doubted).await;
                failures = if found.is_ok() { 0 } else { failures + 1 };
                let found = match found {
                    Ok(found) => Some(found),
                    Err(error) => refusal(&error, failures),
                };
                if let Some(found) = found {
                    health.set_reads_refusal(found.refusal.as_deref().or(found.warning.as_deref()));
                    is_doubted = found.warning.is_some();
                    self.0.refusal.send_replace(found.refusal.map(Arc::from));
                }
                sleep(LOOK_AGAIN).await;
                let is_well = failures == 0 && self.refusal().is_none() && !is_doubted;
                if is_well {
                    let rest = LOOK_EVERY.saturating_sub(LOOK_AGAIN);
                    is_doubted = timeout(rest, self.0.look.notified()).await.is_ok();
                }
            }
        };
        let _ = stop.run_until_cancelled(watch).await;
    }

    /// What sessions of reads find.
    async fn look(
        &self,
        config: &PostgresConfig,
        pool: &PgPool,
        is_doubted: bool,
    ) -> Result<ReadFindings, Error> {
        let look = async {
            let open = if self.is_new_one_needed(pool, is_doubted) {
                None
            } else if let Some(mut lent) = LentConnection::idle(pool) {
                let role = ReadRole::of(&mut lent.connection).await.ok();
                role.inspect(|_| lent.give_back())
            } else if pool.size() > 0 {
                // They are at work.
                return Ok(ReadFindings::default());
            } else {
                None
            };
            let role = if let Some(role) = open {
                role
            } else {
                let options = pool::options(config.url_of_reads())?;
                look_at_role(&options, &config.schema, pool.size() == 0).await?
            };
            let in_use = self.0.in_use.load_full();
            let refusal = in_use.and_then(|in_use| role.is_elsewhere(&in_use));
            Ok(ReadFindings {
                refusal: refusal.map(str::to_owned),
                warning: role.lacks(&config.schema),
            })
        };
        match timeout(LOOK_LIMIT, look).await {
            Ok(found) => found.map_err(|error| classify(&error)),
            Err(_) => Err(Error::timeout(Dependency::Postgres, "a session of reads")),
        }
    }

    /// Whether only a new session tells enough. It could be one more than the role may have: then an open one is
    /// looked at, where the pool has all that it needs.
    fn is_new_one_needed(&self, pool: &PgPool, is_doubted: bool) -> bool {
        let has_all = pool.size() >= MAX_OF_READS && pool.num_idle() > 0;
        (is_doubted || self.refusal().is_some()) && !has_all
    }
}

/// What a look finds.
#[derive(Default)]
struct ReadFindings {
    /// Why no read may go on.
    refusal: Option<String>,
    /// Why some cannot: Postgres refuses those itself.
    warning: Option<String>,
}

/// Of a look that failed so many times in a row. `None`: it may be nothing.
fn refusal(error: &Error, failures: u32) -> Option<ReadFindings> {
    let is_sure = error.class == Class::Fatal
        || error.code == Code::Resources
        || failures >= FAILURES_OF_AN_OUTAGE;
    is_sure.then(|| ReadFindings {
        refusal: Some(format!("POSTGRES_READ_URL: {}", error.detail)),
        warning: None,
    })
}

/// Opens a session outside of the pool, which would repeat what fails, and not say why. With `is_first` it takes
/// another one, too, to find out whether sessions are shared: so at most one comes beside the pool's.
///
/// # Errors
/// `Configuration` for a server or a session that breaks a promise.
pub(crate) async fn look_at_role(
    options: &PgConnectOptions,
    schema: &str,
    is_first: bool,
) -> Result<ReadRole, sqlx::Error> {
    let mut connection: PgConnection = session::open_for(SessionUse::Read, options, schema).await?;
    if is_first {
        session::refuse_shared_sessions(&mut connection, SessionUse::Read, options, schema).await?;
    }
    let role = ReadRole::of(&mut connection).await?;
    connection.close().await?;
    Ok(role)
}
