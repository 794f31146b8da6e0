# Thin: each target calls a script or cargo. `make demo` and `make test` are the two commands of the README.

SCRIPTS := deploy/scripts
.PHONY: demo demo-kubernetes test test-long test-node images build bench bench-control lint golden conformance prerequisites

demo:
	@$(SCRIPTS)/prerequisites build demo
	@$(SCRIPTS)/demo

demo-kubernetes:
	@$(SCRIPTS)/prerequisites build demo node
	@$(SCRIPTS)/demo-kubernetes

images:
	@$(SCRIPTS)/prerequisites build images
	@$(SCRIPTS)/images

test-node:
	@$(SCRIPTS)/prerequisites build demo node
	@$(SCRIPTS)/test-node

test:
	@$(SCRIPTS)/prerequisites build demo test
	@$(SCRIPTS)/test

test-long:
	@$(SCRIPTS)/prerequisites build demo test
	@PALISADE_LONG=1 $(SCRIPTS)/test

build:
	@$(SCRIPTS)/prerequisites build
	@$(SCRIPTS)/build

bench:
	@$(SCRIPTS)/prerequisites build demo bench
	@$(SCRIPTS)/bench

bench-%:
	@$(SCRIPTS)/prerequisites build demo bench
	@$(SCRIPTS)/bench $*

lint:
	@$(SCRIPTS)/prerequisites build lint
	@$(SCRIPTS)/lint

# The only one that needs a Kubernetes API server.
bench-control:
	@$(SCRIPTS)/prerequisites build test
	@$(SCRIPTS)/bench control

golden:
	@PALISADE_GOLDEN=write $(SCRIPTS)/test golden

# The Gateway API's own suite on a real node; the report goes to docs/conformance/.
conformance:
	@$(SCRIPTS)/prerequisites build test
	@$(SCRIPTS)/conformance

prerequisites:
	@$(SCRIPTS)/prerequisites
