//! Reports: diagnostics and conditions, a by-product of compiling. Computed nowhere else and never read back.

use std::{collections::BTreeMap, fmt, sync::Arc};

use palisade_crds::{Document, Severity, one_line};
use serde::{Serialize, Serializer};

use crate::{object::Head, resolve::gateway_api::GatewayApi};

mod conditions;
#[cfg(test)]
mod page;

/// All findings about all documents.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    diagnostics: Vec<Diagnostic>,
    documents: Arc<BTreeMap<ObjectName, Arc<Document>>>,
    /// Documents that are rejected, with UID and generation.
    rejected: BTreeMap<ObjectName, (Arc<str>, i64)>,
    /// Findings whose place is not looked up yet.
    unplaced: Option<Vec<(Report, Place)>>,
    /// Gateways and routes with what is to be said of them.
    gateway_api: Arc<GatewayApi>,
}

/// One finding, as `palisade analyze` prints it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// Stable code.
    pub code: &'static str,
    /// How bad it is.
    #[serde(serialize_with = "severity")]
    pub severity: Severity,
    /// The object.
    pub object: ObjectName,
    /// The field.
    pub path: String,
    /// One line for a person.
    pub message: String,
    /// File; empty when the object did not come from a file.
    pub file: Arc<str>,
    /// Line, counted from 1; 0 = unknown.
    pub line: u32,
}

/// An object by its full name; all empty for a text that is no object.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectName {
    /// API group; empty for the core group.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// A status condition, as computed from documents alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Condition {
    /// Which part of the object: a listener's name, a parent's `KIND NS/NAME/SECTION`; empty = the object.
    pub part: Arc<str>,
    /// `Accepted`, `ResolvedRefs`, `Programmed`, `Conflicted`.
    pub kind: Arc<str>,
    /// Whether it holds.
    pub is_true: bool,
    /// Reason, as the Gateway API names them.
    pub reason: Arc<str>,
    /// One line for a person.
    pub message: String,
}

macro_rules! codes {
    ($(#[doc = $doc:literal] $name:ident = $id:literal, $severity:ident;)*) => {
        /// Codes of findings that only compiling all documents together can make.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $(#[doc = $doc] $name,)* }

        impl Code {
            /// Every code, in order of number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as printed. Never reused for another meaning.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// What it means.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $doc,)* }
            }

            /// How bad a finding with this code is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }
        }
    };
}

codes! {
    /// Two documents for one object: the later one counts.
    DuplicateObject = "PLS0201", Warning;
    /// A host that no service has.
    UnknownHost = "PLS0202", Warning;
    /// A subset that no DestinationRule defines.
    UnknownSubset = "PLS0203", Warning;
    /// A Gateway that does not exist.
    UnknownGateway = "PLS0204", Warning;
    /// A host that an older document has already.
    HostConflict = "PLS0205", Warning;
    /// A server that conflicts with an older one or cannot be served.
    ServerRejected = "PLS0206", Warning;
    /// A delegate that does not exist or is not exported.
    UnknownDelegate = "PLS0207", Warning;
    /// A certificate or CA that does not exist.
    UnknownSecret = "PLS0208", Warning;
    /// A port that the service does not have.
    UnknownPort = "PLS0209", Warning;
    /// A known field that is not served yet.
    NotServed = "PLS0301", Warning;
    /// A rule of an authorization policy that cannot be used as written.
    PolicyRule = "PLS0401", Warning;
    /// A policy that is older than another one and makes it void.
    PolicyVoid = "PLS0402", Warning;
    /// The dry-run annotation cannot be read: the policy is enforced.
    PolicyDryRun = "PLS0403", Warning;
    /// A hand-written policy that strict checking refuses; it fails closed.
    CedarText = "PLS0404", Error;
    /// A hand-written policy that Cedar itself evaluates.
    CedarUncompiled = "PLS0405", Info;
    /// A policy, or one of its targets, that applies to nothing.
    PolicyUnbound = "PLS0406", Warning;
    /// An HTTP-only field at a declared TCP port: the rule is gone (ALLOW) or wider (the others) there.
    PolicyTcp = "PLS0407", Warning;
    /// A namespace, service account or principal that nobody has.
    PolicyUnknownName = "PLS0408", Warning;
    /// A rule that adds nothing to an earlier one.
    PolicyShadowed = "PLS0409", Warning;
    /// A rule that no request can match.
    PolicyNeverMatches = "PLS0410", Warning;
    /// Keys of tokens that cannot be fetched or used: without keys every token of the rule is refused.
    KeysUnavailable = "PLS0411", Warning;
    /// An external authorizer that cannot be asked: what needs its word is denied.
    UnknownProvider = "PLS0412", Warning;
    /// A host without a port form.
    PolicyHostPort = "PLS0413", Info;
    /// An annotation that looks like one that policies understand.
    PolicyTypo = "PLS0414", Warning;
    /// Annotations about cached answers of an external authorizer that cannot be used.
    CheckCache = "PLS0415", Warning;
    /// A mesh setting with a malformed value.
    MeshSetting = "PLS0501", Warning;
    /// A route or reference of the Gateway API that is not resolved.
    Unresolved = "PLS0601", Warning;
    /// A route that no listener accepts.
    NotAttached = "PLS0602", Warning;
}

/// Where in an object's text a finding stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the field.
    Field,
    /// At this line (from 1) of the field's own text, as [`Reports::add_inside`] takes it.
    Inside(Option<usize>),
}

/// A finding without its place in a file, which [`Reports::add`] looks up.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    code: Code,
    object: ObjectName,
    path: String,
    message: String,
}

impl Report {
    /// A finding about a field of an object.
    pub(crate) fn warning(head: &Head, code: Code, path: &str, message: &str) -> Self {
        Self { code, object: ObjectName::of(head), path: path.to_owned(), message: one_line(message.to_owned()) }
    }

    /// The finding at a place.
    pub(crate) fn at(self, file: Arc<str>, line: u32) -> Diagnostic {
        let Self { code, object, path, message } = self;
        Diagnostic { code: code.id(), severity: code.severity(), object, path, message, file, line }
    }
}

impl ObjectName {
    /// The name of an object.
    pub fn of(head: &Head) -> Self {
        Self {
            group: Arc::clone(&head.group),
            kind: Arc::clone(&head.kind),
            namespace: Arc::clone(&head.key.namespace),
            name: Arc::clone(&head.key.name),
        }
    }
}

impl Reports {
    /// Adds a finding with its place.
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// For findings that are to be added to several reports, each time with the place that the document then has.
    pub(crate) fn unplaced() -> Self {
        Self { unplaced: Some(Vec::new()), ..Self::default() }
    }

    /// Adds what [`Reports::unplaced`] collected.
    pub(crate) fn add_all(&mut self, found: &Self) {
        let Self { diagnostics, documents: _, rejected: _, unplaced, gateway_api: _ } = found;
        self.diagnostics.extend(diagnostics.iter().cloned());
        for (report, place) in unplaced.iter().flatten() {
            match place {
                Place::Field => self.add(report.clone()),
                Place::Inside(line) => self.add_inside(report.clone(), *line),
            }
        }
    }

    /// Adds a finding; its line follows from the object's document.
    pub(crate) fn add(&mut self, report: Report) {
        if let Some(unplaced) = &mut self.unplaced {
            unplaced.push((report, Place::Field));
            return;
        }
        let document = self.documents.get(&report.object);
        let file = document.map(|document| Arc::clone(&document.file)).unwrap_or_default();
        let line = document.and_then(|document| document.line_of(&report.path)).unwrap_or(0);
        self.diagnostics.push(report.at(file, line));
    }

    /// Adds a finding about a line (from 1) inside a text field. A text of several lines is taken for a YAML block, whose first line is
    /// the one below its key.
    pub(crate) fn add_inside(&mut self, report: Report, line: Option<usize>) {
        if let Some(unplaced) = &mut self.unplaced {
            unplaced.push((report, Place::Inside(line)));
            return;
        }
        let document = self.documents.get(&report.object);
        let file = document.map(|document| Arc::clone(&document.file)).unwrap_or_default();
        let key_line = document.and_then(|document| document.line_of(&report.path)).unwrap_or(0);
        let is_block =
            document.is_some_and(|document| document.text_at(&report.path).is_some_and(|t| t.contains('\n')));
        let inside = line.filter(|_| is_block && key_line > 0).and_then(|line| u32::try_from(line).ok()).unwrap_or(0);
        self.diagnostics.push(report.at(file, key_line.saturating_add(inside)));
    }

    /// Notes where an object's text stands.
    pub(crate) fn locate(&mut self, object: ObjectName, document: Arc<Document>) {
        Arc::make_mut(&mut self.documents).insert(object, document);
    }

    /// The document of an object.
    pub(crate) fn document(&self, name: &ObjectName) -> Option<&Arc<Document>> {
        self.documents.get(name)
    }

    /// A document that is rejected: it has a status all the same.
    pub(crate) fn reject(&mut self, object: ObjectName, uid: &str, generation: i64) {
        self.rejected.insert(object, (uid.into(), generation));
    }

    /// Documents that are rejected, as which incarnation and generation.
    pub(crate) fn rejected(&self) -> impl Iterator<Item = (&ObjectName, &(Arc<str>, i64))> {
        self.rejected.iter()
    }

    /// Whether there is no finding.
    pub(crate) fn is_empty(&self) -> bool {
        self.diagnostics.is_empty() && self.unplaced.as_ref().is_none_or(Vec::is_empty)
    }

    /// Notes what was resolved of the Gateway API.
    pub(crate) fn resolved(&mut self, gateway_api: &Arc<GatewayApi>) {
        self.gateway_api = Arc::clone(gateway_api);
    }

    /// Status conditions of Gateway API objects. Made anew with each call: one look at each of them.
    pub fn conditions(&self) -> BTreeMap<ObjectName, Vec<Condition>> {
        conditions::of(&self.gateway_api)
    }

    /// Attached routes by Gateway and listener name.
    pub fn attached_routes(&self) -> BTreeMap<(ObjectName, Arc<str>), u32> {
        conditions::attached_routes(&self.gateway_api)
    }

    /// All diagnostics in order of file, line and code, each once.
    pub fn diagnostics(&self) -> Vec<&Diagnostic> {
        let mut sorted: Vec<&Diagnostic> = self.diagnostics.iter().collect();
        sorted.sort_by(|a, b| {
            (&a.file, a.line, a.code, &a.object, &a.path, &a.message)
                .cmp(&(&b.file, b.line, b.code, &b.object, &b.path, &b.message))
        });
        sorted.dedup();
        sorted
    }

    /// Whether admission would reject any document.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

fn severity<S: Serializer>(severity: &Severity, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(severity.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0].id() < pair[1].id()));
    }
}
