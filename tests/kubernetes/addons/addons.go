//go:build tools

// Package addons keeps what lies beside the cluster in the module graph: Gateway API for its CRDs (kwok is a tool of go.mod).
package addons

import _ "sigs.k8s.io/gateway-api/apis/v1"
