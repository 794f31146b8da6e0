//! The entities and names that a verified peer stands for.

use crate::{
    CertificateNames, Peer,
    ir::{Entity, Kind},
};

/// A peer as policies see it, derived from the verified certificate alone.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    /// The principal itself first, then everything that it is in.
    pub entities: Vec<Entity>,
    /// Name, namespace and trust domain of a mesh workload.
    pub account: Option<Account>,
    /// The texts that name patterns are matched against, in Envoy's order: URIs, DNS names, subject.
    pub names: Vec<String>,
}

/// The attributes of a service account.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub name: Box<str>,
    pub namespace: Box<str>,
    pub trust_domain: Box<str>,
}

impl Principal {
    pub(crate) fn of(peer: &Peer) -> Self {
        match peer {
            Peer::Anonymous => Self {
                entities: vec![Entity { kind: Kind::Anonymous, id: "peer".into() }],
                account: None,
                names: Vec::new(),
            },
            Peer::Mesh(id) => {
                let uri = id.to_string();
                let entity = |kind, id: &str| Entity { kind, id: id.into() };
                let entities = vec![
                    entity(Kind::ServiceAccount, uri.strip_prefix("spiffe://").unwrap_or(&uri)),
                    entity(Kind::Namespace, id.namespace()),
                    entity(Kind::TrustDomain, id.trust_domain().as_str()),
                ];
                let account = Account {
                    name: id.service_account().into(),
                    namespace: id.namespace().into(),
                    trust_domain: id.trust_domain().as_str().into(),
                };
                Self { entities, account: Some(account), names: vec![uri] }
            }
            Peer::Certificate(CertificateNames { uris, dns, subject }) => {
                let names: Vec<String> =
                    uris.iter().chain(dns).chain([subject]).filter(|n| !n.is_empty()).cloned().collect();
                let mut groups = Vec::new();
                for name in &names {
                    groups_of(name, &mut groups);
                }
                groups.sort();
                groups.dedup();
                let id = names.first().map_or("", |n| n).into();
                let mut entities = vec![Entity { kind: Kind::ExternalPeer, id }];
                entities.append(&mut groups);
                Self { entities, account: None, names }
            }
        }
    }

    /// The principal itself.
    pub(crate) fn itself(&self) -> Option<&Entity> {
        self.entities.first()
    }

    /// The id of the first entity of a kind; empty when there is none.
    pub(crate) fn id_of(&self, kind: Kind) -> &str {
        self.entities.iter().find(|e| e.kind == kind).map_or("", |e| &e.id)
    }
}

/// What one name of a foreign certificate stands for: just what Istio's matchers for `principals`, `namespaces` and `trustDomains` see.
fn groups_of(name: &str, groups: &mut Vec<Entity>) {
    if let Some(rest) = name.strip_prefix("spiffe://") {
        if name.parse::<palisade_model::identity::SpiffeId>().is_ok() {
            groups.push(Entity { kind: Kind::ServiceAccount, id: rest.into() });
        }
        if let Some((domain, _)) = rest.split_once('/')
            && !domain.is_empty()
        {
            groups.push(Entity { kind: Kind::TrustDomain, id: domain.into() });
        }
    }
    let mut rest = name;
    while let Some(at) = rest.find("/ns/") {
        let after = rest.get(at + 4..).unwrap_or_default();
        match after.split_once('/') {
            Some((namespace, _)) if !namespace.is_empty() => {
                groups.push(Entity { kind: Kind::Namespace, id: namespace.into() })
            }
            _ => {}
        }
        // The slash that ends this `/ns/` may begin the next one.
        rest = rest.get(at + 3..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_certificate_is_in_what_its_names_say() {
        let names = CertificateNames {
            uris: vec!["spiffe://a.b/ns/ns/x/sa/y".into(), "spiffe://td/ns/foo/sa/bar".into()],
            dns: vec!["d.example".into()],
            subject: String::new(),
        };
        let principal = Principal::of(&Peer::from_certificate(names));
        let shown: Vec<String> = principal.entities.iter().map(|e| format!("{:?} {}", e.kind, e.id)).collect();
        assert_eq!(
            shown,
            [
                "ExternalPeer spiffe://a.b/ns/ns/x/sa/y",
                "ServiceAccount td/ns/foo/sa/bar",
                "Namespace foo",
                "Namespace ns",
                "Namespace x",
                "TrustDomain a.b",
                "TrustDomain td",
            ]
        );
    }
}
