package artifacts

import (
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
)

// What the agent starts inherits what binds the agent: commands on the host, and containers of the process runtime.
func TestUnitDoesNotBindCommands(t *testing.T) {
	bind := sets.New("LockPersonality", "MemoryDenyWriteExecute", "NoNewPrivileges", "RestrictAddressFamilies", "RestrictNamespaces",
		"RestrictRealtime", "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallFilter", "CapabilityBoundingSet")
	unit, err := os.ReadFile("arhat/arhat.service")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(unit)) {
		if name, _, _ := strings.Cut(line, "="); bind.Has(name) {
			t.Errorf("%s is inherited", strings.TrimSpace(line))
		}
	}
}
