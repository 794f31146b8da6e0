//! What the person is told while the mesh runs.

use tokio::sync::{mpsc, watch};

use super::gateways::RunningGateway;
use crate::dev::pod::Event;

/// Tells on standard error what happens in pods; the value counts processes that have started again.
pub(super) fn spawn(mut events: mpsc::Receiver<(String, Event)>) -> watch::Receiver<u64> {
    let (restarts, seen) = watch::channel(0);
    // Ends with the last pod.
    tokio::spawn(async move {
        while let Some((pod, event)) = events.recv().await {
            match event {
                Event::Exited { process, status, log, restart_ms } => {
                    eprintln!(
                        "{pod}: {process} ended ({status}) and starts again in {restart_ms} ms; see {}",
                        log.display()
                    );
                }
                Event::Restarted { process } => {
                    eprintln!("{pod}: {process} runs again");
                    restarts.send_modify(|count| *count += 1);
                }
                Event::NotListening { ports } => {
                    eprintln!("{pod}: nothing listens on its declared ports {ports:?}");
                }
                Event::Failed { message } => eprintln!("{pod}: {message}"),
                Event::Created { .. } | Event::Started | Event::Listening => {}
            }
        }
    });
    seen
}

/// One line for each way in.
pub(super) fn ready<'a>(gateways: impl Iterator<Item = &'a RunningGateway>, pods: usize) {
    println!("ready: {pods} pods");
    for gateway in gateways {
        for (port, address) in gateway.ready().ports {
            println!("gateway {} port {port}: {address}", gateway.plan.name);
        }
    }
}
