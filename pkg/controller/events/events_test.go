package events

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/component-base/metrics/testutil"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var device = gateway.Device{Namespace: "ns", Name: "d", UID: "u"}

func TestRecorder(t *testing.T) {
	client := fake.NewClientset()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := New(ctx)
	defer r.Stop()
	r.Start(Clients{Normal: client, Warning: client})

	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "pu"}, Spec: corev1.PodSpec{
		NodeName: "d", InitContainers: []corev1.Container{{Name: "setup"}}, Containers: []corev1.Container{{Name: "main"}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debugger"}}},
	}}
	mirror := pod.DeepCopy()
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: strings.Repeat("1", 32)}
	hourAgo := time.Now().Add(-time.Hour)
	wasHourAgo := func(e corev1.Event) bool {
		return e.FirstTimestamp.Unix() == hourAgo.Unix() && e.LastTimestamp.Equal(&e.FirstTimestamp)
	}
	byKubelet := corev1.EventSource{Component: "kubelet", Host: "d"}
	r.Device(device, corev1.EventTypeNormal, "Connected", "over %s", "grpc")
	r.Pod(pod, corev1.EventTypeWarning, "FailedMount", "no %s", "volume")
	for _, name := range []string{"main", "setup", "debugger"} {
		r.Container(pod, name, corev1.EventTypeWarning, "Failed-"+name, "Error: %s", name)
	}
	r.Pod(mirror, corev1.EventTypeWarning, "InvalidStatus", "no status")
	r.FromDevice(device, "d", nil, &edgeapi.Event{Type: "Warning", Reason: "DiskPressure", Message: "full", TimeMs: hourAgo.UnixMilli()})
	r.FromDevice(device, "d", pod, &edgeapi.Event{Type: "Odd", Reason: "Started", Message: strings.Repeat("ü", 5000), FieldPath: "spec.containers{main}"})
	r.FromDevice(device, "d", pod, &edgeapi.Event{Message: "no reason"})

	want := map[string]func(e corev1.Event) bool{
		"EdgeDevice Connected": func(e corev1.Event) bool {
			return e.Message == "over grpc" && e.Source.Component == Component && e.InvolvedObject.UID == "u" && e.Namespace == "ns"
		},
		"Pod FailedMount": func(e corev1.Event) bool {
			return e.Type == "Warning" && e.Message == "no volume" && e.Source == byKubelet && e.InvolvedObject.UID == "pu" && e.InvolvedObject.FieldPath == ""
		},
		"Pod Failed-main": func(e corev1.Event) bool {
			return e.Message == "Error: main" && e.Source == byKubelet && e.InvolvedObject.FieldPath == "spec.containers{main}"
		},
		"Pod Failed-setup": func(e corev1.Event) bool {
			return e.Message == "Error: setup" && e.Source == byKubelet && e.InvolvedObject.FieldPath == "spec.initContainers{setup}"
		},
		"Pod Failed-debugger": func(e corev1.Event) bool {
			return e.Message == "Error: debugger" && e.Source == byKubelet && e.InvolvedObject.FieldPath == "spec.ephemeralContainers{debugger}"
		},
		"Pod InvalidStatus": func(e corev1.Event) bool { return e.InvolvedObject.UID == types.UID(strings.Repeat("1", 32)) },
		"EdgeDevice DiskPressure": func(e corev1.Event) bool {
			return e.Source.Component == DeviceComponent && e.Source.Host == "d" && wasHourAgo(e)
		},
		"Node DiskPressure": func(e corev1.Event) bool {
			return e.InvolvedObject.UID == "d" && e.Namespace == "default" && e.Source == byKubelet && wasHourAgo(e)
		},
		"Pod Started": func(e corev1.Event) bool {
			return e.Type == "Normal" && len(e.Message) <= maxMessage && utf8.ValidString(e.Message) && e.InvolvedObject.FieldPath == "spec.containers{main}" && e.Source == byKubelet
		},
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		list, err := client.CoreV1().Events("").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) == len(want) {
			for _, e := range list.Items {
				check := want[e.InvolvedObject.Kind+" "+e.Reason]
				if check == nil || !check(e) {
					t.Errorf("event: %+v", e)
				}
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events, want %d", len(list.Items), len(want))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A warning does not wait for the events of many devices that come at once.
func TestWarningsDoNotWait(t *testing.T) {
	held := make(chan struct{})
	normal := fake.NewClientset()
	normal.PrependReactor("create", "events", func(k8stesting.Action) (bool, runtime.Object, error) {
		<-held
		return false, nil, nil
	})
	warned := make(chan string, 1)
	warning := fake.NewClientset()
	warning.PrependReactor("create", "events", func(action k8stesting.Action) (bool, runtime.Object, error) {
		warned <- action.(k8stesting.CreateAction).GetObject().(*corev1.Event).Reason
		return false, nil, nil
	})
	r := New(t.Context())
	defer r.Stop()
	defer close(held)
	r.Start(Clients{Normal: normal, Warning: warning})

	r.Device(device, corev1.EventTypeNormal, "Connected", "over grpc")
	r.Device(device, corev1.EventTypeWarning, "DiskPressure", "full")
	select {
	case reason := <-warned:
		if reason != "DiskPressure" {
			t.Errorf("the warning is %s", reason)
		}
	case <-time.After(20 * time.Second):
		t.Error("the warning waits for another event")
	}
}

// A device that reports events without end does not fill the queue of all, whatever objects it names.
func TestEventsOfOneDeviceAreLimited(t *testing.T) {
	client := fake.NewClientset()
	written := make(chan corev1.ObjectReference, 10*pace.Burst)
	client.PrependReactor("create", "events", func(action k8stesting.Action) (bool, runtime.Object, error) {
		e := action.(k8stesting.CreateAction).GetObject().(*corev1.Event)
		written <- e.InvolvedObject
		return true, e, nil
	})
	r := New(t.Context())
	defer r.Stop()
	now := time.Unix(1e9, 0)
	r.now = func() time.Time { return now }
	r.Start(Clients{Normal: client, Warning: client})
	flood := func() {
		for i := range 10 * pace.Burst {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i))}}
			r.FromDevice(device, "d", pod, &edgeapi.Event{Type: "Warning", Reason: "Flood"})
		}
	}
	// The next event is written when all before it are: those of one type are written in turn.
	expect := func(ofPods int, name string) {
		t.Helper()
		pods := 0
		for {
			select {
			case object := <-written:
				if object.Kind == "Pod" {
					pods++
					continue
				}
				if pods != ofPods || object.Name != name {
					t.Errorf("%d events of the device's pods, and then one of %s", pods, object.Name)
				}
				return
			case <-time.After(20 * time.Second):
				t.Fatalf("%d events of the device's pods, and none of %s", pods, name)
			}
		}
	}
	count := func() float64 {
		n, err := testutil.GetCounterMetricValue(dropped.WithLabelValues(droppedPace))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	flood()
	if got, want := count()-before, float64(9*pace.Burst); got != want {
		t.Errorf("counted %v events that were dropped, want %v", got, want)
	}
	r.Device(device, corev1.EventTypeWarning, "Disconnected", "told by aranya itself")
	expect(pace.Burst, device.Name)
	now = now.Add(3 * pace.Every)
	flood()
	r.Device(gateway.Device{Namespace: "ns", Name: "other", UID: "o"}, corev1.EventTypeWarning, "Disconnected", "lost")
	expect(3, "other")
}

func TestHappened(t *testing.T) {
	now := time.Unix(1e9, 0)
	for name, tt := range map[string]struct{ said, want time.Time }{
		"just now":                  {now, now},
		"while the device was away": {now.Add(-9 * 24 * time.Hour), now.Add(-9 * 24 * time.Hour)},
		"by a clock that is fast":   {now.Add(time.Second), now},
		"by one that was never set": {time.Unix(7, 0), now},
		"not said":                  {time.UnixMilli(0), now},
	} {
		if got := happened(tt.said.UnixMilli(), now); !got.Equal(tt.want) {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}
