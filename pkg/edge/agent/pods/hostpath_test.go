package pods

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// A part of the host that goes away, as a disk does, is missed by no container that runs, but by the next to start.
func TestHostPathGoesAway(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		host := filepath.Join(a.dir, "host")
		plug := func() {
			if err := os.Mkdir(host, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		plug()
		pod := newPod("p", box("main"))
		pod.Spec.Volumes = []v1.Volume{
			{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: host, Type: ptr.To(v1.HostPathDirectory)}}},
			{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}},
		}
		a.run(pod)
		update := func(content string) {
			a.manager.UpdateVolumes(&edgeapi.UpdateVolumes{Uid: string(pod.UID), Volumes: []*edgeapi.VolumeData{
				{Name: "config", Files: []*edgeapi.File{{Path: "key", Mode: 0o644, Data: []byte(content)}}},
			}})
			a.settle()
		}
		update("old")
		if len(a.runtime.running()) != 1 {
			t.Fatal("the pod does not run")
		}
		if err := os.Remove(host); err != nil {
			t.Fatal(err)
		}
		told := a.sink.countEvents("FailedMount") // of the content that was not there yet
		time.Sleep(10 * resyncPeriod)
		synctest.Wait()
		if n := a.sink.countEvents("FailedMount") - told; n != 0 {
			t.Errorf("told %d times of a volume that no container waits for", n)
		}
		update("new")
		if data, err := os.ReadFile(filepath.Join(a.manager.volumes.PodDir(string(pod.UID)), "volumes/kubernetes.io~configmap/config/key")); string(data) != "new" {
			t.Errorf("the content of the other volume is %q: %v", data, err)
		}

		a.runtime.end(a.runtime.running()["main"], 1)
		a.settle()
		if len(a.runtime.running()) != 0 || a.sink.countEvents("FailedMount") == told {
			t.Errorf("started without its volume, or nobody is told: %q", a.sink.events)
		}
		plug()
		time.Sleep(errorPeriod)
		a.settle()
		if len(a.runtime.running()) != 1 {
			t.Error("not started though the volume is there again")
		}
	})
}
