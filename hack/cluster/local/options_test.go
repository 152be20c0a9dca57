package local

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSource checks that a directory which is not the source tree is refused before anything is made or started.
func TestSource(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, name := range []string{"kubernetes", "cluster", "aranya-apiserver", "arhat", "kubectl-edge"} {
		if err := os.WriteFile(filepath.Join(bin, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		source         string
		kubernetesOnly bool
		want           string
	}{
		"the source tree":          {source: root},
		"elsewhere":                {source: bin, want: "--source"},
		"elsewhere without aranya": {source: bin, kubernetesOnly: true},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Dir: t.TempDir(), Bin: bin, Source: tt.source, KubernetesOnly: tt.kubernetesOnly}
			err := o.complete()
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}
