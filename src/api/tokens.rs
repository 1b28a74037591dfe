//! The tokens that the API asks for, read again when their file changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use subtle::{Choice, ConstantTimeEq};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::{ApiTokens, Secret, parse_tokens};

/// How often the file is looked at. A mounted secret is a link that moves: its text tells, not its time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Cloning clones an `Arc`.
#[derive(Clone)]
pub(super) struct TokensInForce(Arc<ArcSwap<Vec<Secret>>>);

impl TokensInForce {
    pub(super) fn new(tokens: Vec<Secret>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(tokens)))
    }

    /// Whether requests need one.
    pub(super) fn are_asked_for(&self) -> bool {
        !self.0.load().is_empty()
    }

    /// Whether this is one of them. Takes the same time for each, whichever it is.
    pub(super) fn admit(&self, given: &[u8]) -> bool {
        let tokens = self.0.load();
        let matches = tokens
            .iter()
            .map(|token| given.ct_eq(token.expose().as_bytes()));
        matches
            .fold(Choice::from(0), |one, other| one | other)
            .into()
    }
}

/// Looks at the file of the tokens, if there is one, until `stop` is cancelled. A file that has none, or
/// cannot be read, changes nothing: it must neither open the API nor close it.
pub(super) async fn watch(tokens: ApiTokens, in_force: TokensInForce, stop: CancellationToken) {
    let Some(file) = tokens.file else {
        return;
    };
    let mut last = Some(tokens.tokens);
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let found = read(&file).await;
        if found == last {
            continue;
        }
        if let Some(tokens) = &found {
            in_force.0.store(Arc::new(tokens.clone()));
            tracing::info!(
                tokens = tokens.len(),
                "the tokens of the API were read again"
            );
        } else {
            tracing::warn!(
                "GANESH_API_TOKEN_FILE: expected at least one token, one a line; the previous tokens stay valid"
            );
        }
        last = found;
    }
}

async fn read(file: &PathBuf) -> Option<Vec<Secret>> {
    parse_tokens(&tokio::fs::read_to_string(file).await.ok()?)
}
