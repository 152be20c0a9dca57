package edgedevice

import (
	"context"
	"fmt"
	"net"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metatable "k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// Placeholders of cells without a value, as kubectl's own tables have them.
const (
	cellNone  = "<none>"
	cellNever = "<never>"
)

// columns of "kubectl get edgedevices"; those of priority 1 are shown by "-o wide" only.
var columns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: "Name of the EdgeDevice."},
	{Name: "Status", Type: "string", Description: "Pending (never enrolled), Online or Offline; Terminating while the EdgeDevice is being deleted."},
	{Name: "Method", Type: "string", Description: "How the device connects: grpc or mqtt."},
	{Name: "Node", Type: "string", Description: "Name of the Node that stands for the device."},
	{Name: "Version", Type: "string", Description: "Version of the agent on the device."},
	{Name: "Last-Seen", Type: "string", Description: "How long ago the device was last heard of."},
	{Name: "Age", Type: "string", Description: "How long ago the EdgeDevice was created."},
	{Name: "OS/Arch", Type: "string", Priority: 1, Description: "Operating system and architecture of the device."},
	{Name: "Kernel", Type: "string", Priority: 1, Description: "Kernel version of the device."},
	{Name: "Runtime", Type: "string", Priority: 1, Description: "Container runtime of the device and its version."},
	{Name: "Address", Type: "string", Priority: 1, Description: "Address of the device in its own network; if it reported none, the address its link comes from."},
}

// tableConvertor prints EdgeDevices.
type tableConvertor struct{}

var _ rest.TableConvertor = tableConvertor{}

func (tableConvertor) ConvertToTable(_ context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{}
	if opt, ok := options.(*metav1.TableOptions); !ok || !opt.NoHeaders {
		table.ColumnDefinitions = columns
	}
	if list, err := meta.ListAccessor(obj); err == nil {
		table.ResourceVersion = list.GetResourceVersion()
		table.Continue = list.GetContinue()
		table.RemainingItemCount = list.GetRemainingItemCount()
	} else if item, err := meta.CommonAccessor(obj); err == nil {
		table.ResourceVersion = item.GetResourceVersion()
	}
	var err error
	table.Rows, err = metatable.MetaToTableRow(obj,
		func(obj runtime.Object, _ metav1.Object, name, age string) ([]any, error) {
			device, ok := obj.(*aranya.EdgeDevice)
			if !ok {
				return nil, fmt.Errorf("expected an EdgeDevice, got %T", obj)
			}
			return cells(device, name, age), nil
		})
	return table, err
}

// cells of one row, in the order of columns.
func cells(device *aranya.EdgeDevice, name, age string) []any {
	status := &device.Status
	info := status.Device
	if info == nil {
		info = &aranya.DeviceInfo{}
	}
	return []any{
		name,
		statusCell(device),
		string(device.Spec.Connectivity.Method),
		orNone(status.NodeName),
		orNone(status.AgentVersion),
		lastSeenCell(status.LastSeen),
		age,
		platformCell(info),
		orNone(info.KernelVersion),
		orNone(info.ContainerRuntimeVersion),
		orNone(address(status, info)),
	}
}

func statusCell(device *aranya.EdgeDevice) string {
	if device.DeletionTimestamp != nil {
		return "Terminating"
	}
	return string(device.Status.Phase)
}

func lastSeenCell(seen *metav1.Time) string {
	if seen.IsZero() {
		return cellNever
	}
	return metatable.ConvertToHumanReadableDateType(*seen)
}

func platformCell(info *aranya.DeviceInfo) string {
	if info.OperatingSystem == "" && info.Architecture == "" {
		return cellNone
	}
	return info.OperatingSystem + "/" + info.Architecture
}

// address prefers what stays the same while the device is away and behind a broker.
func address(status *aranya.EdgeDeviceStatus, info *aranya.DeviceInfo) string {
	for _, a := range info.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	if status.Link == nil {
		return ""
	}
	if host, _, err := net.SplitHostPort(status.Link.RemoteAddress); err == nil {
		return host
	}
	return status.Link.RemoteAddress
}

func orNone(s string) string {
	if s == "" {
		return cellNone
	}
	return s
}
