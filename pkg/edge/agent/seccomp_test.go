package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// Localhost profiles lie where docs/pod-fields.md says, or only where older agents looked for them.
func TestSeccompDir(t *testing.T) {
	for name, test := range map[string]struct {
		have []string
		want string
	}{
		"none yet":    {want: "seccomp"},
		"documented":  {have: []string{"seccomp"}, want: "seccomp"},
		"older agent": {have: []string{"pods/seccomp"}, want: "pods/seccomp"},
		"both":        {have: []string{"pods/seccomp", "seccomp"}, want: "seccomp"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for _, dir := range test.have {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if got := seccompDir(root); got != filepath.Join(root, test.want) {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
