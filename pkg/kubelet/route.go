package kubelet

import (
	"net/http"
	"strings"
)

// action is what a path asks for.
type action string

const (
	actionLogs        action = "containerLogs"
	actionExec        action = "exec"
	actionAttach      action = "attach"
	actionRun         action = "run"
	actionPortForward action = "portForward"
	actionPods        action = "pods"
	actionRunningPods action = "runningpods"
	actionStats       action = "stats/summary"
	actionMetrics     action = "metrics/resource"
	actionConfigz     action = "configz"
	actionHealthz     action = "healthz"
	// actionUnsupported is known of a kubelet, but is not offered for devices.
	actionUnsupported action = "unsupported"
	actionUnknown     action = ""
)

// route is a parsed path. The fields that the action does not have are empty.
type route struct {
	action action
	// node of /nodes/<node>/...
	node string
	// namespace and pod of a pod, and its uid if the path names it.
	namespace, pod, uid string
	container           string
	// subresources of nodes, any of which permits the request.
	subresources []string
}

// methods that the action has.
func (r route) methods() []string {
	if r.upgrades() {
		return []string{http.MethodGet, http.MethodPost}
	}
	switch r.action {
	case actionRun:
		return []string{http.MethodPost}
	case actionUnsupported, actionUnknown:
		return nil
	}
	return []string{http.MethodGet}
}

// ofPod says whether the path names a pod.
func (r route) ofPod() bool { return r.pod != "" }

// ofNode says whether the path is about a Node as a whole and there is something to answer.
func (r route) ofNode() bool {
	switch r.action {
	case actionPods, actionRunningPods, actionStats, actionMetrics, actionConfigz:
		return true
	}
	return false
}

// upgrades says whether the action is carried by an upgraded connection.
func (r route) upgrades() bool {
	switch r.action {
	case actionExec, actionAttach, actionPortForward:
		return true
	}
	return false
}

// runsCommands says whether the request reaches into a pod, whatever its method.
func (r route) runsCommands() bool { return r.upgrades() || r.action == actionRun }

// parseRoute parses the path of a request. It never fails: what it does not know it calls
// actionUnknown.
func parseRoute(path string) route {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	node := ""
	if len(parts) > 2 && parts[0] == "nodes" && parts[1] != "" {
		node, parts = parts[1], parts[2:]
	}
	r := route{subresources: []string{"proxy"}}
	if node == "" {
		r = parsePodRoute(parts)
	}
	if r.action == actionUnknown {
		r = parseNodeRoute(strings.TrimSuffix(strings.Join(parts, "/"), "/"))
	}
	r.node = node
	return r
}

// parsePodRoute parses action/namespace/pod[/uid][/container].
func parsePodRoute(parts []string) route {
	r := route{subresources: []string{"proxy"}}
	for _, part := range parts {
		if part == "" {
			return r
		}
	}
	if len(parts) < 3 {
		return r
	}
	what, namespace, pod, rest := action(parts[0]), parts[1], parts[2], parts[3:]
	switch what {
	case actionLogs:
		if len(rest) != 1 {
			return r
		}
		r.container = rest[0]
	case actionExec, actionAttach, actionRun:
		if len(rest) != 1 && len(rest) != 2 {
			return r
		}
		if len(rest) == 2 {
			r.uid = rest[0]
		}
		r.container = rest[len(rest)-1]
	case actionPortForward:
		if len(rest) > 1 {
			return r
		}
		if len(rest) == 1 {
			r.uid = rest[0]
		}
	default:
		return r
	}
	r.action, r.namespace, r.pod = what, namespace, pod
	return r
}

// parseNodeRoute parses what is about a Node as a whole. The subresources are those of the kubelet.
func parseNodeRoute(path string) route {
	first, _, _ := strings.Cut(path, "/")
	switch action(path) {
	case actionPods, actionRunningPods:
		return route{action: action(path), subresources: []string{"pods", "proxy"}}
	case actionHealthz:
		return route{action: actionHealthz, subresources: []string{"healthz", "proxy"}}
	case actionConfigz:
		return route{action: actionConfigz, subresources: []string{"configz", "proxy"}}
	case actionStats:
		return route{action: actionStats, subresources: []string{"stats"}}
	case actionMetrics:
		return route{action: actionMetrics, subresources: []string{"metrics"}}
	}
	r := route{action: actionUnsupported}
	switch first {
	case "stats", "metrics", "checkpoint", "statusz":
		r.subresources = []string{first}
	case "logs":
		r.subresources = []string{"log"}
	case "flagz":
		r.subresources = []string{"configz"}
	case "allocatedPods":
		r.subresources = []string{"pods", "proxy"}
	case "debug", "cri":
		r.subresources = []string{"proxy"}
	default: // also an incomplete path of something that there is
		r.action, r.subresources = actionUnknown, []string{"proxy"}
	}
	return r
}
