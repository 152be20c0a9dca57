#!/bin/sh
# Runs the fuzz targets of this module, one after the other:
#   hack/fuzz.sh TIME [PATTERN]
# each for TIME, or only those whose names match PATTERN. An input that fails is left in testdata/fuzz beside the
# target: with a fix it is committed, and from then on run with the unit tests.
set -eu

time=$1
pattern=${2:-.}
cd "$(dirname "$0")/.."
failed=
for found in $(grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' cmd hack pkg test | sed 's,/[^/]*:func ,:,' | sort); do
	package=./${found%:*}
	target=${found##*:}
	if ! echo "$target" | grep -qE -e "$pattern"; then
		continue
	fi
	echo "$package $target"
	# Anchored: go test fuzzes one target at a time.
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" || failed="$failed $package:$target"
done
if [ -n "$failed" ]; then
	echo "Failed:$failed" >&2
	exit 1
fi
