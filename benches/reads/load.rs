//! Readers of newest states over HTTP/1.1, as cheap as can be: they share the processors with what they measure.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use memchr::memmem::find;
use rand::RngExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

/// Requests of a skewed load, before it begins anew.
const CHOICES: usize = 1 << 16;
/// A reader that has got no answer for so long fails.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Connections, kept, to one server.
#[derive(Clone, Copy)]
pub struct Readers {
    pub server: SocketAddr,
    pub connections: usize,
}

/// When requests are sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// So many a second, each at its time, however late others are answered.
    Rate(u64),
    /// Each connection's next one as soon as the last one is answered.
    AsFastAsAnswered,
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => write!(f, "{rate}"),
            Self::AsFastAsAnswered => f.write_str("as many as it answers"),
        }
    }
}

/// What became of a load.
pub struct Answers {
    /// From the time at which a request was to be sent to the end of its answer.
    pub micros: Histogram<u64>,
    /// Those that `Cache-Status` calls a hit.
    pub hits: u64,
    pub took: Duration,
}

/// The requests of a load, each one a choice among `texts`.
pub struct Requests {
    texts: Vec<String>,
    choices: Vec<usize>,
}

struct Load {
    requests: Requests,
    pace: Pace,
    began: Instant,
    next: AtomicU64,
    /// Numbers of the requests that are sent, and how long at most.
    numbers: Range<u64>,
    lasts: Duration,
}

impl Requests {
    /// Each subject once.
    pub fn of_each(subjects: &[String]) -> Self {
        Self {
            texts: subjects.iter().map(|subject| text(subject)).collect(),
            choices: (0..subjects.len()).collect(),
        }
    }

    /// Few subjects are asked for often (Zipf).
    pub fn skewed(subjects: &[String]) -> Self {
        let shares = (1..=subjects.len()).scan(0.0, |sum, place| {
            *sum += 1.0 / place as f64;
            Some(*sum)
        });
        let shares: Vec<f64> = shares.collect();
        let all = shares[shares.len() - 1];
        let mut random = rand::rng();
        let choose = |_| {
            let at = random.random_range(0.0..all);
            shares.partition_point(|share| *share <= at)
        };
        Self {
            choices: (0..CHOICES).map(choose).collect(),
            ..Self::of_each(subjects)
        }
    }

    fn get(&self, number: u64) -> &str {
        let place = usize::try_from(number).expect("64 bits") % self.choices.len();
        &self.texts[self.choices[place]]
    }
}

/// With the headers that HTTP clients send by themselves.
fn text(subject: &str) -> String {
    format!(
        "GET /v1/subjects/{subject}/latest HTTP/1.1\r\nHost: ganesh\r\nUser-Agent: reads\r\nAccept: */*\r\n\
         Accept-Encoding: gzip\r\n\r\n"
    )
}

impl Readers {
    /// Asks for each of these once.
    pub fn ask_each(self, requests: Requests) -> Answers {
        let numbers = 0..requests.choices.len() as u64;
        self.ask(requests, Pace::AsFastAsAnswered, numbers, Duration::MAX)
    }

    /// Asks at this pace for so long. At a rate that is not held it takes half as long again, no longer.
    pub fn ask_for(self, lasts: Duration, pace: Pace, requests: Requests) -> Answers {
        match pace {
            Pace::Rate(rate) => {
                let numbers = 0..rate * lasts.as_secs();
                self.ask(requests, pace, numbers, lasts.mul_f64(1.5))
            }
            Pace::AsFastAsAnswered => self.ask(requests, pace, 0..u64::MAX, lasts),
        }
    }

    /// In one thread: it takes less time from others than several that wake each other.
    fn ask(self, requests: Requests, pace: Pace, numbers: Range<u64>, lasts: Duration) -> Answers {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let asked = self.ask_all(requests, pace, numbers, lasts);
        let thread = std::thread::spawn(move || runtime.unwrap().block_on(asked));
        thread.join().unwrap()
    }

    async fn ask_all(
        self,
        requests: Requests,
        pace: Pace,
        numbers: Range<u64>,
        lasts: Duration,
    ) -> Answers {
        let mut streams = Vec::new();
        for _ in 0..self.connections {
            let stream = TcpStream::connect(self.server).await.unwrap();
            stream.set_nodelay(true).unwrap();
            streams.push(stream);
        }
        let load = Arc::new(Load {
            requests,
            pace,
            began: Instant::now(),
            next: AtomicU64::new(numbers.start),
            numbers,
            lasts,
        });
        let readers = streams.into_iter();
        let readers: Vec<_> = readers
            .map(|stream| tokio::spawn(read(stream, load.clone())))
            .collect();
        let mut all = Answers::none();
        for reader in readers {
            let answers = reader.await.unwrap();
            all.micros.add(answers.micros).unwrap();
            all.hits += answers.hits;
        }
        all.took = load.began.elapsed();
        all
    }
}

impl Answers {
    fn none() -> Self {
        Self {
            micros: Histogram::new(3).unwrap(),
            hits: 0,
            took: Duration::ZERO,
        }
    }

    pub fn per_second(&self) -> f64 {
        self.micros.len() as f64 / self.took.as_secs_f64()
    }

    /// So large a share of them took no longer.
    pub fn millis(&self, share: f64) -> f64 {
        self.micros.value_at_quantile(share) as f64 / 1_000.0
    }
}

impl Load {
    /// When the next request is sent, and which; `None` at the end.
    fn next(&self) -> Option<(Instant, &str)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let is_over = number >= self.numbers.end || self.began.elapsed() >= self.lasts;
        let at = match self.pace {
            Pace::Rate(rate) => self.began + Duration::from_secs_f64(number as f64 / rate as f64),
            Pace::AsFastAsAnswered => Instant::now(),
        };
        (!is_over).then(|| (at, self.requests.get(number)))
    }
}

/// One connection, with one request at a time.
async fn read(mut stream: TcpStream, load: Arc<Load>) -> Answers {
    let mut answers = Answers::none();
    let mut answer = Vec::with_capacity(16 * 1_024);
    while let Some((at, request)) = load.next() {
        // Its timers have a millisecond: what is due is sent at once.
        if at > Instant::now() {
            sleep_until(at).await;
        }
        stream.write_all(request.as_bytes()).await.unwrap();
        answer.clear();
        while !is_whole(&answer) {
            let read = stream.read_buf(&mut answer);
            let bytes = timeout(ANSWER_LIMIT, read).await.expect("an answer");
            assert!(bytes.unwrap() > 0, "closed: {}", show(&answer));
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", show(&answer));
        answers.hits += u64::from(find(&answer, b"\r\ncache-status: ganesh; hit\r\n").is_some());
        let micros = u64::try_from(at.elapsed().as_micros()).expect("seconds");
        answers.micros.record(micros).unwrap();
    }
    answers
}

/// Whether all of it is there, by its length or by its last chunk.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = find(answer, b"\r\n\r\n") else {
        return false;
    };
    let (head, body) = (&answer[..end + 2], &answer[end + 4..]);
    let Some(length) = find(head, b"\r\ncontent-length: ") else {
        return body.ends_with(b"0\r\n\r\n");
    };
    let length = &head[length + b"\r\ncontent-length: ".len()..];
    let length = &length[..find(length, b"\r\n").expect("the head ends with a line")];
    let length = std::str::from_utf8(length).unwrap();
    body.len() >= length.parse().unwrap()
}

fn show(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).into_owned()
}
