package pods

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"k8s.io/kubelet/pkg/types"

	"arhat.dev/aranya/pkg/edge/agent/cgroups"
	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

// Of pods that are not known, cgroups are removed unless the runtime has the pod: its record may have been lost.
func TestCgroupsOfUnknownPods(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		a.stop()
		mount := filepath.Join(a.dir, "cgroup")
		for _, uid := range []string{"running", "gone"} {
			if err := os.MkdirAll(filepath.Join(mount, "kubepods/burstable/pod"+uid), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(mount, "cgroup.controllers"), []byte("cpu memory pids\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		a.cgroups = cgroups.New(mount, "kubepods")
		a.runtime.foreign("sandbox", map[string]string{types.KubernetesPodUIDLabel: "running", podutil.LabelManagedBy: DefaultOwner})
		a.runtime.set(func() { a.runtime.down = errors.New("down") })
		a.start()
		a.settle()
		if got := a.cgroups.Pods(); !slices.Equal(got, []string{"gone", "running"}) {
			t.Errorf("got cgroups of %q while nobody knows what the runtime has", got)
		}
		a.runtime.set(func() { a.runtime.down = nil })
		time.Sleep(2 * time.Minute)
		a.settle()
		if got := a.cgroups.Pods(); !slices.Equal(got, []string{"running"}) {
			t.Errorf("got cgroups of %q, want that of the running pod", got)
		}
	})
}
