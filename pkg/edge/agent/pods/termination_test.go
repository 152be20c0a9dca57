package pods

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// TestTerminationFiles has containers end, and fail to be made, many times: only the files of the instances
// that are kept may be left, and they are not lost.
func TestTerminationFiles(t *testing.T) {
	for name, tt := range map[string]struct {
		again func(a *agent, id string)
		want  int
	}{
		"crashes":     {func(a *agent, id string) { a.runtime.end(id, 1) }, keptInstances},
		"all restart": {func(a *agent, id string) { a.runtime.end(id, 42) }, 1},
		"cannot be created": {func(a *agent, id string) {
			a.runtime.set(func() { a.runtime.createErr = errors.New("no") })
			a.runtime.end(id, 1)
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				c := box("main")
				c.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
				c.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
					ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
				pod := newPod("p", c)
				a.run(pod)
				files := func() []string {
					list, err := filepath.Glob(filepath.Join(a.dir, "state", "pods", string(pod.UID), "containers", "main", "*"))
					if err != nil {
						t.Fatal(err)
					}
					return list
				}
				for range 5 {
					if id := a.runtime.running()["main"]; id != "" {
						if err := os.WriteFile(a.runtime.containers[id].Mounts[1].HostPath, []byte("last words"), 0o600); err != nil {
							t.Fatal(err)
						}
						tt.again(a, id)
					}
					time.Sleep(6 * time.Minute)
					synctest.Wait()
				}
				if got := files(); len(got) != tt.want {
					t.Errorf("got files %v, want %d", got, tt.want)
				}
				if last := a.status(pod).ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.Message != "last words" {
					t.Errorf("got last state %v", last)
				}
			})
		})
	}
}
