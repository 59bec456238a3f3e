//! Firecracker's own description of its API, for tests: what it takes, and nothing else, passes.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

/// The description: `tests/data/firecracker/README.md` says where it is from.
fn api() -> &'static Value {
    static API: OnceLock<Value> = OnceLock::new();
    API.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/firecracker/openapi.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    })
}

/// What is wrong with the body of `request`, `METHOD /path` with names in braces for its variable parts.
pub(super) fn faults(request: &str, body: &Value) -> Vec<String> {
    match api()["bodies"].get(request) {
        Some(schema) => check("body", schema, body),
        None => vec![format!("{request} takes no body, or is none of the API's")],
    }
}

/// What is wrong with `value` as one of `definition`.
pub(super) fn faults_of(definition: &str, value: &Value) -> Vec<String> {
    check(definition, &api()["definitions"][definition], value)
}

/// The little of a schema that this API uses. Unlike a schema's, an object's properties are all there are.
fn check(at: &str, schema: &Value, value: &Value) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return faults_of(reference.strip_prefix("#/definitions/").unwrap(), value)
            .into_iter()
            .map(|f| format!("{at}: {f}"))
            .collect();
    }
    let mut faults = Vec::new();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            faults.push(format!("{at} = {value}: {what}"));
        }
    };
    let (least, most) = (schema["minimum"].as_i64(), schema["maximum"].as_i64());
    match schema["type"].as_str().unwrap_or("any") {
        "object" => expect(value.is_object(), "no object".to_owned()),
        "array" => expect(value.is_array(), "no array".to_owned()),
        "string" => expect(value.is_string(), "no string".to_owned()),
        "boolean" => expect(value.is_boolean(), "no boolean".to_owned()),
        "integer" => {
            let number = value.as_i64();
            expect(number.is_some(), "no integer".to_owned());
            expect(number.is_none_or(|n| least.is_none_or(|least| n >= least)), format!("below {least:?}"));
            expect(number.is_none_or(|n| most.is_none_or(|most| n <= most)), format!("above {most:?}"));
        }
        other => panic!("a schema of type {other}"),
    }
    if let Some(known) = schema["enum"].as_array() {
        expect(known.contains(value), format!("none of {known:?}"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        expect(value.get(name.as_str().unwrap()).is_some(), format!("{name} is missing"));
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        match schema["properties"].get(name) {
            Some(schema) => faults.extend(check(name, schema, inner)),
            None => faults.push(format!("{at} has no {name}")),
        }
    }
    for item in value.as_array().into_iter().flatten() {
        faults.extend(check(at, &schema["items"], item));
    }
    faults
}

#[test]
fn what_does_not_fit_is_told() {
    use serde_json::json;

    assert_eq!(faults("PATCH /vm", &json!({"state": "Paused"})), Vec::<String>::new());
    for (request, body) in [
        ("PATCH /vm", json!({"state": "Stopped"})),
        ("PATCH /vm", json!({})),
        ("PATCH /vm", json!({"state": "Paused", "now": true})),
        ("PUT /vsock", json!({"guest_cid": 2, "uds_path": "v"})),
        ("PUT /vsock", json!({"guest_cid": "3", "uds_path": "v"})),
        ("PUT /snapshot/load", json!({"snapshot_path": "s", "network_overrides": [{"iface_id": "nic"}]})),
        ("PUT /nothing", json!({})),
    ] {
        assert_eq!(faults(request, &body).len(), 1, "{request} {body}");
    }
}
