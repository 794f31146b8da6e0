//! Statuses as they are, and what is made of them.

use serde_json::json;

use super::*;

const NOW: &str = "2026-11-30T12:00:00Z";
const BEFORE: &str = "2026-11-29T12:00:00Z";
const ROUTE: Shape = Shape::Entries { list: "parents", reference: "parentRef" };

fn condition(kind: &str, status: &str, generation: i64, time: Option<&str>) -> Value {
    let mut condition =
        json!({"type": kind, "status": status, "reason": kind, "message": "", "observedGeneration": generation});
    if let Some(time) = time {
        condition["lastTransitionTime"] = time.into();
    }
    condition
}

fn parent(name: &str, controller: &str, conditions: Vec<Value>) -> Value {
    json!({"parentRef": {"name": name}, "controllerName": controller, "conditions": conditions})
}

#[test]
fn another_controllers_parents_stay_as_they_are() {
    let foreign = parent("other", "example.com/other", vec![condition("Accepted", "True", 1, Some(BEFORE))]);
    let old = parent("edge", CONTROLLER_NAME, vec![condition("Accepted", "False", 1, Some(BEFORE))]);
    let held = json!({"parents": [old, foreign.clone()]});
    let wanted = json!({"parents": [parent("edge", CONTROLLER_NAME, vec![condition("Accepted", "True", 2, None)])]});
    let written = change(ROUTE, &held, &wanted, NOW).unwrap();
    assert!(written.is_urgent);
    assert_eq!(written.status["parents"][0], foreign);
    assert_eq!(written.status["parents"][1]["conditions"][0], condition("Accepted", "True", 2, Some(NOW)));
    assert_eq!(change(ROUTE, &written.status, &wanted, "later"), None);
}

#[test]
fn a_route_that_left_us_keeps_only_others() {
    let foreign = parent("other", "example.com/other", Vec::new());
    let held = json!({"parents": [parent("edge", CONTROLLER_NAME, Vec::new()), foreign.clone()]});
    let written = change(ROUTE, &held, &json!({"parents": []}), NOW).unwrap();
    assert_eq!(written.status, json!({"parents": [foreign.clone()]}));
    assert_eq!(change(ROUTE, &json!({"parents": [foreign]}), &json!({"parents": []}), NOW), None);
    assert_eq!(change(ROUTE, &json!({}), &json!({"parents": []}), NOW), None);
}

#[test]
fn a_time_changes_with_the_status_alone() {
    let held = json!({"conditions": [condition("Accepted", "True", 1, Some(BEFORE)), condition("Programmed", "False", 1, Some(BEFORE))]});
    let wanted =
        json!({"conditions": [condition("Accepted", "True", 2, None), condition("Programmed", "True", 2, None)]});
    let written = change(Shape::Own, &held, &wanted, NOW).unwrap().status;
    assert_eq!(written["conditions"][0], condition("Accepted", "True", 2, Some(BEFORE)));
    assert_eq!(written["conditions"][1], condition("Programmed", "True", 2, Some(NOW)));
}

#[test]
fn a_text_alone_is_not_urgent() {
    let held = json!({"conditions": [condition("Accepted", "True", 1, Some(BEFORE))]});
    let mut wanted = json!({"conditions": [condition("Accepted", "True", 1, None)]});
    assert_eq!(change(Shape::Own, &held, &wanted, NOW), None);
    wanted["conditions"][0]["message"] = "Enforced 2/2".into();
    assert!(!change(Shape::Own, &held, &wanted, NOW).unwrap().is_urgent);
    wanted["conditions"][0]["observedGeneration"] = 2.into();
    assert!(change(Shape::Own, &held, &wanted, NOW).unwrap().is_urgent);
}

#[test]
fn listeners_that_are_gone_and_conditions_that_no_longer_apply_are_taken_out() {
    let listener =
        |name: &str, conditions: Vec<Value>| json!({"name": name, "attachedRoutes": 0, "conditions": conditions});
    let accepted = |time| condition("Accepted", "True", 1, time);
    let overlap = condition("OverlappingTLSConfig", "True", 1, Some(BEFORE));
    let held = json!({"listeners": [listener("a", vec![accepted(Some(BEFORE)), overlap]), listener("b", Vec::new())]});
    let one = json!({"listeners": [listener("a", vec![accepted(None)]), listener("b", Vec::new())]});
    let written = change(Shape::Own, &held, &one, NOW).unwrap();
    assert_eq!(written.status["listeners"][0]["conditions"], json!([accepted(Some(BEFORE))]));
    let fewer = json!({"listeners": [listener("a", vec![accepted(None)])]});
    assert!(change(Shape::Own, &written.status, &fewer, NOW).is_some());
}

#[test]
fn istios_own_conditions_and_messages_stay() {
    let theirs = json!({"type": "Reconciled", "status": "True", "lastTransitionTime": BEFORE});
    let message = json!({"level": "ERROR", "type": {"code": "IST0101"}});
    let held =
        json!({"conditions": [theirs.clone()], "validationMessages": [message.clone()], "observedGeneration": 1});
    let ours = json!({"level": "WARNING", "type": {"code": "PLS0202", "name": "…"}});
    let wanted = json!({
        "conditions": [condition("Accepted", "True", 2, None)],
        "observedGeneration": 2,
        "validationMessages": [ours.clone()],
    });
    let written = change(Shape::Istio, &held, &wanted, NOW).unwrap().status;
    assert_eq!(written["conditions"], json!([theirs.clone(), condition("Accepted", "True", 2, Some(NOW))]));
    assert_eq!(written["validationMessages"], json!([message.clone(), ours]));
    assert_eq!(change(Shape::Istio, &written, &wanted, NOW), None);
    // Without findings of ours theirs are left.
    let clean = json!({"conditions": [condition("Accepted", "True", 2, None)], "observedGeneration": 2});
    let held = json!({"conditions": [theirs], "validationMessages": [message.clone()], "observedGeneration": 1});
    assert_eq!(change(Shape::Istio, &held, &clean, NOW).unwrap().status["validationMessages"], json!([message]));
}

#[test]
fn findings_that_are_gone_are_taken_out() {
    let ours = json!({"level": "WARNING", "type": {"code": "PLS0202", "name": "…"}});
    let conditions = [condition("Accepted", "True", 1, Some(BEFORE))];
    let held = json!({"conditions": conditions, "observedGeneration": 1, "validationMessages": [ours]});
    let wanted = json!({"conditions": [condition("Accepted", "True", 1, None)], "observedGeneration": 1});
    let written = change(Shape::Istio, &held, &wanted, NOW).unwrap().status;
    assert!(written.get("validationMessages").is_none_or(|list| list == &json!([])), "{written}");
}

#[test]
fn addresses_of_hosts_are_written_and_taken_away() {
    let conditions = json!([condition("Accepted", "True", 1, None)]);
    let address = json!([{"host": "www.example.com", "value": "240.240.0.1"}]);
    let with = json!({"conditions": conditions, "observedGeneration": 1, "addresses": address});
    let without = json!({"conditions": conditions, "observedGeneration": 1});
    let written = change(Shape::Istio, &json!({}), &with, NOW).unwrap().status;
    assert_eq!(written["addresses"], address);
    assert_eq!(change(Shape::Istio, &written, &with, NOW), None);
    // What an empty list takes away is gone whoever wrote it.
    let cleared = change(Shape::Istio, &written, &without, NOW).unwrap().status;
    assert_eq!(cleared["addresses"], json!([]));
    assert_eq!(change(Shape::Istio, &cleared, &without, NOW), None);
    assert!(change(Shape::Istio, &json!({}), &without, NOW).unwrap().status.get("addresses").is_none());
}
