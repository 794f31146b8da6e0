//! BackendTLSPolicy: how a gateway speaks TLS to a backend. <https://gateway-api.sigs.k8s.io/reference/spec/#backendtlspolicy>

use std::collections::BTreeMap;

use super::LocalObjectReference;
use crate::codes::Code;
use crate::schema::Check::{Each, Entries, Format, Items, Length};
use crate::schema::Cursor;
use crate::schema::formats::{is_dns_subdomain, is_group, is_hostname, is_kind, is_label_value, is_uri, up_to};

record! {
    /// The spec of a BackendTLSPolicy.
    pub struct BackendTlsPolicy {
        /// Services of its namespace, whole or one port of them.
        target_refs: Vec<BackendTlsTarget> = "targetRefs" [Items(1, 16)] or_required;
        /// How the server proves itself.
        validation: BackendTlsValidation = "validation";
        /// Controllers' own settings.
        options: BTreeMap<String, String> = "options" [Entries(0, 16), Each(&[up_to(4096)])];
    }
    verify targets_differ;
}

/// References to one target name different ports of it.
fn targets_differ(policy: &BackendTlsPolicy, cursor: &mut Cursor<'_>) {
    let object = |target: &BackendTlsTarget| (target.group.clone(), target.kind.clone(), target.name.clone());
    cursor.within("targetRefs", |cursor| {
        for (index, target) in policy.target_refs.iter().enumerate() {
            let same = policy.target_refs.iter().take(index).filter(|other| object(other) == object(target));
            for other in same {
                if target.section_name.is_some() != other.section_name.is_some() {
                    let text = "`sectionName` must be given in all references to the same target";
                    cursor.report_at(index, Code::GatewayApiRule, text);
                } else if target.section_name == other.section_name {
                    let text = "`sectionName` must differ between references to the same target";
                    cursor.report_at(index, Code::GatewayApiRule, text);
                }
            }
        }
    });
}

record! {
    /// What a policy attaches to.
    pub struct BackendTlsTarget {
        /// API group; empty is the core group.
        group: String = "group" [up_to(253), Format("an API group", is_group)];
        /// Kind of the object.
        kind: String = "kind" [Length(1, 63), Format("a kind", is_kind)];
        /// Name of the object.
        name: String = "name" [Length(1, 253)];
        /// The name of a port; absent is all.
        section_name: Option<String> = "sectionName" [Length(1, 253), Format("a section name", is_dns_subdomain)];
    }
}

record! {
    /// How the server proves itself.
    pub struct BackendTlsValidation {
        /// ConfigMaps with roots, key `ca.crt`.
        ca_certificate_refs: Vec<LocalObjectReference> = "caCertificateRefs" [Items(0, 8)];
        /// Roots that the implementation knows.
        well_known_ca_certificates: Option<String> = "wellKnownCACertificates" [Length(1, 253), Format("`System` or `domain/name`", is_well_known)];
        /// The server name sent, and the name that the certificate must have unless `subjectAltNames` says others.
        hostname: String = "hostname" [Length(1, 253), Format("a host name", is_dns_subdomain)];
        /// Names of which the certificate must have one.
        subject_alt_names: Vec<SubjectAltName> = "subjectAltNames" [Items(0, 5)];
    }
    verify one_source_of_roots;
}

fn is_well_known(text: &str) -> bool {
    text == "System"
        || text
            .split_once('/')
            .is_some_and(|(domain, name)| is_dns_subdomain(domain) && !name.is_empty() && is_label_value(name))
}

fn one_source_of_roots(validation: &BackendTlsValidation, cursor: &mut Cursor<'_>) {
    let is_known = validation.well_known_ca_certificates.as_deref().is_some_and(|name| !name.is_empty());
    if is_known != validation.ca_certificate_refs.is_empty() {
        let text = "exactly one of `caCertificateRefs` and `wellKnownCACertificates` must be given";
        cursor.report(Code::GatewayApiRule, text);
    }
}

record! {
    /// A name of a certificate.
    pub struct SubjectAltName {
        /// Which of the two is set.
        name_type: SubjectAltNameType = "type";
        /// A host.
        hostname: Option<String> = "hostname" [Length(1, 253), Format("a host name", is_hostname)];
        /// A URI, for example a SPIFFE id.
        uri: Option<String> = "uri" [Length(1, 253), Format("an absolute URI", is_uri)];
    }
    verify name_fits_type;
}

choice! {
    /// Kind of a name.
    pub enum SubjectAltNameType {
        /// A DNS name.
        Hostname = "Hostname",
        /// A URI.
        Uri = "URI",
    }
}

fn name_fits_type(name: &SubjectAltName, cursor: &mut Cursor<'_>) {
    let fields = [
        ("hostname", SubjectAltNameType::Hostname, name.hostname.is_some()),
        ("uri", SubjectAltNameType::Uri, name.uri.is_some()),
    ];
    for (field, of_type, is_written) in fields {
        if is_written != (name.name_type == of_type) {
            let text = format!("`{field}` must be set if and only if the type is {}", of_type.as_str());
            cursor.report_at(field, Code::GatewayApiRule, text);
        }
    }
}
