//! Frame rates of two visitors while others mean no good: `cargo bench -p livediffusion-web`.
//!
//! Ten seconds without and ten with, three times in turn. The engines are closed forms that wait for 25 ms in each U-Net call:
//! what is measured is the server, not the networks' share of a processor that the attackers, on the same machine, use too.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement fails as a test does: by a panic")]
#![allow(dead_code, reason = "the tests' helpers, of which not all are needed")]
#![allow(clippy::disallowed_methods, reason = "it is about time")]

#[path = "../tests/it/support.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use self::support::{Heard, Running, Visitor, grey};

const ROUND: Duration = Duration::from_secs(10);
/// Frames a second that the visitors send; the engines could do twice as many.
const RATE: f64 = 20.0;
const CALL: Duration = Duration::from_millis(25);

fn main() {
    // `cargo test` also runs what is here, with this flag.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    support::slow_down(CALL);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = Running::start(4, None);
    let mut ratios: Vec<f64> = (0..3)
        .map(|round| {
            let quiet = runtime.block_on(rate(&server));
            let attack = Attack::start(&server, &runtime);
            let attacked = runtime.block_on(rate(&server));
            let attempts = attack.stop();
            println!("round {round}: {quiet:.2} fps, under attack {attacked:.2} fps, {attempts} attempts");
            attacked / quiet
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!("under attack over alone: median {:.3} ({:.3} to {:.3})", ratios[1], ratios[0], ratios[2]);
}

/// Frames a second that two visitors get, together, at a steady rate.
async fn rate(server: &Running) -> f64 {
    let visit = || async {
        let mut visitor = Visitor::connect(server).await;
        visitor.text("hello").await;
        let (frame, began, mut painted) = (grey(90), Instant::now(), 0_u32);
        while began.elapsed() < ROUND {
            visitor.painted(&frame).await;
            painted += 1;
            let due = Duration::from_secs_f64(f64::from(painted) / RATE);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
        let rate = f64::from(painted) / began.elapsed().as_secs_f64();
        visitor.close().await;
        rate
    };
    let (a, b) = tokio::join!(visit(), visit());
    a + b
}

/// Connections that come and go, requests with wrong bodies, sockets that say nothing, broken pictures.
struct Attack {
    stop: Arc<AtomicBool>,
    attempts: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Attack {
    fn start(server: &Running, runtime: &tokio::runtime::Runtime) -> Self {
        let (stop, attempts) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let address = server.address;
        let spawn = |work: fn(SocketAddr)| {
            let (stop, attempts) = (Arc::clone(&stop), Arc::clone(&attempts));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    work(address);
                    attempts.fetch_add(1, Ordering::Relaxed);
                    // A thousand a second from each thread: more would measure the attackers' own use of the processor.
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
        };
        let threads = vec![spawn(nonsense), spawn(wrong_json), spawn(silent)];
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&attempts));
        let url = format!("ws://{address}/api/v1/stream");
        runtime.spawn(async move {
            // The server may end the connection, as it should: then there is another.
            while !stopped.load(Ordering::Relaxed) {
                let Ok(mut visitor) = Visitor::connect_to(&url, &[]).await else { return };
                while !stopped.load(Ordering::Relaxed) && visitor.send_binary(&b"no frame at all"[..]).await.is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                    if let Heard::Closed(_) = visitor.hear().await {
                        break;
                    }
                }
            }
        });
        Self { stop, attempts, threads }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.attempts.load(Ordering::Relaxed)
    }
}

fn nonsense(address: SocketAddr) {
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.write_all(b"\x16\x03\x01\xff\xff nonsense\r\n\r\n");
    }
}

fn wrong_json(address: SocketAddr) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let head = "PATCH /api/v1/sessions/x/parameters HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let body = r#"{"prompt": {"no": "text"}}"#;
    let _ = stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = stream.read_to_end(&mut Vec::new());
}

fn silent(address: SocketAddr) {
    let sockets: Vec<_> = (0..4).map(|_| TcpStream::connect(address)).collect();
    std::thread::sleep(Duration::from_millis(20));
    drop(sockets);
}
