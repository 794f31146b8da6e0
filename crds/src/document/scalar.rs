//! What a plain scalar means: the rules of the YAML reader that Kubernetes uses (sigs.k8s.io/yaml), where `yes` and `on` are booleans.

use serde_json::{Number, Value};

/// The value of an unquoted scalar. `Err` for infinities and NaN, which JSON cannot carry.
pub(super) fn resolve(text: &str) -> Result<Value, &'static str> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Ok(Value::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Ok(Value::Bool(false));
        }
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf"
        | "-.INF" => {
            return Err("JSON has no infinity and no NaN");
        }
        _ => {}
    }
    if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        let digits = text.replace('_', "");
        if let Some(number) = integer(&digits).or_else(|| float(&digits)) {
            return Ok(Value::Number(number));
        }
    }
    Ok(Value::String(text.to_owned()))
}

/// Go's `strconv.ParseInt` with base 0: `0x`, `0o`, `0b`, and a leading zero for octal.
fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let prefixed = |lower: &str, upper: &str| digits.strip_prefix(lower).or_else(|| digits.strip_prefix(upper));
    let (digits, radix) = if let Some(digits) = prefixed("0x", "0X") {
        (digits, 16)
    } else if let Some(digits) = prefixed("0o", "0O") {
        (digits, 8)
    } else if let Some(digits) = prefixed("0b", "0B") {
        (digits, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (digits.trim_start_matches('0'), 8)
    } else {
        (digits, 10)
    };
    let digits = if digits.is_empty() && radix == 8 { "0" } else { digits };
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative { 0_i64.checked_sub_unsigned(magnitude).map(Number::from) } else { Some(Number::from(magnitude)) }
}

fn float(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) =
        unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if digits.is_empty() || !is_digits(digits) {
            return None;
        }
    }
    let value: f64 = text.parse().ok()?;
    whole_number(value).or_else(|| Number::from_f64(value))
}

/// Go writes `80.0` as the JSON number `80`, so a schema that asks for an integer takes it.
fn whole_number(value: f64) -> Option<Number> {
    const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() != 0.0 || value.abs() > LARGEST_EXACT {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole and at most 2^53")]
    let whole = value as i64;
    Some(Number::from(whole))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars_mean_what_kubernetes_reads() {
        let rows = [
            ("80", json!(80)),
            ("-5", json!(-5)),
            ("+5", json!(5)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("010", json!(8)),
            ("0", json!(0)),
            ("00", json!(0)),
            ("08", json!(8)),
            ("1_000", json!(1000)),
            ("1.5", json!(1.5)),
            ("80.0", json!(80)),
            ("1e3", json!(1000)),
            (".5", json!(0.5)),
            ("18446744073709551615", json!(u64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("n", json!(false)),
            ("~", Value::Null),
            ("1.2.3", json!("1.2.3")),
            ("10s", json!("10s")),
            ("2026-01-01T00:00:00Z", json!("2026-01-01T00:00:00Z")),
            ("-", json!("-")),
            ("0x", json!("0x")),
            ("1e", json!("1e")),
            ("tRue", json!("tRue")),
            ("+-5", json!("+-5")),
            ("0x-5", json!("0x-5")),
        ];
        for (text, value) in rows {
            assert_eq!(resolve(text), Ok(value), "{text}");
        }
        assert!(resolve(".inf").is_err());
    }
}
