package pod

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"arhat.dev/aranya/pkg/edge/restartpolicy"
)

// deviceConditions are the conditions of a pod that its device owns. Others belong to the scheduler
// and to controllers.
var deviceConditions = sets.New(
	corev1.PodReady, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReadyToStartContainers,
	corev1.PodResizePending, corev1.PodResizeInProgress, corev1.AllContainersRestarting,
)

// merge returns the status of a pod after its device reported on it, by the rules of the kubelet's
// status manager: conditions and fields that are not the device's stay, and so does the end of a container
// that may not start again; times of transition go back only with a change of the condition's status, the
// time of the start never changes, and a pod that has ended stays so, as whoever said it first has said it.
// A later time with the same status is one that went and came back while the device was away, or before it
// was written.
func merge(pod *corev1.Pod, reported corev1.PodStatus, now metav1.Time) corev1.PodStatus {
	old := &pod.Status
	if terminal(old.Phase) && !terminal(reported.Phase) {
		return *old
	}
	status := reported
	cleanIPs(&status)
	mergeContainers(pod, &status)
	status.Conditions = firstOfEachType(status.Conditions)
	if terminal(old.Phase) {
		if status.Phase != old.Phase || old.Reason != "" || old.Message != "" {
			status.Reason, status.Message = old.Reason, old.Message
		}
		status.Phase = old.Phase
	}
	if terminal(status.Phase) {
		settle(&status, metav1.Time{}) // mergeConditions gives it a time, if it changes
	}
	applyGates(pod, &status)
	keep(&status, old)
	if pod.Spec.NodeName != "" {
		old = old.DeepCopy()
		setScheduled(old, status.ObservedGeneration, now)
	}
	status.Conditions = mergeConditions(old, &status, now)
	normalize(pod, &status)
	return status
}

// mergeContainers leaves the statuses of containers that have ended, and are not started again by their restart policies,
// as they are until they have ended again: kube-apiserver takes no others. On the device they may run again all the
// same: those of a pod that has lost its sandbox, and an ephemeral one, which no policy starts again, of which all
// records are lost. Their former end is shown meanwhile.
func mergeContainers(pod *corev1.Pod, status *corev1.PodStatus) {
	old, all := &pod.Status, restartpolicy.MayRestartAll(pod)
	restarts := func(c *corev1.Container, exitCode int32) bool {
		return all || restartpolicy.ShouldRestart(pod, c, exitCode)
	}
	never := func(*corev1.Container, int32) bool { return false }
	status.InitContainerStatuses = keepEnded(pod.Spec.InitContainers, old.InitContainerStatuses, status.InitContainerStatuses, restarts)
	status.ContainerStatuses = keepEnded(pod.Spec.Containers, old.ContainerStatuses, status.ContainerStatuses, restarts)
	status.EphemeralContainerStatuses = keepEnded(ephemeralContainers(pod), old.EphemeralContainerStatuses, status.EphemeralContainerStatuses, never)
}

func ephemeralContainers(pod *corev1.Pod) []corev1.Container {
	containers := make([]corev1.Container, 0, len(pod.Spec.EphemeralContainers))
	for i := range pod.Spec.EphemeralContainers {
		containers = append(containers, corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return containers
}

// keepEnded does so for a list of containers, and leaves out what is said of others, or of one a second time.
func keepEnded(containers []corev1.Container, old, reported []corev1.ContainerStatus, restarts func(c *corev1.Container, exitCode int32) bool) (kept []corev1.ContainerStatus) {
	left := make(map[string]*corev1.Container, len(containers))
	for i := range containers {
		left[containers[i].Name] = &containers[i]
	}
	for _, s := range reported {
		c := left[s.Name]
		if c == nil {
			continue
		}
		delete(left, s.Name)
		before := slices.IndexFunc(old, func(o corev1.ContainerStatus) bool { return o.Name == s.Name })
		if before >= 0 && s.State.Terminated == nil {
			if end := old[before].State.Terminated; end != nil && !restarts(c, end.ExitCode) {
				s = old[before]
			}
		}
		kept = append(kept, s)
	}
	return kept
}

// cleanIPs leaves the addresses of a pod that usableIPs are. Services and pods/proxy lead to them.
func cleanIPs(status *corev1.PodStatus) {
	pod, host := []string{status.PodIP}, []string{status.HostIP}
	for _, ip := range status.PodIPs {
		pod = append(pod, ip.IP)
	}
	for _, ip := range status.HostIPs {
		host = append(host, ip.IP)
	}
	status.PodIP, status.PodIPs, status.HostIP, status.HostIPs = "", nil, "", nil
	for i, ip := range usableIPs(pod) {
		if i == 0 {
			status.PodIP = ip
		}
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: ip})
	}
	for i, ip := range usableIPs(host) {
		if i == 0 {
			status.HostIP = ip
		}
		status.HostIPs = append(status.HostIPs, corev1.HostIP{IP: ip})
	}
}

// usableIPs returns the first address of each family, which is all that a pod may have, of those that an EndpointSlice
// may hold.
func usableIPs(ips []string) (usable []string) {
	var v4, v6 bool
	for _, ip := range ips {
		addr, err := netip.ParseAddr(ip)
		if err != nil || !addr.IsGlobalUnicast() || addr.Is4In6() || addr.Zone() != "" {
			continue
		}
		family := &v6
		if addr.Is4() {
			family = &v4
		}
		if !*family {
			*family = true
			usable = append(usable, addr.String())
		}
	}
	return usable
}

// setScheduled says of a pod that has come to a Node that it has: with the generation that the Node has
// seen, and also if no scheduler has brought it there.
func setScheduled(status *corev1.PodStatus, generation int64, now metav1.Time) {
	c := findCondition(status.Conditions, corev1.PodScheduled)
	if c == nil {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, LastTransitionTime: now})
		c = &status.Conditions[len(status.Conditions)-1]
	}
	if c.Status != corev1.ConditionTrue {
		c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionTrue, "", "", now
	}
	c.ObservedGeneration = generation
}

// keep takes over what is not the device's to say.
func keep(status, old *corev1.PodStatus) {
	status.ResourceClaimStatuses = old.ResourceClaimStatuses
	status.ExtendedResourceClaimStatus = old.ExtendedResourceClaimStatus
	status.NodeAllocatableResourceClaimStatuses = old.NodeAllocatableResourceClaimStatuses
	status.NominatedNodeName = old.NominatedNodeName
	if old.QOSClass != "" {
		status.QOSClass = old.QOSClass // immutable
	}
	if !old.StartTime.IsZero() {
		status.StartTime = old.StartTime
	}
	if status.Phase == "" {
		status.Phase = old.Phase
	}
	if status.ObservedGeneration < old.ObservedGeneration {
		status.ObservedGeneration = old.ObservedGeneration
	}
}

// mergeConditions puts those of others first, and keeps their order: a list in another order is another one to the API.
func mergeConditions(old, reported *corev1.PodStatus, now metav1.Time) []corev1.PodCondition {
	var others, device []corev1.PodCondition
	for _, c := range old.Conditions {
		if !deviceConditions.Has(c.Type) {
			others = append(others, c)
		}
	}
	ended := !terminal(old.Phase) && terminal(reported.Phase)
	for _, c := range reported.Conditions {
		before := findCondition(old.Conditions, c.Type)
		if before != nil && before.Status == c.Status && !before.LastTransitionTime.Before(&c.LastTransitionTime) {
			c.LastTransitionTime = before.LastTransitionTime
		}
		if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = now
		}
		switch {
		case deviceConditions.Has(c.Type):
			device = append(device, c)
		case c.Type == corev1.DisruptionTarget && ended:
			// Shared with controllers: the device says so when it has evicted the pod.
			others = slices.DeleteFunc(others, func(m corev1.PodCondition) bool { return m.Type == c.Type })
			others = append(others, c)
		}
	}
	return append(others, device...)
}

// firstOfEachType copies the conditions that a device may report. A second one of a type, which the API knows no place for,
// is left out.
func firstOfEachType(conditions []corev1.PodCondition) (first []corev1.PodCondition) {
	for _, c := range conditions {
		if (deviceConditions.Has(c.Type) || c.Type == corev1.DisruptionTarget) && findCondition(first, c.Type) == nil {
			first = append(first, c)
		}
	}
	return first
}

// settle sees to it that a pod that has ended is not ready.
func settle(status *corev1.PodStatus, now metav1.Time) {
	reason := "PodFailed"
	if status.Phase == corev1.PodSucceeded {
		reason = "PodCompleted"
	}
	for i := range status.Conditions {
		c := &status.Conditions[i]
		if (c.Type == corev1.PodReady || c.Type == corev1.ContainersReady) && c.Status != corev1.ConditionFalse {
			c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionFalse, reason, "", now
		}
	}
}

// normalize brings a status into the form in which it comes back from the API, so that the same
// status compares equal: times in seconds, container statuses in a fixed order.
func normalize(pod *corev1.Pod, status *corev1.PodStatus) {
	if status.StartTime != nil {
		status.StartTime = new(status.StartTime.Rfc3339Copy())
	}
	for i := range status.Conditions {
		c := &status.Conditions[i]
		c.LastProbeTime, c.LastTransitionTime = c.LastProbeTime.Rfc3339Copy(), c.LastTransitionTime.Rfc3339Copy()
	}
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses, status.EphemeralContainerStatuses} {
		for i := range list {
			normalizeState(&list[i].State)
			normalizeState(&list[i].LastTerminationState)
		}
	}
	order := map[string]int{}
	for i := range pod.Spec.InitContainers {
		order[pod.Spec.InitContainers[i].Name] = i
	}
	slices.SortStableFunc(status.InitContainerStatuses, func(a, b corev1.ContainerStatus) int { return order[a.Name] - order[b.Name] })
	byName := func(a, b corev1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) }
	slices.SortStableFunc(status.ContainerStatuses, byName)
	slices.SortStableFunc(status.EphemeralContainerStatuses, byName)
}

func normalizeState(s *corev1.ContainerState) {
	if s.Running != nil {
		s.Running.StartedAt = s.Running.StartedAt.Rfc3339Copy()
	}
	if s.Terminated != nil {
		s.Terminated.StartedAt = s.Terminated.StartedAt.Rfc3339Copy()
		s.Terminated.FinishedAt = s.Terminated.FinishedAt.Rfc3339Copy()
	}
}

func findCondition(conditions []corev1.PodCondition, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range conditions {
		if conditions[i].Type == t {
			return &conditions[i]
		}
	}
	return nil
}
