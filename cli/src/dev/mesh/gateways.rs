//! A gateway process and its ports on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::Context;

use super::{ProxyRelays, specs};
use crate::dev::fabric::Fabric;
use crate::dev::plan::GatewayPlan;
use crate::dev::pod::Pod;
use crate::dev::ready::ReadyGateway;
use crate::dev::relay::{Inside, Relay};
use crate::dev::{Publish, url};

pub(super) struct RunningGateway {
    pub(super) plan: GatewayPlan,
    pub(super) pod: Pod,
    relays: ProxyRelays,
    ports: BTreeMap<u16, Relay>,
    /// Host ports that other gateways had when this one started.
    taken: BTreeSet<u16>,
}

impl RunningGateway {
    /// `taken`: host ports that belong to other gateways.
    pub(super) async fn open(
        fabric: &Fabric,
        plan: GatewayPlan,
        pod: Pod,
        relays: ProxyRelays,
        publish: &[Publish],
        taken: BTreeSet<u16>,
    ) -> anyhow::Result<Self> {
        let mut running = Self { plan: plan.clone(), pod, relays, ports: BTreeMap::new(), taken };
        running.publish(fabric, plan, publish).await?;
        Ok(running)
    }

    /// Whether a process for `plan` would be this one; ports are no part of it, since listeners come and go live.
    pub(super) fn is_same_process(&self, plan: &GatewayPlan) -> bool {
        let GatewayPlan { name, pod, addresses, service_account, is_gateway_api, ports: _ } = plan;
        self.plan.name == *name
            && self.plan.pod == *pod
            && self.plan.addresses == *addresses
            && self.plan.service_account == *service_account
            && self.plan.is_gateway_api == *is_gateway_api
    }

    /// Gives every port of `plan` a host address, and takes it from those that are gone. Ports that stay keep theirs.
    pub(super) async fn publish(
        &mut self,
        fabric: &Fabric,
        plan: GatewayPlan,
        publish: &[Publish],
    ) -> anyhow::Result<()> {
        self.ports.retain(|port, _| plan.ports.get(port).is_some_and(|bound| self.plan.ports.get(port) == Some(bound)));
        let address = *plan.addresses.first().with_context(|| format!("gateway `{}` has no address", plan.name))?;
        for (port, bound) in &plan.ports {
            if self.ports.contains_key(port) {
                continue;
            }
            let host_port = self.host_port(&plan.name, *port, publish);
            let inside = Inside { namespace: None, address: SocketAddr::new(address, *bound) };
            self.ports.insert(*port, Relay::open(fabric, host_port, inside).await?);
        }
        self.plan = plan;
        Ok(())
    }

    /// What was asked for, for this gateway first; 0 means any free one.
    fn host_port(&self, name: &str, port: u16, publish: &[Publish]) -> u16 {
        let named = publish.iter().filter(|entry| entry.port == port && entry.gateway.as_deref() == Some(name));
        let any = publish.iter().filter(|entry| entry.port == port && entry.gateway.is_none());
        let own: BTreeSet<u16> = self.host_ports().collect();
        named
            .chain(any)
            .map(|entry| entry.host_port)
            .find(|host_port| *host_port == 0 || !(self.taken.contains(host_port) || own.contains(host_port)))
            .unwrap_or(0)
    }

    pub(super) fn host_ports(&self) -> impl Iterator<Item = u16> {
        self.ports.values().map(|relay| relay.address.port())
    }

    pub(super) fn ready(&self) -> ReadyGateway {
        ReadyGateway {
            name: self.plan.name.clone(),
            address: self.plan.addresses.first().map(ToString::to_string).unwrap_or_default(),
            ports: self.ports.iter().map(|(port, relay)| (port.to_string(), relay.address.to_string())).collect(),
            admin: url(self.relays.admin.address),
            metrics: url(self.relays.metrics.address),
            pid: specs::process_id(&self.pod, specs::PROXY),
        }
    }
}
