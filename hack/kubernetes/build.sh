#!/bin/sh
# Builds the multi-call Kubernetes binary that development clusters and tests run:
#   hack/kubernetes/build.sh OUTPUT
# It is built again only if this module has changed since. The first build takes minutes, so it tells
# how far it is.
set -eu

output=$1
cd "$(dirname "$0")"
version=$(sed -n 's,^\tk8s.io/kubernetes \(v[0-9.]*\).*,\1,p' go.mod)
major=$(echo "$version" | sed 's,^v\([0-9]*\)\..*,\1,')
minor=$(echo "$version" | sed 's,^v[0-9]*\.\([0-9]*\)\..*,\1,')
ldflags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	ldflags="$ldflags -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
done

stamp=$( (cat go.mod go.sum main.go; echo "$ldflags") | sha256sum | cut -d' ' -f1)
if [ -x "$output" ] && [ "$(cat "$output.stamp" 2>/dev/null)" = "$stamp" ]; then
	exit 0
fi

mkdir -p "$(dirname "$output")"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "Building Kubernetes $version. This takes about 9 minutes on 2 cores, once."
if ! CGO_ENABLED=0 go list -deps . >"$log" 2>&1; then
	cat "$log" >&2
	exit 1
fi
total=$(grep -vc '^go: ' "$log")
CGO_ENABLED=0 go build -v -trimpath -ldflags "$ldflags" -o "$output.tmp" . >"$log" 2>&1 &
build=$!
trap 'kill $build 2>/dev/null; exit 130' INT TERM
begin=$(date +%s)
while kill -0 $build 2>/dev/null; do
	sleep 1
	elapsed=$(($(date +%s) - begin))
	if [ $((elapsed % 15)) -eq 0 ]; then
		printf '  %d:%02d  %d of at most %d packages compiled\n' $((elapsed / 60)) $((elapsed % 60)) \
			"$(grep -vc '^go: ' "$log")" "$total"
	fi
done
if ! wait $build; then
	cat "$log" >&2
	exit 1
fi
mv "$output.tmp" "$output"
echo "$stamp" >"$output.stamp"
