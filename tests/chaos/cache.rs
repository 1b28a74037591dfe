//! What happens to the cache.

use std::time::Duration;

use super::schedule::Fault;
use crate::support::cache_server;
use crate::support::servers::Server;

/// Does it, and undoes it.
pub async fn strike(cache: &mut Server, fault: Fault, lasts: Duration) {
    match fault {
        Fault::CacheKilled => {
            cache.kill();
            tokio::time::sleep(lasts).await;
            cache.run();
        }
        Fault::CachePaused => {
            cache.pause();
            tokio::time::sleep(lasts).await;
            cache.resume();
        }
        Fault::CacheFlushed => tell(cache, &["FLUSHALL"]).await,
        Fault::CacheFull => {
            tell(cache, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
            tell(cache, &["CONFIG", "SET", "maxmemory", "1"]).await;
            tokio::time::sleep(lasts).await;
            tell(cache, &["CONFIG", "SET", "maxmemory", "0"]).await;
        }
        Fault::CacheEvicting => {
            tell(
                cache,
                &["CONFIG", "SET", "maxmemory-policy", "allkeys-random"],
            )
            .await;
            tell(cache, &["CONFIG", "SET", "maxmemory", "2mb"]).await;
            tokio::time::sleep(lasts).await;
            tell(cache, &["CONFIG", "SET", "maxmemory", "0"]).await;
        }
        Fault::CacheReplica => {
            // The discard port of a machine that has no such service.
            tell(cache, &["REPLICAOF", "127.0.0.1", "9"]).await;
            tokio::time::sleep(lasts).await;
            tell(cache, &["REPLICAOF", "NO", "ONE"]).await;
        }
        Fault::CacheForeign => {
            let replace = "for _, key in ipairs(redis.call('KEYS', '*')) do \
                    redis.call('DEL', key) redis.call('LPUSH', key, 'foreign') end return 'OK'";
            tell(cache, &["EVAL", replace, "0"]).await;
        }
        other => unreachable!("{other:?} is not about the cache"),
    }
}

async fn tell(cache: &Server, command: &[&str]) {
    let _: String = cache_server::ask(cache, command).await;
}
