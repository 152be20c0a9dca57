package edgedevice

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya"
)

func ago(d time.Duration) metav1.Time {
	// Half a unit more, so that the test may take its time.
	return metav1.NewTime(time.Now().Add(-d - 30*time.Minute))
}

func TestTable(t *testing.T) {
	pending := newDevice(t, "pending")

	online := newDevice(t, "online")
	online.CreationTimestamp = ago(50 * time.Hour)
	online.Status = aranya.EdgeDeviceStatus{
		Phase:        aranya.EdgeDeviceOnline,
		AgentVersion: "v1.2.3",
		NodeName:     "online",
		LastSeen:     ptr.To(ago(3 * time.Hour)),
		Device: &aranya.DeviceInfo{
			OperatingSystem: "linux", Architecture: "arm64", KernelVersion: "6.1.0",
			ContainerRuntimeVersion: "containerd://1.6.20",
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeHostName, Address: "gate"}, {Type: corev1.NodeInternalIP, Address: "192.168.1.7"},
			},
		},
		Link: &aranya.LinkStatus{RemoteAddress: "198.51.100.1:5555"},
	}

	leaving := newDevice(t, "leaving")
	leaving.Spec.Connectivity.Method = aranya.ConnectivityMQTT
	leaving.DeletionTimestamp = ptr.To(metav1.Now())
	leaving.Status.Link = &aranya.LinkStatus{RemoteAddress: "[2001:db8::1]:5555"}

	list := &aranya.EdgeDeviceList{
		ListMeta: metav1.ListMeta{ResourceVersion: "9", Continue: "next", RemainingItemCount: ptr.To[int64](4)},
		Items:    []aranya.EdgeDevice{*pending, *online, *leaving},
	}
	table, err := tableConvertor{}.ConvertToTable(t.Context(), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	var plain, wide []string
	for _, column := range table.ColumnDefinitions {
		if column.Description == "" {
			t.Errorf("column %s has no description", column.Name)
		}
		if column.Priority == 0 {
			plain = append(plain, column.Name)
		} else {
			wide = append(wide, column.Name)
		}
	}
	if want := []string{"Name", "Status", "Method", "Node", "Version", "Last-Seen", "Age"}; !slices.Equal(plain, want) {
		t.Errorf("columns are %v, want %v", plain, want)
	}
	if want := []string{"OS/Arch", "Kernel", "Runtime", "Address"}; !slices.Equal(wide, want) {
		t.Errorf("wide columns are %v, want %v", wide, want)
	}
	var rows [][]any
	for _, row := range table.Rows {
		rows = append(rows, row.Cells)
		if _, ok := row.Object.Object.(*aranya.EdgeDevice); !ok {
			t.Errorf("row %v has no object", row.Cells[0])
		}
	}
	want := [][]any{
		{"pending", "Pending", "grpc", "<none>", "<none>", "<never>", "<unknown>", "<none>", "<none>", "<none>", "<none>"},
		{"online", "Online", "grpc", "online", "v1.2.3", "3h30m", "2d2h", "linux/arm64", "6.1.0", "containerd://1.6.20", "192.168.1.7"},
		{"leaving", "Terminating", "mqtt", "<none>", "<none>", "<never>", "<unknown>", "<none>", "<none>", "<none>", "2001:db8::1"},
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("rows differ (-want +got):\n%s", diff)
	}
	if table.ResourceVersion != "9" || table.Continue != "next" || *table.RemainingItemCount != 4 {
		t.Errorf("the table lost the list's metadata: %+v", table.ListMeta)
	}
}

func TestTableOfOneDevice(t *testing.T) {
	device := newDevice(t, "one")
	device.ResourceVersion = "3"
	table, err := tableConvertor{}.ConvertToTable(t.Context(), device, &metav1.TableOptions{NoHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 1 || len(table.ColumnDefinitions) != 0 || table.ResourceVersion != "3" {
		t.Errorf("got %d rows, %d columns, version %s", len(table.Rows), len(table.ColumnDefinitions), table.ResourceVersion)
	}
	if _, err := (tableConvertor{}).ConvertToTable(t.Context(), &aranya.EnrollmentToken{}, nil); err == nil {
		t.Error("another kind must be refused")
	}
}

func TestGetAttrsRefusesOtherKinds(t *testing.T) {
	if _, _, err := GetAttrs(&aranya.EnrollmentToken{}); err == nil {
		t.Error("another kind must be refused")
	}
	for name, index := range *indexers() {
		if _, err := index(&aranya.EnrollmentToken{}); err == nil {
			t.Errorf("index %s: another kind must be refused", name)
		}
	}
}
