//! How ganesh reaches Dragonfly or Redis.

use std::time::Duration;

use super::CacheConfig;
use super::reader::Reader;
use super::secret::SecretUrl;
use crate::tls::TlsFiles;

impl CacheConfig {
    /// A cache without TLS.
    pub fn plain(url: SecretUrl, ttl: Duration) -> Self {
        Self {
            url,
            tls: TlsFiles::default(),
            ttl,
        }
    }

    pub(super) fn read(r: &mut Reader) -> Self {
        let schemes = &["redis", "rediss"];
        let url = r.server_url::<redis::ConnectionInfo>("REDIS_URL", schemes, &["protocol"]);
        let tls = r.tls_files("REDIS_CA", "REDIS_CERT", "REDIS_KEY");
        if !url.expose().starts_with("rediss:") {
            for (env, is_set) in [
                ("REDIS_CA", tls.ca.is_some()),
                ("REDIS_CERT", tls.identity.is_some()),
            ] {
                if is_set {
                    r.refuse(env, "expected a REDIS_URL that begins with rediss://");
                }
            }
        }
        Self {
            url,
            tls,
            ttl: Duration::from_secs(r.integer("GANESH_CACHE_TTL_SECS", 1, 30 * 86_400)),
        }
    }
}
