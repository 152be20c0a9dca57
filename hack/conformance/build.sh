#!/bin/sh
# Builds what "make conformance" runs, all of it upstream's but the pause program:
#   hack/conformance/build.sh DIRECTORY
# Go's build cache decides what there is to do. With the cache of a built Kubernetes it takes about
# three minutes on 2 cores, once.
set -eu

mkdir -p "$1"
output=$(cd "$1" && pwd)
cd "$(dirname "$0")"
version=$(sed -n 's,^\tk8s.io/kubernetes \(v[0-9.]*\).*,\1,p' go.mod)
ldflags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	ldflags="$ldflags -X $package.gitVersion=$version"
done

export CGO_ENABLED=0
go test -c -trimpath -ldflags "$ldflags" -o "$output/e2e.test" .
go build -trimpath -ldflags "-s -w" -o "$output/" ./pause github.com/onsi/ginkgo/v2/ginkgo \
	k8s.io/kubernetes/test/images/agnhost
go build -trimpath -ldflags "-s -w" -o "$output/nnp" k8s.io/kubernetes/test/images/nonewprivs
# agnhost serves HTTPS with a certificate that lies beside its source.
install -m 644 "$(go list -f '{{.Dir}}' k8s.io/kubernetes/test/images/agnhost/porter)"/localhost.* "$output/"
