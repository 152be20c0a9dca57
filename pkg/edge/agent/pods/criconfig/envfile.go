package criconfig

import (
	"errors"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/pkg/edge/agent/volumes"
)

// maxEnvFile bounds the size of a file with variables in bytes.
const maxEnvFile = 64 << 10

// errNoValue says that an optional variable has no value: it is left out.
var errNoValue = errors.New("it has no value")

// fileValue returns the value of a key in a file that a container has written to one of the pod's
// volumes.
func fileValue(files Files, ref *v1.FileKeySelector) (string, error) {
	optional := ref.Optional != nil && *ref.Optional
	volume, ok := files.Mounted[ref.VolumeName]
	if !ok {
		return "", fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	data, err := volumes.ReadFile(volume, ref.Path, maxEnvFile)
	if err != nil {
		if optional && volumes.IsNotExist(err) {
			return "", errNoValue
		}
		return "", fmt.Errorf("couldn't read env file %q of volume %q: %w", ref.Path, ref.VolumeName, err)
	}
	values, err := parseEnvFile(string(data))
	if err != nil {
		return "", fmt.Errorf("couldn't parse env file %q of volume %q: %w", ref.Path, ref.VolumeName, err)
	}
	value, ok := values[ref.Key]
	switch {
	case ok:
		return value, nil
	case optional:
		return "", errNoValue
	}
	return "", fmt.Errorf("environment variable key %q not found in file %q of volume %q", ref.Key, ref.Path, ref.VolumeName)
}

// parseEnvFile reads lines of the form NAME='value'. What is between the quotes is taken as it is and
// may have several lines. Empty lines and those that begin with # are left out, and the last value of a
// name counts.
func parseEnvFile(text string) (map[string]string, error) {
	values := map[string]string{}
	for number := 1; text != ""; {
		line, rest, _ := strings.Cut(text, "\n")
		if trimmed := strings.TrimSpace(line); trimmed == "" || trimmed[0] == '#' {
			text = rest
			number++
			continue
		}
		name, after, found := strings.Cut(strings.TrimLeft(text, " \t"), "=")
		if !found || strings.ContainsAny(name, "\n \t'") || name == "" {
			return nil, fmt.Errorf("line %d: it is not of the form NAME='value'", number)
		}
		if !strings.HasPrefix(after, "'") {
			return nil, fmt.Errorf("line %d: the value of %s is not in single quotes", number, name)
		}
		value, after, found := strings.Cut(after[1:], "'")
		if !found {
			return nil, fmt.Errorf("line %d: the value of %s has no closing quote", number, name)
		}
		remains, next, _ := strings.Cut(after, "\n")
		if strings.TrimSpace(remains) != "" {
			return nil, fmt.Errorf("line %d: there is something after the value of %s", number, name)
		}
		values[name] = value
		number += strings.Count(value, "\n") + 1
		text = next
	}
	return values, nil
}
