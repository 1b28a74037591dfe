//! Commands to the cache server itself.

use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;

use super::servers::Server;

/// Runs one command, such as `["FLUSHALL"]`.
pub async fn ask<T: FromRedisValue>(server: &Server, command: &[&str]) -> T {
    let mut connection = connect(server).await;
    let mut request = redis::cmd(command[0]);
    request.arg(&command[1..]);
    request.query_async(&mut connection).await.unwrap()
}

/// A connection of the test's own.
pub async fn connect(server: &Server) -> MultiplexedConnection {
    let url = format!("redis://127.0.0.1:{}", server.port());
    let client = redis::Client::open(url).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// The keys that hold something of this subject.
pub async fn keys_of(server: &Server, subject: &str) -> Vec<String> {
    ask(server, &["KEYS", &format!("*:latest:{subject}")]).await
}
