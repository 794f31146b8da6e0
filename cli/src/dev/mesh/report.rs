//! What the person is told while the mesh runs.

use std::{collections::BTreeSet, path::PathBuf};

use palisade_compile::{ControlSettings, Inputs, SourceOptions, compile};
use palisade_control::source::files;
use palisade_crds::Severity;
use tokio::sync::{mpsc, watch};

use super::gateways::RunningGateway;
use crate::{
    analyze,
    dev::{Publish, pod::Event},
};

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

/// One line for each `--publish` that no gateway can honour.
pub(super) fn unpublished<'a>(publish: &[Publish], gateways: impl Iterator<Item = &'a RunningGateway> + Clone) {
    for Publish { host_port, gateway, port } in publish {
        let is_meant = |running: &&RunningGateway| gateway.as_ref().is_none_or(|name| *name == running.plan.name);
        if !gateways.clone().filter(is_meant).any(|running| running.plan.ports.contains_key(port)) {
            let ports = |running: &RunningGateway| {
                let ports: Vec<String> = running.plan.ports.keys().map(ToString::to_string).collect();
                format!("{} ({})", running.plan.name, ports.join(", "))
            };
            let known: Vec<String> = gateways.clone().map(ports).collect();
            let meant = gateway.as_ref().map_or_else(|| "no gateway".to_owned(), |name| format!("no gateway `{name}`"));
            eprintln!(
                "palisade: --publish {host_port}: {meant} has port {port}; there are {}",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            );
        }
    }
}

/// What is wrong with the documents, as `palisade analyze` says it; each line is told once while it holds.
#[derive(Debug, Default)]
pub(super) struct Findings {
    told: BTreeSet<String>,
}

impl Findings {
    /// Tells errors and warnings that are new. Documents that cannot be read are told about elsewhere.
    pub(super) async fn tell(&mut self, documents: &[PathBuf], namespace: &str, root_namespace: Option<&str>) {
        let (documents, namespace) = (documents.to_vec(), namespace.to_owned());
        let control = ControlSettings { root_namespace: root_namespace.map(Into::into), ..ControlSettings::default() };
        let lines = tokio::task::spawn_blocking(move || {
            let texts = files::read(&documents).ok()?;
            let inputs = Inputs::from_texts(texts, &namespace, &SourceOptions { control, is_files: true });
            let reports = compile(&inputs.into()).reports;
            let found = reports.diagnostics();
            let loud = found.iter().filter(|found| found.severity != Severity::Info);
            Some(loud.map(|found| analyze::line(found)).collect::<BTreeSet<_>>())
        });
        let Ok(Some(lines)) = lines.await else { return };
        for line in lines.difference(&self.told) {
            eprintln!("{line}");
        }
        self.told = lines;
    }
}
