//! PolicyTest: unit tests of policies, in files only.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::codes::Code;
use crate::schema::{Cursor, Decode};

record! {
    /// The spec of a PolicyTest.
    pub struct PolicyTest {
        /// What all cases have in common, as a case of `palisade eval`.
        defaults: CaseFields = "defaults" or CaseFields::default();
        /// The cases.
        cases: Vec<PolicyTestCase> = "cases" or_required;
    }
}

/// Fields of a case of `palisade eval`, read by the evaluator.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct CaseFields(pub Map<String, Value>);

impl Decode for CaseFields {
    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        let Value::Object(fields) = value else {
            cursor.wrong_type("an object", value);
            return None;
        };
        Some(Self(fields.clone()))
    }
}

/// One case and what should come of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyTestCase {
    /// Unique in its test.
    pub name: String,
    /// The case; given fields win over the defaults.
    #[serde(flatten)]
    pub case: CaseFields,
    /// What is compared.
    pub expect: Expectation,
}

record! {
    /// What should come of a case. Only what is written is compared.
    pub struct Expectation {
        /// `forward`, `respond`, `reset` or `passthrough`.
        outcome: Option<Outcome> = "outcome";
        /// What authorization says.
        decision: Option<Decision> = "decision";
        /// HTTP status.
        status: Option<u16> = "status";
        /// One of the closed list of reasons.
        reason: Option<String> = "reason";
        /// `namespace/name` of the deciding policy; empty: none decided.
        policy: Option<String> = "policy";
        /// Index of the deciding rule in that policy.
        rule: Option<u32> = "rule";
    }
}

choice! {
    /// What authorization says.
    pub enum Decision {
        /// It may go on.
        Allow = "allow",
        /// It may not.
        Deny = "deny",
    }
}

choice! {
    /// What happened to a request.
    pub enum Outcome {
        /// Sent to a configured cluster.
        Forward = "forward",
        /// Answered by the proxy.
        Respond = "respond",
        /// Closed without an answer.
        Reset = "reset",
        /// Passed through unread.
        Passthrough = "passthrough",
    }
}

impl Decode for PolicyTestCase {
    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        let CaseFields(mut fields) = CaseFields::decode(value, cursor)?;
        let name = take::<String>(&mut fields, "name", cursor);
        let expect = take::<Expectation>(&mut fields, "expect", cursor);
        Some(Self { name: name?, case: CaseFields(fields), expect: expect? })
    }
}

fn take<T: Decode>(fields: &mut Map<String, Value>, key: &str, cursor: &mut Cursor<'_>) -> Option<T> {
    match fields.remove(key) {
        Some(value) => cursor.within(key, |cursor| T::decode(&value, cursor)),
        None => {
            cursor.report_at(key, Code::MissingField, format!("`{key}` is required"));
            None
        }
    }
}
