#!/usr/bin/env bash
# Checks that the generated code is what hack/update-codegen.sh makes of the types and the wire
# protocol. It generates in a copy and compares; the working tree is not changed.
#
# Environment: TOOLS_BIN, as for update-codegen.sh.
set -o errexit -o nounset -o pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd "${root}"

# All that generation reads and writes.
paths=(pkg/apis pkg/generated pkg/edge/api hack/api-violations.list)
inputs=(go.mod go.sum hack/tools hack/buf.yaml hack/buf.gen.yaml hack/update-codegen.sh)

copy="$(mktemp -d)"
trap 'rm -rf "${copy}"' EXIT
tar -cf - "${paths[@]}" "${inputs[@]}" | tar -xf - -C "${copy}"

export TOOLS_BIN="${TOOLS_BIN:-${root}/.cache/codegen/bin}"
if ! "${copy}/hack/update-codegen.sh"; then
  echo "ERROR: generating code failed, see above. Nothing was compared." >&2
  exit 1
fi

status=0
for path in "${paths[@]}"; do
  diff -Naur "${path}" "${copy}/${path}" || status=1
done
if [ "${status}" -ne 0 ]; then
  cat >&2 <<'TEXT'
ERROR: the generated code does not match its sources (differences above: "-" is what is there, "+" is
what should be). Run hack/update-codegen.sh and commit the result. Never edit generated files. If a line
was added to hack/api-violations.list, mend the type instead, unless there is a good reason not to.
TEXT
  exit 1
fi
echo "The generated code is up to date."
