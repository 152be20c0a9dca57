package node

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	nodeutil "k8s.io/component-helpers/node/util"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/clip"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// Reasons of a Node's Ready condition.
const (
	// ReasonReady goes with True.
	ReasonReady = "DeviceReady"
	// ReasonDisconnected goes with Unknown: the link was lost.
	ReasonDisconnected = "DeviceDisconnected"
)

// fallbackVersion stands for the kubelet's version if a device gives none: that of the Kubernetes
// libraries that this speaks with.
const fallbackVersion = "v1.37.2"

// Bounds on what a device may say about itself.
const (
	maxImages     = 50
	maxImageNames = 5
	maxImageName  = 512 // host and name have 255 at most, a tag 128, a digest 135
	maxConditions = 32
	maxAddresses  = 32
	maxResources  = 64
	maxHandlers   = 32
	maxFeatures   = 64
	maxText       = 256
	maxMessage    = 1024
)

// Decode reads what a device reports about itself. What it must not say, or says too much of, is
// left out.
func Decode(reported *edgeapi.NodeStatus) (*corev1.NodeStatus, error) {
	status := &corev1.NodeStatus{}
	if err := status.Unmarshal(reported.GetStatus()); err != nil {
		return nil, fmt.Errorf("undecodable node status: %w", err)
	}
	clean := &corev1.NodeStatus{
		Capacity:    cleanResources(status.Capacity),
		Allocatable: cleanResources(status.Allocatable),
		NodeInfo:    status.NodeInfo,
		Features:    status.Features,

		DeclaredFeatures: cleanFeatures(status.DeclaredFeatures),
	}
	clean.RuntimeHandlers = status.RuntimeHandlers[:min(len(status.RuntimeHandlers), maxHandlers)]
	for i := range clean.RuntimeHandlers {
		clean.RuntimeHandlers[i].Name = clip.String(clean.RuntimeHandlers[i].Name, maxText)
	}
	for _, text := range []*string{
		&clean.NodeInfo.MachineID, &clean.NodeInfo.SystemUUID, &clean.NodeInfo.BootID, &clean.NodeInfo.KernelVersion,
		&clean.NodeInfo.OSImage, &clean.NodeInfo.ContainerRuntimeVersion, &clean.NodeInfo.KubeletVersion,
		&clean.NodeInfo.OperatingSystem, &clean.NodeInfo.Architecture,
	} {
		*text = clip.String(*text, maxText)
	}
	// These two become labels.
	if len(validation.IsValidLabelValue(clean.NodeInfo.OperatingSystem)) > 0 {
		clean.NodeInfo.OperatingSystem = ""
	}
	if len(validation.IsValidLabelValue(clean.NodeInfo.Architecture)) > 0 {
		clean.NodeInfo.Architecture = ""
	}
	if clean.NodeInfo.KubeletVersion == "" {
		clean.NodeInfo.KubeletVersion = fallbackVersion
	}
	clean.Conditions = cleanConditions(status.Conditions)
	clean.Images, clean.Addresses = cleanImages(status.Images), cleanAddresses(status.Addresses)
	return clean, nil
}

func cleanImages(images []corev1.ContainerImage) []corev1.ContainerImage {
	var clean []corev1.ContainerImage
	for _, image := range images[:min(len(images), maxImages)] {
		var names []string
		for _, name := range image.Names[:min(len(image.Names), maxImageNames)] {
			if isText(name, maxImageName) {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			clean = append(clean, corev1.ContainerImage{Names: names, SizeBytes: image.SizeBytes})
		}
	}
	return clean
}

func cleanAddresses(addresses []corev1.NodeAddress) []corev1.NodeAddress {
	var clean []corev1.NodeAddress
	for _, a := range addresses[:min(len(addresses), maxAddresses)] {
		if isText(string(a.Type), maxText) && isText(a.Address, maxText) {
			clean = append(clean, a)
		}
	}
	return clean
}

// isText says whether a name or an address can be taken as it is: when clipped, it would be that of something else.
func isText(text string, most int) bool {
	return text != "" && len(text) <= most && utf8.ValidString(text)
}

func cleanConditions(conditions []corev1.NodeCondition) []corev1.NodeCondition {
	var clean []corev1.NodeCondition
	for _, c := range conditions {
		valid := c.Status == corev1.ConditionTrue || c.Status == corev1.ConditionFalse || c.Status == corev1.ConditionUnknown
		if len(clean) == maxConditions || !valid || len(validation.IsQualifiedName(string(c.Type))) > 0 {
			continue
		}
		c.Reason, c.Message = clip.String(c.Reason, maxText), clip.String(c.Message, maxMessage)
		clean = append(clean, c)
	}
	return clean
}

// isFeature says whether the API lets a Node declare a feature of this name: it matches
// ^[A-Z][a-zA-Z0-9]{0,99}(/[a-zA-Z][a-zA-Z0-9]{0,99})?$, which took a quarter of Decode as an expression.
func isFeature(name string) bool {
	first, second, two := strings.Cut(name, "/")
	return isWord(first) && first[0] <= 'Z' && (!two || isWord(second))
}

// isWord says whether a text is a letter and up to 99 letters and digits.
func isWord(text string) bool {
	if text == "" || len(text) > 100 || text[0] >= '0' && text[0] <= '9' {
		return false
	}
	for i := range len(text) {
		c := text[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// cleanFeatures are sorted and without duplicates, as the API demands.
func cleanFeatures(features []string) []string {
	var clean []string
	for _, name := range features[:min(len(features), maxFeatures)] {
		if isFeature(name) {
			clean = append(clean, name)
		}
	}
	slices.Sort(clean)
	return slices.Compact(clean)
}

func cleanResources(list corev1.ResourceList) corev1.ResourceList {
	clean := corev1.ResourceList{}
	for name, quantity := range list {
		if len(clean) < maxResources && quantity.Sign() >= 0 && isResource(name) {
			clean[name] = quantity
		}
	}
	return clean
}

func isResource(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods:
		return true // nearly always it is one of these
	}
	return len(validation.IsQualifiedName(string(name))) == 0
}

// endpoint is where the kubelet endpoint of this replica listens.
type endpoint struct {
	address string
	port    int32
}

// onlineStatus is the status of the Node of a connected device. Conditions and extended resources that others set on
// the Node stay, as do the times of conditions that did not change.
func onlineStatus(ed *aranya.EdgeDevice, reported *corev1.NodeStatus, old *corev1.NodeStatus, e endpoint, now metav1.Time) corev1.NodeStatus {
	status := *old.DeepCopy()
	status.Capacity, status.Allocatable = reported.Capacity.DeepCopy(), reported.Allocatable.DeepCopy()
	for _, list := range []*corev1.ResourceList{&status.Capacity, &status.Allocatable} {
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[corev1.ResourcePods] = *resource.NewQuantity(int64(ptr.Deref(ed.Spec.Pod.Capacity, 110)), resource.DecimalSI)
	}
	keepExtended(&status, old.Capacity)
	status.NodeInfo, status.Images = reported.NodeInfo, reported.Images
	status.Features, status.RuntimeHandlers = reported.Features, reported.RuntimeHandlers
	status.DeclaredFeatures = reported.DeclaredFeatures
	// Only addresses of the kubelet endpoint: kube-apiserver would try any other first.
	status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: e.address}}
	status.DaemonEndpoints.KubeletEndpoint.Port = e.port

	ready := corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: ReasonReady, Message: "The device is connected and its runtime is ready",
	}
	for _, c := range reported.Conditions {
		if c.Type == corev1.NodeReady {
			if c.Status != corev1.ConditionTrue {
				ready = c
			}
			continue
		}
		setCondition(&status, c, now)
	}
	setCondition(&status, ready, now)
	return status
}

// keepExtended keeps what extended resources a Node has that its device does not know of: somebody has advertised
// them. As with the kubelet the capacity counts, also for what is allocatable. A Node has a bounded number, or a device
// could fill it by saying others each time.
func keepExtended(status *corev1.NodeStatus, capacity corev1.ResourceList) {
	var names []corev1.ResourceName
	for name := range capacity {
		if _, said := status.Capacity[name]; !said && isExtended(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names) // the same ones each time
	for _, name := range names[:max(0, min(len(names), maxResources-len(status.Capacity)))] {
		status.Capacity[name], status.Allocatable[name] = capacity[name].DeepCopy(), capacity[name].DeepCopy()
	}
}

// isExtended says whether a resource is not one of Kubernetes: its name has another domain.
func isExtended(name corev1.ResourceName) bool {
	return strings.Contains(string(name), "/") && !strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix) &&
		!strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
}

// offlineStatus is the status of the Node of a device that is away: nothing is known of it any more.
func offlineStatus(old *corev1.NodeStatus, message string, now metav1.Time) corev1.NodeStatus {
	status := *old.DeepCopy()
	for _, t := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		if condition(&status, t) != nil {
			setCondition(&status, corev1.NodeCondition{Type: t, Status: corev1.ConditionUnknown, Reason: ReasonDisconnected, Message: message}, now)
		}
	}
	setCondition(&status, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: ReasonDisconnected, Message: message}, now)
	return status
}

// setCondition sets a condition. Its times stay if nothing changes: there is no heartbeat but the
// Lease.
func setCondition(status *corev1.NodeStatus, c corev1.NodeCondition, now metav1.Time) {
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	old := condition(status, c.Type)
	if old == nil {
		status.Conditions = append(status.Conditions, c)
		return
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
		if old.Reason == c.Reason && old.Message == c.Message {
			c.LastHeartbeatTime = old.LastHeartbeatTime
		}
	}
	*old = c
}

func condition(status *corev1.NodeStatus, t corev1.NodeConditionType) *corev1.NodeCondition {
	_, c := nodeutil.GetNodeCondition(status, t)
	return c
}

// Ready returns the Ready condition of a Node, nil if it has none.
func Ready(n *corev1.Node) *corev1.NodeCondition { return condition(&n.Status, corev1.NodeReady) }

func isReady(status *corev1.NodeStatus) bool {
	c := condition(status, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

func sameStatus(a, b *corev1.NodeStatus) bool { return apiequality.Semantic.DeepEqual(a, b) }
