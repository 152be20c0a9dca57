package node

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func TestDecodeBoundsWhatADeviceSays(t *testing.T) {
	status := corev1.NodeStatus{
		Capacity:   corev1.ResourceList{"cpu": resource.MustParse("-1"), "memory": resource.MustParse("1Gi"), "bad name!": resource.MustParse("1")},
		NodeInfo:   corev1.NodeSystemInfo{OperatingSystem: "not a label", Architecture: "arm", KernelVersion: strings.Repeat("x", 5000)},
		Conditions: []corev1.NodeCondition{{Type: "Ready", Status: "Maybe"}, {Type: "DiskPressure", Status: corev1.ConditionTrue, Message: strings.Repeat("x", 5000)}},
	}
	status.DeclaredFeatures = []string{"Later", "Earlier", "Later", "not one", "Part/of", "under/Scored", strings.Repeat("X", 500)}
	for range 200 {
		status.Images = append(status.Images, corev1.ContainerImage{Names: slices.Repeat([]string{"example.com/app:1"}, 20)})
		status.Addresses = append(status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.0.0.1"})
	}
	data, err := status.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(&edgeapi.NodeStatus{Status: data})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Capacity) != 1 || got.NodeInfo.OperatingSystem != "" || got.NodeInfo.Architecture != "arm" || len(got.NodeInfo.KernelVersion) != maxText ||
		got.NodeInfo.KubeletVersion == "" || len(got.Conditions) != 1 || len(got.Conditions[0].Message) != maxMessage ||
		len(got.Images) != maxImages || len(got.Images[0].Names) != maxImageNames || len(got.Addresses) != maxAddresses {
		t.Errorf("decoded: %+v", got)
	}
	if want := []string{"Earlier", "Later", "Part/of"}; !slices.Equal(got.DeclaredFeatures, want) {
		t.Errorf("declared features: %q, want %q", got.DeclaredFeatures, want)
	}
	if _, err := Decode(&edgeapi.NodeStatus{Status: []byte{0xff}}); err == nil {
		t.Error("rubbish was decoded")
	}
	if _, err := Decode(nil); err != nil {
		t.Errorf("a device that said nothing: %v", err)
	}
}

// A name or an address of which a part is missing would be another one.
func TestDecodeLeavesOutWhatIsTooLong(t *testing.T) {
	long := strings.Repeat("x", maxImageName+1)
	digest := "example.com/app@sha256:" + strings.Repeat("0", 64)
	data, err := (&corev1.NodeStatus{
		Images: []corev1.ContainerImage{
			{Names: []string{long, digest, "", "example.com/app:\xff"}, SizeBytes: 5},
			{Names: []string{long}, SizeBytes: 6},
			{SizeBytes: 7},
		},
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: long},
			{Type: corev1.NodeAddressType(long), Address: "192.0.2.7"},
			{Type: corev1.NodeHostName, Address: "camera-\xff"},
			{Address: "192.0.2.8"},
			{Type: corev1.NodeInternalIP, Address: "192.0.2.9"},
		},
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(&edgeapi.NodeStatus{Status: data})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]corev1.ContainerImage{{Names: []string{digest}, SizeBytes: 5}}, got.Images); diff != "" {
		t.Error("images:", diff)
	}
	if diff := cmp.Diff([]corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.9"}}, got.Addresses); diff != "" {
		t.Error("addresses:", diff)
	}
}

func FuzzDecode(f *testing.F) {
	data, err := (&corev1.NodeStatus{NodeInfo: linux}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		status, err := Decode(&edgeapi.NodeStatus{Status: data})
		if err == nil && (len(status.Images) > maxImages || len(status.Conditions) > maxConditions) {
			t.Error("out of bounds")
		}
	})
}

func TestStatusIsStable(t *testing.T) {
	reported := &corev1.NodeStatus{
		NodeInfo: linux, Capacity: corev1.ResourceList{"cpu": resource.MustParse("2")},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse}},
	}
	others := corev1.NodeCondition{Type: "KernelDeadlock", Status: corev1.ConditionFalse, LastHeartbeatTime: now}
	first := onlineStatus(device(aranya.NodeSpec{}), reported, &corev1.NodeStatus{Conditions: []corev1.NodeCondition{others}}, endpoint{"192.0.2.1", 10250}, now)
	later := metav1.NewTime(now.Add(time.Hour))
	again := onlineStatus(device(aranya.NodeSpec{}), reported, &first, endpoint{"192.0.2.1", 10250}, later)
	if !sameStatus(&first, &again) {
		t.Errorf("nothing changed: %s", cmp.Diff(first, again))
	}
	if condition(&first, "KernelDeadlock") == nil {
		t.Error("somebody else's condition is gone")
	}
	away := offlineStatus(&first, "lost", later)
	for _, c := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure} {
		if got := condition(&away, c); got.Status != corev1.ConditionUnknown || !got.LastTransitionTime.Equal(&later) {
			t.Errorf("%s: %+v", c, got)
		}
	}
	if c := condition(&away, "KernelDeadlock"); c.Status != corev1.ConditionFalse {
		t.Error("somebody else's condition changed")
	}
}

// What others advertise on a Node stays, as with the kubelet, until they take it off its capacity. All else is what
// the device says.
func TestExtendedResources(t *testing.T) {
	const dongle, camera = "example.com/dongle", "example.com/camera"
	many := corev1.ResourceList{}
	for i := range 2 * maxResources {
		many[corev1.ResourceName("example.com/r"+strconv.Itoa(i))] = resource.MustParse("1")
	}
	for name, tt := range map[string]struct {
		reported, capacity, allocatable corev1.ResourceList
		want                            corev1.ResourceList
		kept                            int
	}{
		"advertised":             {capacity: corev1.ResourceList{dongle: resource.MustParse("4")}, want: corev1.ResourceList{dongle: resource.MustParse("4")}},
		"changed":                {capacity: corev1.ResourceList{dongle: resource.MustParse("4")}, allocatable: corev1.ResourceList{dongle: resource.MustParse("2")}, want: corev1.ResourceList{dongle: resource.MustParse("4")}},
		"taken off the capacity": {allocatable: corev1.ResourceList{dongle: resource.MustParse("4")}},
		"not by domain":          {capacity: corev1.ResourceList{"hugepages-2Mi": resource.MustParse("4"), "dongle": resource.MustParse("4"), "attachable-volumes-x": resource.MustParse("4")}},
		"of Kubernetes":          {capacity: corev1.ResourceList{"kubernetes.io/x": resource.MustParse("4"), "batch.kubernetes.io/x": resource.MustParse("4"), "requests.example.com/x": resource.MustParse("4")}},
		"what the device says":   {reported: corev1.ResourceList{camera: resource.MustParse("1")}, capacity: corev1.ResourceList{camera: resource.MustParse("4")}, want: corev1.ResourceList{camera: resource.MustParse("1")}},
		"bounded":                {capacity: many, kept: maxResources - 2},
	} {
		t.Run(name, func(t *testing.T) {
			reported := &corev1.NodeStatus{Capacity: corev1.ResourceList{"cpu": resource.MustParse("2")}}
			maps.Copy(reported.Capacity, tt.reported)
			reported.Allocatable = reported.Capacity.DeepCopy()
			old := &corev1.NodeStatus{Capacity: tt.capacity, Allocatable: tt.allocatable}
			first := onlineStatus(device(aranya.NodeSpec{}), reported, old, endpoint{"192.0.2.1", 10250}, now)
			again := onlineStatus(device(aranya.NodeSpec{}), reported, &first, endpoint{"192.0.2.1", 10250}, now)
			if !sameStatus(&first, &again) {
				t.Errorf("nothing changed: %s", cmp.Diff(first, again))
			}
			for of, list := range map[string]corev1.ResourceList{"capacity": first.Capacity, "allocatable": first.Allocatable} {
				delete(list, corev1.ResourcePods)
				delete(list, corev1.ResourceCPU)
				if tt.kept > 0 {
					if len(list) != tt.kept {
						t.Errorf("%s: %d are kept", of, len(list))
					}
				} else if !apiequality.Semantic.DeepEqual(list, tt.want) && len(list)+len(tt.want) > 0 {
					t.Errorf("%s: %v, want %v", of, list, tt.want)
				}
			}
		})
	}
}

func TestIsFeature(t *testing.T) {
	expression := regexp.MustCompile(`^[A-Z][a-zA-Z0-9]{0,99}(/[a-zA-Z][a-zA-Z0-9]{0,99})?$`)
	long := strings.Repeat("x", 99)
	for _, name := range []string{
		"", "/", "A", "Z", "a", "z", "0", "A/", "/A", "A/b", "A/B", "A/0", "A/b/c", "A//b", "Ab1", "A-b", "A b", "Ä", "A/ä", "[", "@", "A[", "A`", "A{", "A/Z9z",
		"A" + long, "AA" + long, "A" + long + "/b" + long, "A/bb" + long, "A\n", "A/b\n",
	} {
		if got, want := isFeature(name), expression.MatchString(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

// BenchmarkDecode measures what each look at what a device says of itself costs.
func BenchmarkDecode(b *testing.B) {
	status := corev1.NodeStatus{NodeInfo: linux, Capacity: corev1.ResourceList{}, Allocatable: corev1.ResourceList{}}
	for _, list := range []corev1.ResourceList{status.Capacity, status.Allocatable} {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods, "hugepages-2Mi"} {
			list[name] = resource.MustParse("4Gi")
		}
	}
	for _, name := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		status.Conditions = append(status.Conditions, corev1.NodeCondition{Type: name, Status: corev1.ConditionTrue, Reason: "Reason", Message: "a message", LastTransitionTime: now})
	}
	status.DeclaredFeatures = []string{"GuestMemory", "InPlacePodResize", "RestartAllContainersOnContainerExits", "UserNamespaces/HostNetwork"}
	data, err := status.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(&edgeapi.NodeStatus{Status: data}); err != nil {
			b.Fatal(err)
		}
	}
}
