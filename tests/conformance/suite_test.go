// Package suite is the Gateway API's conformance suite, unmodified, as a program.
package suite

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	_ "sigs.k8s.io/gateway-api/conformance/utils/flags"
)

// TestConformance runs the tests that the flags choose.
func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
