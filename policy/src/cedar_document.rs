//! A document of hand-written Cedar as the policies that enforce it: statements apart, templates linked, each by the direction it is about.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use cedar_policy::{
    EntityUid, Policy as CedarPolicy, Template,
    pst::{self, EntityOrSlot, EntityUID, PrincipalConstraint, SlotId},
};
use palisade_model::{
    origin::Origin,
    policy::{DenyAll, Effect, Policy, PolicyId, PolicyMode},
};

use crate::{
    admit::document_marker,
    check::{Checked, Finding, MAX_TEXT_BYTES, Warnings, check, nesting_problem, parse_finding},
    compile::{compile, scope_actions},
    ir::{Actions, IR_VERSION, encode},
};

mod split;

use split::{Statement, split};

/// Statements of one document; more are refused.
const MAX_STATEMENTS: usize = 512;

/// A document of hand-written Cedar.
#[derive(Debug, Clone, Copy)]
pub struct CedarDocument<'a> {
    /// The user's document.
    pub source: &'a Origin,
    /// Its text: any number of policies and templates.
    pub text: &'a str,
    /// Links of its templates.
    pub links: &'a [TemplateLink],
    /// [`PolicyMode::Enforce`], or [`PolicyMode::Shadow`] where it is only audited.
    pub mode: PolicyMode,
}

/// A template with its slots filled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateLink {
    /// The template's `@id`.
    pub template: String,
    /// Unique name of the link in its document.
    pub id: String,
    /// Entity for `?principal`, for example `Mesh::Namespace::"shop"`.
    pub principal: Option<String>,
    /// Entity for `?resource`.
    pub resource: Option<String>,
}

/// What became of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CedarAdmission {
    /// What protects the selected workloads from their callers.
    pub inbound: CedarShare,
    /// What the selected workloads may reach outside the mesh.
    pub egress: CedarShare,
    /// What is wrong, with line and column inside the text.
    pub findings: Vec<Finding>,
    /// What is wrong with links, by their index.
    pub link_findings: Vec<(usize, String)>,
    /// Policies that have no compiled form, with the reason: Cedar itself evaluates them, at some cost.
    pub uncompiled: Vec<(PolicyId, String)>,
}

/// One direction's share of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CedarShare {
    /// Members for the sets of the targets.
    pub policies: Vec<Policy>,
    /// A permit is among what was written for this direction, sound or broken: the default permit does not stand beside it.
    pub has_permit: bool,
    /// A broken forbid denies its whole target.
    pub deny_all: Option<DenyAll>,
}

/// What one statement came to.
struct Admitted {
    policies: Vec<(Policy, Actions)>,
    effect: Effect,
    /// What it is about; all where that cannot be known.
    actions: Actions,
}

impl CedarShare {
    /// Whether the document says nothing about this direction.
    pub fn is_empty(&self) -> bool {
        let Self { policies, has_permit, deny_all } = self;
        policies.is_empty() && !has_permit && deny_all.is_none()
    }
}

/// Takes a document apart and admits each statement: strictly validated, linked, compiled where possible. Never fails: a broken `permit`
/// grants nothing but counts, a broken `forbid` denies its whole target, and a text that cannot be told apart denies as one.
///
/// The template slots of Cedar stand in the scope only, so a linked template is an ordinary policy.
pub fn admit_cedar(document: &CedarDocument<'_>) -> CedarAdmission {
    let CedarDocument { source, text, links, mode: _ } = document;
    let prefix = format!("CedarPolicy/{}/{}", source.namespace, source.name);
    let mut admission = CedarAdmission::default();
    let statements = if text.len() > MAX_TEXT_BYTES {
        let message = format!("{} bytes of policy are more than {MAX_TEXT_BYTES}", text.len());
        admission.findings.push(Finding { line: None, column: None, message });
        Vec::new()
    } else {
        split(text)
    };
    if statements.is_empty() || statements.len() > MAX_STATEMENTS {
        if admission.findings.is_empty() {
            let count = statements.len();
            let message = format!("{count} policies: from 1 to {MAX_STATEMENTS} are expected");
            admission.findings.push(Finding { line: None, column: None, message });
        }
        // Nothing at all is written: nothing is forbidden either.
        let is_blank = statements.is_empty() && text.len() <= MAX_TEXT_BYTES;
        if !is_blank {
            admission.deny(document, &prefix, Actions::ALL);
        }
        return admission;
    }
    let mut named = BTreeSet::new();
    let mut unused: Unused<'_> =
        links.iter().map(|link| Link { link, is_repeated: !named.insert(&link.id) }).enumerate().collect();
    for (index, statement) in statements.iter().enumerate() {
        let id = format!("{prefix}[{index}]");
        match admit_statement(document, statement, &id, index, &mut unused, &mut admission) {
            Ok(admitted) => {
                let Admitted { policies, effect, actions } = admitted;
                admission.note_effect(effect, actions);
                for (policy, actions) in policies {
                    admission.add(&policy, actions);
                }
            }
            Err((findings, actions)) => {
                let placed = findings.into_iter().map(|finding| statement.place(text, finding));
                admission.findings.extend(placed);
                if statement.may_forbid {
                    admission.deny(document, &id, actions);
                } else {
                    admission.note_effect(Effect::Permit, actions);
                }
            }
        }
    }
    for (index, Link { link, is_repeated: _ }) in unused {
        let message = format!("no template of this document has @id(\"{}\")", link.template);
        admission.link_findings.push((index, message));
    }
    admission.mark(document, &prefix);
    admission
}

type Broken = (Vec<Finding>, Actions);

/// Links that no template has taken yet, by index.
type Unused<'a> = BTreeMap<usize, Link<'a>>;

#[derive(Clone, Copy)]
struct Link<'a> {
    link: &'a TemplateLink,
    /// An earlier one has its id: two policies of one id would be one, and a forbid would be lost.
    is_repeated: bool,
}

fn admit_statement(
    document: &CedarDocument<'_>,
    statement: &Statement<'_>,
    id: &str,
    index: usize,
    unused: &mut Unused<'_>,
    admission: &mut CedarAdmission,
) -> Result<Admitted, Broken> {
    let unknown = statement.guessed_actions();
    if !statement.is_closed {
        let message = "the policy does not end: `;`, a quote or a bracket is missing".to_owned();
        return Err((vec![Finding { line: Some(1), column: Some(1), message }], unknown));
    }
    if let Some(finding) = nesting_problem(statement.text) {
        return Err((vec![finding], unknown));
    }
    if !statement.is_template {
        let (policy, actions) = admit_static(document, statement.text, id, index, admission)
            .map_err(|(findings, actions)| (findings, actions.unwrap_or(unknown)))?;
        return Ok(Admitted { effect: policy.effect, actions, policies: vec![(policy, actions)] });
    }
    let template = Template::parse(None, statement.text)
        .map_err(|errors| (errors.iter().map(|e| parse_finding(statement.text, e)).collect(), unknown))?;
    let tree = template.to_pst().map_err(|error| (vec![whole(&error.to_string())], unknown))?;
    let effect = if tree.effect == pst::Effect::Forbid { Effect::Forbid } else { Effect::Permit };
    let name = tree.annotations.get("id").map(ToString::to_string).unwrap_or_default();
    let mine: Vec<(usize, Link<'_>)> = unused
        .iter()
        .filter(|(_, Link { link, .. })| !name.is_empty() && link.template == name)
        .map(|(at, link)| (*at, *link))
        .collect();
    if mine.is_empty() {
        let message = "a template does nothing by itself: give it an @id and name that in `links`".to_owned();
        return Err((vec![Finding { line: Some(1), column: Some(1), message }], unknown));
    }
    let mut policies = Vec::new();
    let mut actions = Actions(0);
    for (at, Link { link, is_repeated }) in mine {
        unused.remove(&at);
        let unique = match is_repeated {
            true => Err(format!("another link of this document has the id `{}`", link.id)),
            false => link_template(&tree, link),
        };
        let linked = unique.and_then(|text| {
            admit_static(document, &text, &format!("{id}:{}", link.id), index, admission)
                .map_err(|(findings, _)| findings.into_iter().map(|f| f.message).collect::<Vec<_>>().join("; "))
        });
        match linked {
            Ok((policy, of)) => {
                actions = actions.union(of);
                policies.push((policy, of));
            }
            Err(message) => {
                admission.link_findings.push((at, message));
                actions = actions.union(unknown);
                if effect == Effect::Forbid {
                    admission.deny(document, &format!("{id}:{}", link.id), unknown);
                }
            }
        }
    }
    Ok(Admitted { policies, effect, actions })
}

/// One static policy, strictly checked.
fn admit_static(
    document: &CedarDocument<'_>,
    text: &str,
    id: &str,
    index: usize,
    admission: &mut CedarAdmission,
) -> Result<(Policy, Actions), (Vec<Finding>, Option<Actions>)> {
    let actions_of = |text: &str| {
        let tree = CedarPolicy::parse(None, text).ok()?.to_pst().ok()?;
        scope_actions(tree.body()).ok()
    };
    let Checked { policy, tree } = check(text, Warnings::Refuse).map_err(|findings| (findings, actions_of(text)))?;
    let actions = scope_actions(tree.body()).map_err(|error| (vec![whole(&error.to_string())], None))?;
    if actions == Actions(0) {
        return Err((vec![whole("no request has such an action on such a resource")], None));
    }
    let id = PolicyId(id.into());
    let compiled = compile(&tree).map_err(|error| error.to_string()).and_then(|program| {
        let program = crate::ir::Program { condition: program.condition.merge_addresses(), actions, ..program };
        encode(&program).map_err(|error| error.to_string())
    });
    let ir = match compiled {
        Ok(ir) => Some(ir),
        Err(reason) => {
            admission.uncompiled.push((id.clone(), reason));
            None
        }
    };
    let is_forbid = policy.effect() == cedar_policy::Effect::Forbid;
    let policy = Policy {
        id,
        source: Some(document.source.clone()),
        rule: u32::try_from(index).ok(),
        effect: if is_forbid { Effect::Forbid } else { Effect::Permit },
        mode: document.mode,
        cedar: text.trim().into(),
        ir_version: if ir.is_some() { IR_VERSION } else { 0 },
        ir: ir.map(Bytes::from).unwrap_or_default(),
    };
    Ok((policy, actions))
}

/// The text of a linked template.
fn link_template(template: &pst::Template, link: &TemplateLink) -> Result<String, String> {
    let mut values: HashMap<SlotId, EntityUID> = HashMap::new();
    let slots = template.slots();
    for (slot, name, value) in
        [(SlotId::Principal, "principal", &link.principal), (SlotId::Resource, "resource", &link.resource)]
    {
        match (slots.contains(&slot), value) {
            (true, Some(value)) => {
                values.insert(slot, entity(value).map_err(|error| format!("{name}: {error}"))?);
            }
            (true, None) => return Err(format!("the template's slot `?{name}` is not filled")),
            (false, Some(_)) => return Err(format!("the template has no slot `?{name}`")),
            (false, None) => {}
        }
    }
    let linked = template.clone().link(&values).map_err(|error| error.to_string())?;
    let policy = CedarPolicy::from_pst(pst::Policy::Static(linked)).map_err(|error| error.to_string())?;
    policy.to_cedar().ok_or_else(|| "the linked template has no text".to_owned())
}

/// An entity by its Cedar name.
fn entity(text: &str) -> Result<EntityUID, String> {
    let uid: EntityUid =
        text.trim().parse().map_err(|_| format!("`{text}` is not an entity such as Mesh::Namespace::\"shop\""))?;
    // Only Cedar's own writing of a parsed name reaches a parser again.
    let policy = CedarPolicy::parse(None, format!("permit(principal == {uid}, action, resource);"))
        .map_err(|error| error.to_string())?;
    match policy.to_pst().map_err(|error| error.to_string())?.body().principal.clone() {
        PrincipalConstraint::Eq(EntityOrSlot::Entity(uid)) => Ok(uid),
        _ => Err(format!("`{text}` is not an entity")),
    }
}

fn whole(message: &str) -> Finding {
    Finding { line: None, column: None, message: message.to_owned() }
}

impl CedarAdmission {
    fn share(&mut self, is_egress: bool) -> &mut CedarShare {
        if is_egress { &mut self.egress } else { &mut self.inbound }
    }

    fn note_effect(&mut self, effect: Effect, actions: Actions) {
        for is_egress in directions(actions) {
            self.share(is_egress).has_permit |= effect == Effect::Permit;
        }
    }

    fn add(&mut self, policy: &Policy, actions: Actions) {
        for is_egress in directions(actions) {
            self.share(is_egress).policies.push(policy.clone());
        }
    }

    fn deny(&mut self, document: &CedarDocument<'_>, id: &str, actions: Actions) {
        let message = self.findings.first().map_or("the policy is broken", |finding| finding.message.as_str()).into();
        let deny = DenyAll { id: PolicyId(id.into()), source: Some(document.source.clone()), message };
        for is_egress in directions(actions) {
            let share = self.share(is_egress);
            share.deny_all = crate::admit::fold_deny_all(share.deny_all.take(), Some(deny.clone()));
        }
    }

    /// A document that is only audited is seen and counted as a whole, and denies nothing.
    fn mark(&mut self, document: &CedarDocument<'_>, prefix: &str) {
        if document.mode == PolicyMode::Enforce {
            return;
        }
        for (is_egress, suffix) in [(false, ""), (true, "@egress")] {
            let source = document.source.clone();
            let share = self.share(is_egress);
            if share.is_empty() {
                continue;
            }
            let denies = share.deny_all.take().is_some();
            let id = format!("{prefix}{suffix}");
            share.policies.push(document_marker(&id, source, document.mode, share.has_permit, denies));
            share.has_permit = false;
        }
    }
}

/// The directions of actions: `false` = inbound, `true` = egress.
fn directions(actions: Actions) -> impl Iterator<Item = bool> {
    [(Actions::INBOUND, false), (Actions::EGRESS, true)]
        .into_iter()
        .filter(move |(of, _)| actions.intersects(*of))
        .map(|(_, is_egress)| is_egress)
}
