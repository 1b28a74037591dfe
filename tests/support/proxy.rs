//! A TCP proxy that stands for the network: it delays, holds, swallows, cuts and half-closes
//! on demand, and remembers what passed in which order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::deliveries::Deliveries;

const CHUNK_BYTES: usize = 64 * 1024;

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    ToServer,
    /// And back.
    ToClient,
}

/// What the network does to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// They arrive.
    Pass,
    /// Each chunk arrives so much later.
    Delay(Duration),
    /// They wait until the manner changes, as behind a router that is down for a while.
    Hold,
    /// They go nowhere, and nobody is told: cut the connection before it passes again.
    Swallow,
}

#[derive(Debug, Clone, Copy)]
struct Orders {
    to_server: Manner,
    to_client: Manner,
    /// Connections made before the last cut are closed.
    cuts: u64,
    /// Connections made before the last one see the end of the server's stream.
    half_closes: u64,
}

impl Orders {
    fn manner(&self, way: Way) -> Manner {
        match way {
            Way::ToServer => self.to_server,
            Way::ToClient => self.to_client,
        }
    }

    /// Whether they end this way of a connection that was made under those.
    fn end(&self, way: Way, made: Self) -> bool {
        let half_closed = way == Way::ToClient && self.half_closes > made.half_closes;
        self.cuts > made.cuts || half_closed
    }
}

/// What passed one way through one connection.
#[derive(Debug, Clone)]
pub struct Passed {
    pub way: Way,
    bytes: Vec<u8>,
    /// Where each chunk began, and its moment.
    chunks: Vec<(usize, u64)>,
}

impl Passed {
    /// Where this text is found, the moment at which its last byte passed, and what follows it.
    pub fn find(&self, text: &[u8]) -> Vec<(u64, &[u8])> {
        let found = self.bytes.windows(text.len()).enumerate();
        let found = found.filter(|(_, window)| *window == text);
        found
            .map(|(at, _)| {
                let last = at + text.len() - 1;
                let chunk = self.chunks.partition_point(|(start, _)| *start <= last) - 1;
                (self.chunks[chunk].1, &self.bytes[last + 1..])
            })
            .collect()
    }
}

#[derive(Debug)]
struct Shared {
    target_port: AtomicU16,
    orders: watch::Sender<Orders>,
    /// None: too much would pass.
    passed: Option<Mutex<Vec<Passed>>>,
    /// Who counts what passes to the client.
    deliveries: Option<Arc<Deliveries>>,
    /// What must not arrive, once.
    trap: Mutex<Option<Trap>>,
    /// More than this, sent without a word of the server between, must not arrive.
    statement_bytes_max: AtomicUsize,
}

#[derive(Debug)]
struct Trap {
    way: Way,
    text: Vec<u8>,
    cuts: bool,
}

impl Shared {
    fn open_log(&self, way: Way) -> usize {
        let Some(passed) = &self.passed else {
            return 0;
        };
        let mut passed = passed.lock().unwrap();
        passed.push(Passed {
            way,
            bytes: Vec::new(),
            chunks: Vec::new(),
        });
        passed.len() - 1
    }

    fn remember(&self, log: usize, chunk: &[u8]) {
        if let Some(passed) = &self.passed {
            let Passed { bytes, chunks, .. } = &mut passed.lock().unwrap()[log];
            chunks.push((bytes.len(), moment()));
            bytes.extend_from_slice(chunk);
        }
    }

    fn is_too_large_a_statement(&self, sent: &AtomicUsize, way: Way, count: usize) -> bool {
        if way == Way::ToClient {
            sent.store(0, Ordering::Relaxed);
            return false;
        }
        let sent = sent.fetch_add(count, Ordering::Relaxed) + count;
        sent > self.statement_bytes_max.load(Ordering::Relaxed)
    }

    /// The trap that this chunk springs, which is one no more.
    fn spring_trap(&self, way: Way, chunk: &[u8]) -> Option<Trap> {
        self.trap.lock().unwrap().take_if(|trap| {
            let mut windows = chunk.windows(trap.text.len());
            trap.way == way && windows.any(|found| found == trap.text)
        })
    }
}

/// A running proxy. It ends with the test's runtime.
#[derive(Debug, Clone)]
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

/// Moments of all proxies of the process are in one order.
pub fn moment() -> u64 {
    static MOMENTS: AtomicU64 = AtomicU64::new(0);
    MOMENTS.fetch_add(1, Ordering::SeqCst)
}

impl Proxy {
    /// Starts one before the server at this port.
    pub async fn start(target_port: u16) -> Self {
        Self::before(target_port, Some(Mutex::default()), None).await
    }

    /// One that does not remember what passed: for hours of traffic.
    pub async fn forgetful(target_port: u16) -> Self {
        Self::before(target_port, None, None).await
    }

    /// The same before a server of NATS, which counts deliveries.
    pub async fn counting(target_port: u16, deliveries: Arc<Deliveries>) -> Self {
        Self::before(target_port, None, Some(deliveries)).await
    }

    async fn before(
        target_port: u16,
        passed: Option<Mutex<Vec<Passed>>>,
        deliveries: Option<Arc<Deliveries>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target_port: AtomicU16::new(target_port),
            orders: watch::Sender::new(Orders {
                to_server: Manner::Pass,
                to_client: Manner::Pass,
                cuts: 0,
                half_closes: 0,
            }),
            passed,
            deliveries,
            trap: Mutex::default(),
            statement_bytes_max: AtomicUsize::new(usize::MAX),
        });
        tokio::spawn(accept(listener, shared.clone()));
        Self { port, shared }
    }

    /// Connections that are made from now on lead to another server.
    pub fn lead_to(&self, port: u16) {
        self.shared.target_port.store(port, Ordering::Relaxed);
    }

    /// Does so with bytes both ways from now on.
    pub fn behave(&self, manner: Manner) {
        self.behave_one_way(Way::ToServer, manner);
        self.behave_one_way(Way::ToClient, manner);
    }

    /// The same, one way only.
    pub fn behave_one_way(&self, way: Way, manner: Manner) {
        self.shared.orders.send_modify(|orders| match way {
            Way::ToServer => orders.to_server = manner,
            Way::ToClient => orders.to_client = manner,
        });
    }

    /// Closes every connection, both ways; new ones are made as before.
    pub fn cut(&self) {
        self.shared.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Ends the server's stream of every connection; the client's goes on.
    pub fn half_close(&self) {
        let half_close = |orders: &mut Orders| orders.half_closes += 1;
        self.shared.orders.send_modify(half_close);
    }

    /// Cuts every connection in the moment in which the server says this, before the client
    /// hears it: once.
    pub fn cut_instead_of(&self, text: &[u8]) {
        self.set_trap(Way::ToClient, text, true);
    }

    /// Loses the chunk in which the server says this, once; the connection stands.
    pub fn lose(&self, text: &[u8]) {
        self.set_trap(Way::ToClient, text, false);
    }

    /// The same of what the client says.
    pub fn lose_of_client(&self, text: &[u8]) {
        self.set_trap(Way::ToServer, text, false);
    }

    /// Cuts each connection on which the client sends more than this without a word of the server between, as
    /// some gateways do with large statements.
    pub fn cut_statements_above(&self, bytes: usize) {
        self.shared
            .statement_bytes_max
            .store(bytes, Ordering::Relaxed);
    }

    fn set_trap(&self, way: Way, text: &[u8], cuts: bool) {
        let text = text.to_vec();
        *self.shared.trap.lock().unwrap() = Some(Trap { way, text, cuts });
    }

    /// Whether one of these has happened.
    pub fn trap_has_sprung(&self) -> bool {
        self.shared.trap.lock().unwrap().is_none()
    }

    /// What passed so far.
    pub fn passed(&self) -> Vec<Passed> {
        let passed = self.shared.passed.as_ref().expect("it was told to");
        passed.lock().unwrap().clone()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let target =
            TcpStream::connect(("127.0.0.1", shared.target_port.load(Ordering::Relaxed))).await;
        // As where nobody listens: closed at once.
        let Ok(server) = target else { continue };
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let sent = Arc::new(AtomicUsize::new(0));
        let pump = |way, from, to| tokio::spawn(pump(shared.clone(), sent.clone(), way, from, to));
        pump(Way::ToServer, from_client, to_server);
        pump(Way::ToClient, from_server, to_client);
    }
}

/// Carries bytes one way until that is over. `sent`: what the client sent since the server's last word.
async fn pump(
    shared: Arc<Shared>,
    sent: Arc<AtomicUsize>,
    way: Way,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) {
    let log = shared.open_log(way);
    let mut orders = shared.orders.subscribe();
    let made = *orders.borrow_and_update();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut late: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut ended = false;
    let mut unread = Vec::new();
    loop {
        let now = *orders.borrow_and_update();
        if now.end(way, made) || (ended && late.is_empty()) {
            return; // dropping the writing half ends the other side's stream
        }
        let manner = now.manner(way);
        let due = late.front().map_or_else(Instant::now, |(due, _)| *due);
        let arrived = tokio::select! {
            _ = orders.changed() => continue,
            () = tokio::time::sleep_until(due), if !late.is_empty() => {
                late.pop_front().expect("it is not empty").1
            }
            read = from.read(&mut chunk), if manner != Manner::Hold && !ended => {
                let Ok(count @ 1..) = read else {
                    ended = true;
                    continue;
                };
                let chunk = &chunk[..count];
                if shared.is_too_large_a_statement(&sent, way, count) {
                    return;
                }
                if let Some(trap) = shared.spring_trap(way, chunk) {
                    if trap.cuts {
                        shared.orders.send_modify(|orders| orders.cuts += 1);
                        return;
                    }
                    continue;
                }
                let delay = match manner {
                    Manner::Swallow => continue,
                    Manner::Delay(delay) => delay,
                    Manner::Pass | Manner::Hold => Duration::ZERO,
                };
                if !delay.is_zero() || !late.is_empty() {
                    late.push_back((Instant::now() + delay, chunk.to_vec()));
                    continue;
                }
                chunk.to_vec()
            }
        };
        shared.remember(log, &arrived);
        if way == Way::ToClient
            && let Some(deliveries) = &shared.deliveries
        {
            deliveries.hear(&mut unread, &arrived);
        }
        // Who does not read must not keep a connection from being cut.
        tokio::select! {
            written = to.write_all(&arrived) => if written.is_err() { return },
            _ = orders.wait_for(|now| now.end(way, made)) => return,
        }
    }
}
