package kubelet

import (
	"slices"
	"strings"
	"testing"
)

func TestParseRoute(t *testing.T) {
	proxy := []string{"proxy"}
	tests := map[string]route{
		"/containerLogs/ns/pod/c":      {action: actionLogs, namespace: "ns", pod: "pod", container: "c", subresources: proxy},
		"/exec/ns/pod/c":               {action: actionExec, namespace: "ns", pod: "pod", container: "c", subresources: proxy},
		"/exec/ns/pod/uid/c":           {action: actionExec, namespace: "ns", pod: "pod", uid: "uid", container: "c", subresources: proxy},
		"/attach/ns/pod/c":             {action: actionAttach, namespace: "ns", pod: "pod", container: "c", subresources: proxy},
		"/attach/ns/pod/uid/c":         {action: actionAttach, namespace: "ns", pod: "pod", uid: "uid", container: "c", subresources: proxy},
		"/run/ns/pod/uid/c":            {action: actionRun, namespace: "ns", pod: "pod", uid: "uid", container: "c", subresources: proxy},
		"/portForward/ns/pod":          {action: actionPortForward, namespace: "ns", pod: "pod", subresources: proxy},
		"/portForward/ns/pod/uid":      {action: actionPortForward, namespace: "ns", pod: "pod", uid: "uid", subresources: proxy},
		"/nodes/n/pods":                {action: actionPods, node: "n", subresources: []string{"pods", "proxy"}},
		"/nodes/n/pods/":               {action: actionPods, node: "n", subresources: []string{"pods", "proxy"}},
		"/pods":                        {action: actionPods, subresources: []string{"pods", "proxy"}},
		"/nodes/n/stats/summary":       {action: actionStats, node: "n", subresources: []string{"stats"}},
		"/nodes/n/metrics/resource":    {action: actionMetrics, node: "n", subresources: []string{"metrics"}},
		"/nodes/n/healthz":             {action: actionHealthz, node: "n", subresources: []string{"healthz", "proxy"}},
		"/healthz":                     {action: actionHealthz, subresources: []string{"healthz", "proxy"}},
		"/nodes/n/configz":             {action: actionConfigz, node: "n", subresources: []string{"configz", "proxy"}},
		"/checkpoint/ns/pod/c":         {action: actionUnsupported, subresources: []string{"checkpoint"}},
		"/logs/":                       {action: actionUnsupported, subresources: []string{"log"}},
		"/nodes/n/logs/syslog":         {action: actionUnsupported, node: "n", subresources: []string{"log"}},
		"/metrics":                     {action: actionUnsupported, subresources: []string{"metrics"}},
		"/metrics/cadvisor":            {action: actionUnsupported, subresources: []string{"metrics"}},
		"/nodes/n/runningpods/":        {action: actionRunningPods, node: "n", subresources: []string{"pods", "proxy"}},
		"/allocatedPods":               {action: actionUnsupported, subresources: []string{"pods", "proxy"}},
		"/debug/pprof/heap":            {action: actionUnsupported, subresources: proxy},
		"/":                            {subresources: proxy},
		"":                             {subresources: proxy},
		"/nodes":                       {subresources: proxy},
		"/nodes/n":                     {subresources: proxy},
		"/nodes//pods":                 {subresources: proxy},
		"/nodes/n/exec/ns/pod/c":       {node: "n", subresources: proxy},
		"/exec/ns/pod":                 {subresources: proxy},
		"/exec/ns/pod/":                {subresources: proxy},
		"/exec//pod/c":                 {subresources: proxy},
		"/exec/ns/pod/uid/c/more":      {subresources: proxy},
		"/containerLogs/ns/pod/uid/c":  {subresources: proxy},
		"/portForward/ns/pod/uid/more": {subresources: proxy},
		"/something":                   {subresources: proxy},
		"/podsecurity":                 {subresources: proxy},
		"/metricsfoo":                  {subresources: proxy},
		"//containerLogs/ns/pod/c":     {subresources: proxy},
	}
	for path, want := range tests {
		t.Run(path, func(t *testing.T) {
			got := parseRoute(path)
			if !slices.Equal(got.subresources, want.subresources) {
				t.Errorf("subresources %v, want %v", got.subresources, want.subresources)
			}
			got.subresources, want.subresources = nil, nil
			if got.action != want.action || got.node != want.node || got.namespace != want.namespace || got.pod != want.pod || got.uid != want.uid || got.container != want.container {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func FuzzParseRoute(f *testing.F) {
	for _, path := range []string{"/exec/ns/pod/c", "/exec/ns/pod/uid/c", "/nodes/n/metrics/resource", "/portForward/a/b", "//", "/nodes/exec/ns"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r := parseRoute(path)
		if len(r.subresources) == 0 {
			t.Fatalf("%q needs no right: %+v", path, r)
		}
		if r.runsCommands() && (!r.ofPod() || !slices.Equal(r.subresources, []string{"proxy"})) {
			t.Fatalf("%q reaches into a pod as %+v", path, r)
		}
		if r.ofPod() && (r.node != "" || r.namespace == "" || r.action == actionUnknown) {
			t.Fatalf("%q is %+v", path, r)
		}
		for _, part := range []string{r.node, r.namespace, r.pod, r.uid, r.container} {
			if strings.Contains(part, "/") {
				t.Fatalf("%q is %+v", path, r)
			}
		}
	})
}
