//! DNS queries over UDP: a prepared question on each socket, the whole answer, the next question. One thread with bare sockets.

use std::{
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Load, Seen, WARM_UP, open::quantiles};

/// An answer that is missing for this long ends the run: nothing is lost on the way.
const PATIENCE_MS: u16 = 5000;

struct Client {
    socket: UdpSocket,
    question: Vec<u8>,
    asked: Instant,
}

pub(super) fn run(load: &Load) -> anyhow::Result<Seen> {
    let mut clients = Vec::new();
    for number in 0..load.connections {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // Answers come from the address that was asked, also where the question was redirected.
        socket.connect(load.target)?;
        socket.set_nonblocking(true)?;
        let question = question(u16::try_from(number)?, &load.authority)?;
        clients.push(Client { socket, question, asked: Instant::now() });
    }
    for client in &mut clients {
        client.ask()?;
    }
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs_f64(load.seconds);
    let mut latencies: Vec<f64> = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let ready = {
            let mut waiting: Vec<PollFd<'_>> =
                clients.iter().map(|client| PollFd::new(client.socket.as_fd(), PollFlags::POLLIN)).collect();
            ensure!(poll(&mut waiting, PollTimeout::from(PATIENCE_MS))? > 0, "questions without an answer");
            waiting.iter().map(|fd| fd.any().unwrap_or(false)).collect::<Vec<bool>>()
        };
        let now = Instant::now();
        if now >= end {
            break;
        }
        for (client, _) in clients.iter_mut().zip(ready).filter(|(_, is_ready)| *is_ready) {
            let length = client.socket.recv(&mut buffer).context("no DNS server")?;
            client.check(buffer.get(..length).unwrap_or_default())?;
            if now >= begin {
                latencies.push(client.asked.elapsed().as_secs_f64() * 1e6);
            }
            client.ask()?;
        }
    }
    let answers = u64::try_from(latencies.len())?;
    Ok(Seen { answers, bytes: 0, seconds: load.seconds, latencies_us: quantiles(latencies) })
}

impl Client {
    fn ask(&mut self) -> anyhow::Result<()> {
        self.asked = Instant::now();
        self.socket.send(&self.question)?;
        Ok(())
    }

    /// NOERROR, to our question, with answers.
    fn check(&self, answer: &[u8]) -> anyhow::Result<()> {
        let [first, second, flags, code, _, _, high, low, ..] = *answer else { anyhow::bail!("a short answer") };
        ensure!(self.question.starts_with(&[first, second]) && flags & 0x80 != 0, "an answer to another question");
        ensure!(code & 0x0f == 0 && (high, low) != (0, 0), "no address: code {}", code & 0x0f);
        Ok(())
    }
}

/// A recursive question for the IPv4 addresses of a name.
fn question(id: u16, name: &str) -> anyhow::Result<Vec<u8>> {
    let [high, low] = id.to_be_bytes();
    let mut question = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(question)
}
