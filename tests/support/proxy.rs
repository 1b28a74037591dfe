//! A TCP proxy between ganesh and a server, that can hold back, swallow and cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often a direction that is held back looks whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What it does to the bytes of both directions.
#[derive(Default)]
struct Faults {
    holds_answers: AtomicBool,
    swallows_requests: AtomicBool,
}

/// A proxy on a port of its own. Ends with the test.
pub struct Proxy {
    port: u16,
    faults: Arc<Faults>,
    cuts: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of a server on this machine.
    pub async fn before(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(Faults::default());
        let (cuts, _) = watch::channel(0);
        let (of_both, cut) = (faults.clone(), cuts.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await else {
                    continue;
                };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let faults = of_both.clone();
                let mut cut = cut.subscribe();
                tokio::spawn(async move {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let swallows =
                        |faults: &Faults| faults.swallows_requests.load(Ordering::SeqCst);
                    let holds = |faults: &Faults| faults.holds_answers.load(Ordering::SeqCst);
                    tokio::select! {
                        _ = cut.changed() => {}
                        () = pump(from_client, to_server, &faults, |_| false, swallows) => {}
                        () = pump(from_server, to_client, &faults, holds, |_| false) => {}
                    }
                });
            }
        });
        Self {
            port,
            faults,
            cuts,
            accepting,
        }
    }

    /// Where NATS clients connect to.
    pub fn nats_url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Whether what the server sends is held back for now.
    pub fn hold_answers(&self, hold: bool) {
        self.faults.holds_answers.store(hold, Ordering::SeqCst);
    }

    /// Whether what the client sends disappears.
    pub fn swallow_requests(&self, swallow: bool) {
        self.faults
            .swallows_requests
            .store(swallow, Ordering::SeqCst);
    }

    /// Closes every connection.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    faults: &Faults,
    holds: impl Fn(&Faults) -> bool,
    swallows: impl Fn(&Faults) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        while holds(faults) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if !swallows(faults) && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
