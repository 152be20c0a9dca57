// Package patch computes patches that touch one very object only. What is patched, and why, belongs
// into the controllers.
package patch

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// Strategic returns the strategic merge patch that turns before into after, nil if they are the same.
// Both are of the same type T and should hold nothing but what is to be compared. The patch fails with
// a conflict on an object with another UID.
func Strategic[T any](uid types.UID, before, after T) ([]byte, error) {
	oldData, err := json.Marshal(before)
	if err != nil {
		return nil, fmt.Errorf("encode the old object: %w", err)
	}
	newData, err := json.Marshal(after)
	if err != nil {
		return nil, fmt.Errorf("encode the new object: %w", err)
	}
	data, err := strategicpatch.CreateTwoWayMergePatch(oldData, newData, before)
	if err != nil {
		return nil, fmt.Errorf("compare objects: %w", err)
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, fmt.Errorf("compare objects: %w", err)
	}
	if len(fields) == 0 {
		return nil, nil
	}
	fields["metadata"] = map[string]any{"uid": uid}
	return json.Marshal(fields)
}
