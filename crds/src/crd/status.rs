//! Schemas of `status`.

use serde_json::{Value, json};

/// What Istio's kinds carry: conditions and messages of analysis. Fields that others write are kept.
pub(super) fn istio() -> Value {
    json!({
        "description": "What controllers say about the object.",
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "conditions": {
                "description": "One entry for each aspect.",
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "type": {"description": "The aspect.", "type": "string"},
                        "status": {"description": "True, False or Unknown.", "type": "string"},
                        "reason": {"description": "Why, in one word.", "type": "string"},
                        "message": {"description": "Why, for people.", "type": "string"},
                        "observedGeneration": {
                            "description": "The generation that this is about.", "x-kubernetes-int-or-string": true,
                        },
                        "lastProbeTime": {"description": "When it was last looked at.", "type": "string", "format": "date-time"},
                        "lastTransitionTime": {
                            "description": "Since when it has this status.", "type": "string", "format": "date-time",
                        },
                    },
                },
            },
            "observedGeneration": {"description": "The generation that this is about.", "x-kubernetes-int-or-string": true},
            "validationMessages": {
                "description": "Findings of analysis.",
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "type": {
                            "description": "Which finding.",
                            "type": "object",
                            "properties": {
                                "name": {"description": "For people.", "type": "string"},
                                "code": {"description": "For machines.", "type": "string"},
                            },
                        },
                        "level": {
                            "description": "How bad it is.", "type": "string", "enum": ["UNKNOWN", "ERROR", "WARNING", "INFO"],
                        },
                        "documentationUrl": {"description": "Where it is explained.", "type": "string"},
                    },
                },
            },
        },
    })
}

/// What policies carry by GEP-713: conditions as a whole, and for each object that they attach to.
pub(super) fn policy() -> Value {
    json!({
        "description": "What controllers say about the object.",
        "type": "object",
        "properties": {
            "observedGeneration": {
                "description": "The newest generation that was read.", "type": "integer", "format": "int64", "minimum": 0,
            },
            "conditions": conditions(),
            "ancestors": {
                "description": "What became of it at each object that it attaches to.",
                "type": "array",
                "maxItems": 16,
                "items": {
                    "type": "object",
                    "required": ["ancestorRef", "controllerName"],
                    "properties": {
                        "ancestorRef": {
                            "description": "The object.",
                            "type": "object",
                            "required": ["name"],
                            "properties": {
                                "group": {"description": "API group; empty is the core group.", "type": "string", "maxLength": 253},
                                "kind": {"description": "Kind.", "type": "string", "minLength": 1, "maxLength": 63},
                                "namespace": {"description": "Namespace.", "type": "string", "minLength": 1, "maxLength": 63},
                                "name": {"description": "Name.", "type": "string", "minLength": 1, "maxLength": 253},
                                "sectionName": {
                                    "description": "A part of the object.", "type": "string", "minLength": 1, "maxLength": 253,
                                },
                                "port": {
                                    "description": "A port of the object.",
                                    "type": "integer", "format": "int32", "minimum": 1, "maximum": 65535,
                                },
                            },
                        },
                        "controllerName": {
                            "description": "Who says so.", "type": "string", "minLength": 1, "maxLength": 253,
                        },
                        "conditions": conditions(),
                    },
                },
            },
        },
    })
}

fn conditions() -> Value {
    json!({
        "description": "One entry for each aspect.",
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"description": "The aspect, such as Accepted or Enforced.", "type": "string", "maxLength": 316},
                "status": {"description": "Whether it holds.", "type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"description": "Why, in one word.", "type": "string", "minLength": 1, "maxLength": 1024},
                "message": {"description": "Why, for people.", "type": "string", "maxLength": 32768},
                "observedGeneration": {
                    "description": "The generation that this is about.", "type": "integer", "format": "int64", "minimum": 0,
                },
                "lastTransitionTime": {
                    "description": "Since when it has this status.", "type": "string", "format": "date-time",
                },
            },
        },
    })
}
