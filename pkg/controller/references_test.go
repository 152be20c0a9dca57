package controller

import (
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/eventually"
)

func secret(value string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "edge", Name: "s"}, Data: map[string][]byte{"key": []byte(value)}}
}

func withSecret(p *corev1.Pod) {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "secret", VolumeSource: corev1.VolumeSource{
		Secret: &corev1.SecretVolumeSource{SecretName: "s"},
	}})
}

func withToken(p *corev1.Pod) {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "token", VolumeSource: corev1.VolumeSource{
		Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
		}},
	}})
}

func TestMissingReferences(t *testing.T) {
	ed := edgeDevice("d1")
	ed.Status.Device = &aranya.DeviceInfo{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "d1"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.7"},
	}}
	c := newCluster(t, time.Hour, ed, edgePod("p", "d1", withEnv))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "status says what is missing", func() bool {
		statuses := c.pod("p").Status.ContainerStatuses
		return len(statuses) == 1 && statuses[0].State.Waiting != nil && statuses[0].State.Waiting.Reason == "CreateContainerConfigError" &&
			statuses[0].State.Waiting.Message == `configmap "cm" not found`
	})
	eventually.Holds(t, "event on the container", func() bool {
		list, err := c.kube.CoreV1().Events("edge").List(c.ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
			return e.Reason == "Failed" && e.Message == `Error: configmap "cm" not found` && e.InvolvedObject.FieldPath == "spec.containers{main}"
		})
	})
	if c.pod("p").Status.Phase != corev1.PodPending || len(s.runs()) > 0 {
		t.Error("the pod is not held back")
	}
	if got := c.pod("p").Status; got.HostIP != "10.0.0.7" || len(got.HostIPs) != 1 {
		t.Errorf("the pod is on %q, %v, want the address of the device", got.HostIP, got.HostIPs)
	}
	if _, err := c.kube.CoreV1().ConfigMaps("edge").Create(c.ctx, configMap("cm", "$1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
	var sent corev1.Pod
	if err := sent.Unmarshal(s.runs()[0].Pod); err != nil {
		t.Fatal(err)
	}
	if got := sent.Spec.Containers[0].Env; len(got) != 1 || got[0].Value != "$$1" || got[0].ValueFrom != nil {
		t.Errorf("env: %v", got)
	}
}

// TestReferenceOfARunningPodDisappears deletes something that a pod on a device refers to: the other
// volumes are kept up to date, and the pod is not told to be failing.
func TestReferenceOfARunningPodDisappears(t *testing.T) {
	for name, tt := range map[string]struct {
		from  func(*corev1.Pod)
		event string // that is due
	}{
		"environment":  {from: withEnv},
		"other volume": {from: withVolume, event: "FailedMount"},
	} {
		t.Run(name, func(t *testing.T) {
			ed := edgeDevice("d1")
			c := newCluster(t, time.Hour, ed, configMap("cm", "1"), secret("1"), edgePod("p", "d1", tt.from, withSecret))
			configMaps, secrets := c.kube.CoreV1().ConfigMaps("edge"), c.kube.CoreV1().Secrets("edge")
			s := c.connect(newSession(ed))
			eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
			c.report(s, c.pod("p"), running())
			updated := func(value string) func() bool {
				return func() bool {
					updates := s.updates()
					if len(updates) == 0 {
						return false
					}
					last := updates[len(updates)-1].Volumes
					return len(last) == 1 && last[0].Name == "secret" && string(last[0].Files[0].Data) == value
				}
			}

			if err := configMaps.Delete(c.ctx, "cm", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := secrets.Update(c.ctx, secret("2"), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually.Holds(t, "the Secret updated", updated("2"))
			if tt.event != "" {
				eventually.Holds(t, tt.event, func() bool { return slices.Contains(c.events("Pod", "p"), tt.event) })
			}

			// The same over the next link, of which it is not known what the volumes held before.
			held := &edgeapi.PodDigest{Uid: "uid-of-p", Digest: s.runs()[0].Digest, VolumesDigest: s.updates()[0].VolumesDigest}
			c.cut(s, "gone")
			s = c.connect(newSession(ed, held))
			if _, err := secrets.Update(c.ctx, secret("3"), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually.Holds(t, "the Secret updated over the next link", updated("3"))

			// What changes in the pod itself has to wait.
			change := c.pod("p")
			change.Generation, change.Labels = 2, map[string]string{"changed": "yes"}
			if _, err := c.kube.CoreV1().Pods("edge").Update(c.ctx, change, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually.Holds(t, "that told", func() bool { return slices.Contains(c.events("Pod", "p"), "FailedSync") })
			if len(s.runs()) > 0 {
				t.Error("the pod was sent incomplete")
			}
			if _, err := configMaps.Create(c.ctx, configMap("cm", "1"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually.Holds(t, "the pod's change sent", func() bool { return len(s.runs()) == 1 })
			if events := c.events("Pod", "p"); slices.Contains(events, "Failed") {
				t.Errorf("events of a pod that runs: %v", events)
			}
		})
	}
}

// A device has lost its record of a pod that runs there, and something that the pod refers to is gone: as it cannot be
// sent again, its status stays.
func TestReferenceOfALostPodIsMissing(t *testing.T) {
	initialized := corev1.PodStatus{Phase: corev1.PodPending, InitContainerStatuses: []corev1.ContainerStatus{{Name: "init", ContainerID: "runtime://1"}}}
	for name, tt := range map[string]struct {
		from   func(*corev1.Pod)
		status corev1.PodStatus
		events []string
	}{
		"environment":        {from: withEnv, status: running(), events: []string{"FailedSync"}},
		"volume":             {from: withVolume, status: running(), events: []string{"FailedMount", "FailedSync"}},
		"initializing":       {from: withVolume, status: initialized, events: []string{"FailedMount", "FailedSync"}},
		"environment and it": {from: withEnv, status: initialized, events: []string{"FailedSync"}},
	} {
		t.Run(name, func(t *testing.T) {
			ed, pod := edgeDevice("d1"), edgePod("p", "d1", tt.from)
			pod.Status = tt.status
			c := newCluster(t, time.Hour, ed, pod)
			s := c.connect(newSession(ed))
			eventually.Holds(t, "told what is missing", func() bool {
				got := c.events("Pod", "p")
				slices.Sort(got)
				return slices.Equal(slices.Compact(got), tt.events)
			})
			if _, err := c.kube.CoreV1().ConfigMaps("edge").Create(c.ctx, configMap("cm", "1"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
			if got := c.pod("p").Status; !apiequality.Semantic.DeepEqual(got, tt.status) {
				t.Errorf("the status is %v, want %v", got, tt.status)
			}
		})
	}
}

func TestRunningPodWithoutToken(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, secret("1"))
	c.kube.PrependReactor("create", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no token today")
	})
	if _, err := c.kube.CoreV1().Pods("edge").Create(c.ctx, edgePod("p", "d1", withSecret, withToken), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s := c.connect(newSession(ed, &edgeapi.PodDigest{Uid: "uid-of-p", Digest: "held", VolumesDigest: "outdated"}))
	eventually.Holds(t, "the Secret updated", func() bool { return len(s.updates()) == 1 })
	if volumes := s.updates()[0].Volumes; len(volumes) != 1 || volumes[0].Name != "secret" {
		t.Errorf("updated: %v", volumes)
	}
	eventually.Holds(t, "told what is missing", func() bool { return slices.Contains(c.events("Pod", "p"), "FailedMount") })
}

// TestImmutableConfigMapIsReplaced has a pod come while another still uses the ConfigMap of before.
func TestImmutableConfigMapIsReplaced(t *testing.T) {
	immutable := func(uid types.UID, value string) *corev1.ConfigMap {
		cm := configMap("cm", value)
		cm.UID, cm.Immutable = uid, ptr.To(true)
		return cm
	}
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed, immutable("1", "1"), edgePod("old", "d1", withVolume))
	s := c.connect(newSession(ed))
	eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
	configMaps := c.kube.CoreV1().ConfigMaps("edge")
	if err := configMaps.Delete(c.ctx, "cm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := configMaps.Create(c.ctx, immutable("2", "2"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.kube.CoreV1().Pods("edge").Create(c.ctx, edgePod("new", "d1", withVolume), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.Holds(t, "new pod sent", func() bool { return len(s.runs()) == 2 })
	if run := s.runs()[1]; run.Uid != "uid-of-new" || string(run.Volumes[0].Files[0].Data) != "2" {
		t.Errorf("sent: %v", run)
	}
}

// A pod for which no token is to be had waits as on any Node, and the user is told in the words of the kubelet.
func TestPodWithoutToken(t *testing.T) {
	ed := edgeDevice("d1")
	c := newCluster(t, time.Hour, ed)
	c.kube.PrependReactor("create", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewNotFound(corev1.Resource("serviceaccounts"), "x")
	})
	if _, err := c.kube.CoreV1().Pods("edge").Create(c.ctx, edgePod("p", "d1", withToken), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.connect(newSession(ed))
	eventually.Holds(t, "status of a pod that waits for its volumes", func() bool {
		status := c.pod("p").Status
		return status.StartTime != nil && len(status.Conditions) == 5 && len(status.ContainerStatuses) == 1 &&
			status.ContainerStatuses[0].State.Waiting != nil && status.ContainerStatuses[0].State.Waiting.Reason == "ContainerCreating"
	})
	eventually.Holds(t, "event", func() bool {
		list, err := c.kube.CoreV1().Events("edge").List(c.ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
			return e.Reason == "FailedMount" && e.Message == `MountVolume.SetUp failed for volume "token" : failed to fetch token: serviceaccounts "x" not found`
		})
	})
}
