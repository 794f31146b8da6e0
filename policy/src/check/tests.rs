//! What strict checking refuses, and how it says so.

use super::*;

fn messages(text: &str) -> String {
    let findings = check_text(text).err().unwrap_or_default();
    findings.into_iter().map(|f| f.message).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_strict_checking_refuses() {
    let rows = [
        (
            "unguarded optional",
            r#"forbid(principal, action == Mesh::Action::"tcp", resource) when { context.tls.sni == "evil" };"#,
            "sni",
        ),
        (
            "unguarded tag",
            r#"forbid(principal, action == Mesh::Action::"http", resource) when { context.http.headers.getTag("x").contains("y") };"#,
            "tag",
        ),
        ("http at L4", r#"forbid(principal, action, resource) when { context.http.method == "DELETE" };"#, "http"),
        (
            "arithmetic",
            r#"forbid(principal, action, resource) when { context.destination.port * 2 > 5 };"#,
            "arithmetic",
        ),
        ("negation", r#"forbid(principal, action, resource) when { -context.destination.port < 5 };"#, "arithmetic"),
        (
            "impossible",
            r#"permit(principal is Mesh::Anonymous, action, resource) when { principal in Mesh::Namespace::"a" };"#,
            "impossible",
        ),
        (
            "users are no principals",
            r#"permit(principal in Mesh::Issuer::"x", action == Mesh::Action::"http", resource);"#,
            "",
        ),
        (
            "bad block",
            r#"permit(principal, action, resource) when { context.source.ip.isInRange(ip("10.0.0.0/33")) };"#,
            "IP address",
        ),
        (
            "misplaced pattern",
            r#"permit(principal, action, resource) when { context.matched.contains("paths=/a/{*}") };"#,
            "context.http.matched",
        ),
        (
            "unknown pattern",
            r#"permit(principal, action, resource) when { context.matched.contains("regex=.*") };"#,
            "not a pattern",
        ),
        (
            "computed header",
            r#"permit(principal, action == Mesh::Action::"http", resource) when { context.http.headers.hasTag(context.http.method) };"#,
            "written out",
        ),
        (
            "upper-case header",
            r#"permit(principal, action == Mesh::Action::"http", resource) when { context.http.headers.hasTag("X-A") };"#,
            "lower case",
        ),
        ("two policies", "permit(principal, action, resource); permit(principal, action, resource);", ""),
        ("template", "permit(principal == ?principal, action, resource);", ""),
    ];
    for (name, text, part) in rows {
        let messages = messages(text);
        assert!(!messages.is_empty() && messages.contains(part), "{name}: {messages}");
    }
}

#[test]
fn findings_name_line_and_column() {
    let text = "permit(principal, action == Mesh::Action::\"http\", resource)\nwhen { context.http.metod == \"GET\" };";
    let findings = check_text(text).unwrap_err();
    assert_eq!((findings[0].line, findings[0].column), (Some(2), Some(8)), "{findings:?}");
    let findings = check_text("permit(principal,\n  action resource);").unwrap_err();
    assert_eq!(findings[0].line, Some(2), "{findings:?}");
}

#[test]
fn a_flat_chain_of_468_ranges_is_refused_and_deep_brackets_too() {
    let chain: Vec<String> =
        (0..468).map(|i| format!("context.source.ip.isInRange(ip(\"11.{}.{}.0/24\"))", i / 256, i % 256)).collect();
    let text = format!("forbid(principal, action, resource) when {{ {} }};", chain.join(" || "));
    assert!(messages(&text).contains("nests deeper"));
    let text = format!("forbid(principal, action, resource) when {{ {}true{} }};", "(".repeat(5000), ")".repeat(5000));
    assert!(messages(&text).contains("nests deeper"));
}
