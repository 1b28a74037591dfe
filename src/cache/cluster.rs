//! Cluster mode, which ganesh does not support: one script writes the states of a whole batch, and a
//! cluster takes the keys of one slot only.

use std::time::Duration;

use redis::aio::MultiplexedConnection;

use super::failure::{cache_error, within};
use crate::error::{Code, Error};

/// What an operator is told.
pub(crate) const NOT_SUPPORTED: &str = "the server of REDIS_URL is in cluster mode, which ganesh does not \
     support: name one without (cluster-enabled no)";

const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Of two slots. Nothing reads or writes them.
const KEYS: [&str; 2] = ["ganesh:a", "ganesh:b"];

/// # Errors
/// When the server is in cluster mode, or does not answer.
pub(super) async fn refuse(connection: &mut MultiplexedConnection) -> Result<(), Error> {
    let asked = async { Ok(is_cluster(connection).await) };
    match within(ANSWER_LIMIT, "EVAL", asked).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(cache_error(Code::Setup, NOT_SUPPORTED)),
        Err(late) => Err(late.error),
    }
}

/// Returns whether the server refuses a script with keys of two slots, as every cluster does, whatever it
/// says of itself.
pub(crate) async fn is_cluster(connection: &mut MultiplexedConnection) -> bool {
    let mut script = redis::cmd("EVAL");
    script.arg("return 1").arg(KEYS.len()).arg(&KEYS);
    let answer: Result<i64, _> = script.query_async(connection).await;
    answer.is_err_and(|error| {
        let codes = ["CROSSSLOT", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN"];
        error.code().is_some_and(|code| codes.contains(&code))
    })
}
