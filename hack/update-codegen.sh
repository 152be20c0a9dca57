#!/usr/bin/env bash
# Generates code: protobuf, deep copies, defaults, conversions, clients, informers, listers, apply configurations
# and OpenAPI from the types in pkg/apis, and Go from the wire protocol in pkg/edge/api.
#
# The generators are those that hack/tools/go.mod pins; they are built from the Go module proxy, so the
# result does not depend on what the machine has installed.
#
# Environment: TOOLS_BIN, where the generators are built (default: .cache/codegen/bin).
set -o errexit -o nounset -o pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd "${root}"
bin="${TOOLS_BIN:-${root}/.cache/codegen/bin}"

module=arhat.dev/aranya
apis="${module}/pkg/apis/aranya"
generated="${module}/pkg/generated"
header=(--go-header-file /dev/null)
violations=hack/api-violations.list

say() { printf '==> %s\n' "$*"; }

# Types of other modules that OpenAPI definitions are needed for, but whose packages stay as they are.
foreign=(
  k8s.io/api/core/v1
  k8s.io/apimachinery/pkg/api/resource
  k8s.io/apimachinery/pkg/apis/meta/v1
  k8s.io/apimachinery/pkg/runtime
  k8s.io/apimachinery/pkg/version
)
# Packages whose protobuf that of the API refers to.
protobuf_imports=(
  k8s.io/api/core/v1
  k8s.io/apimachinery/pkg/api/resource
  k8s.io/apimachinery/pkg/apis/meta/v1
  k8s.io/apimachinery/pkg/runtime
  k8s.io/apimachinery/pkg/runtime/schema
  k8s.io/apimachinery/pkg/util/intstr
)
# Apply configurations of foreign types come with client-go.
core_types=(NodeAddress PodDNSConfig PodDNSConfigOption Taint)

build_tools() {
  say "building the generators (the first time takes some minutes)"
  mkdir -p "${bin}"
  (cd hack/tools && GOBIN="${bin}" GOFLAGS= go install tool)
  # Of the same version as the protobuf runtime that the generated code calls.
  GOBIN="${bin}" GOFLAGS= go install google.golang.org/protobuf/cmd/protoc-gen-go
  # go-to-protobuf calls protoc, which is not to be had as a Go module; buf can stand in for it.
  printf '#!/bin/sh\nexec buf alpha protoc "$@"\n' >"${bin}/protoc"
  chmod 755 "${bin}/protoc"
  export PATH="${bin}:${PATH}"
}

# remove deletes generated files of one name, so that none survives what it was made from.
remove() { find "$1" -type f -name "$2" -delete; }

# gen_protobuf also gives a field that has no protobuf tag yet the next free number of its message, in the source.
gen_protobuf() {
  say "protobuf of the API"
  remove pkg/apis 'generated.pb.go'
  remove pkg/apis 'generated.proto'
  # Protobuf files import each other by the paths of Go packages: a tree in which those lead to the modules.
  local tree
  tree="$(mktemp -d)"
  trap "rm -r '${tree}'" EXIT
  mkdir -p "${tree}"/{arhat.dev,k8s.io,github.com/gogo}
  ln -s "${root}" "${tree}/${module}"
  ln -s "$(go list -m -f '{{.Dir}}' k8s.io/api)" "${tree}/k8s.io/api"
  ln -s "$(go list -m -f '{{.Dir}}' k8s.io/apimachinery)" "${tree}/k8s.io/apimachinery"
  ln -s "$(cd hack/tools && go list -m -f '{{.Dir}}' github.com/gogo/protobuf)" "${tree}/github.com/gogo/protobuf"
  # "-": imported, but not to be generated.
  go-to-protobuf "${header[@]}" --output-dir "${tree}" \
    --apimachinery-packages "$(printf -- '-%s,' "${protobuf_imports[@]}" | sed 's/,$//')" \
    --packages "${apis}/v1alpha1"
}

gen_helpers() {
  say "deep copies, defaults and conversions"
  remove pkg/apis 'zz_generated.deepcopy.go'
  remove pkg/apis 'zz_generated.defaults.go'
  remove pkg/apis 'zz_generated.conversion.go'
  deepcopy-gen "${header[@]}" --output-file zz_generated.deepcopy.go "${apis}" "${apis}/v1alpha1"
  defaulter-gen "${header[@]}" --output-file zz_generated.defaults.go "${apis}/v1alpha1"
  conversion-gen "${header[@]}" --output-file zz_generated.conversion.go "${apis}/v1alpha1"
}

gen_clients() {
  local external=() t
  for t in "${core_types[@]}"; do
    external+=("k8s.io/api/core/v1.${t}:k8s.io/client-go/applyconfigurations/core/v1")
  done
  rm -rf pkg/generated/{applyconfiguration,clientset,listers,informers}
  say "apply configurations"
  applyconfiguration-gen "${header[@]}" \
    --output-dir pkg/generated/applyconfiguration --output-pkg "${generated}/applyconfiguration" \
    --external-applyconfigurations "$(IFS=,; echo "${external[*]}")" \
    "${apis}/v1alpha1"
  say "clientset"
  client-gen "${header[@]}" --prefers-protobuf \
    --output-dir pkg/generated/clientset --output-pkg "${generated}/clientset" \
    --clientset-name versioned --apply-configuration-package "${generated}/applyconfiguration" \
    --input-base "${module}/pkg/apis" --input aranya/v1alpha1
  say "listers and informers"
  lister-gen "${header[@]}" \
    --output-dir pkg/generated/listers --output-pkg "${generated}/listers" \
    "${apis}/v1alpha1"
  informer-gen "${header[@]}" \
    --output-dir pkg/generated/informers --output-pkg "${generated}/informers" \
    --versioned-clientset-package "${generated}/clientset/versioned" --listers-package "${generated}/listers" \
    "${apis}/v1alpha1"
}

gen_openapi() {
  say "OpenAPI (API rules that are not kept are listed in ${violations})"
  remove pkg/apis 'zz_generated.model_name.go'
  rm -rf pkg/generated/openapi
  local readonly_pkgs=() p
  for p in "${foreign[@]}" k8s.io/apimachinery/pkg/types k8s.io/apimachinery/pkg/util/intstr time; do
    readonly_pkgs+=(--readonly-pkg "${p}")
  done
  openapi-gen "${header[@]}" \
    --output-dir pkg/generated/openapi --output-pkg "${generated}/openapi" \
    --output-file zz_generated.openapi.go --output-model-name-file zz_generated.model_name.go \
    --report-filename "${violations}" \
    "${readonly_pkgs[@]}" "${foreign[@]}" "${apis}/v1alpha1"
}

gen_protocol() {
  say "wire protocol"
  buf lint --config hack/buf.yaml
  buf generate --config hack/buf.yaml --template hack/buf.gen.yaml
}

build_tools
gen_protobuf
gen_helpers
gen_clients
gen_openapi
gen_protocol
say "done"
