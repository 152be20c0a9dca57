package pods

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilexec "k8s.io/utils/exec"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/edge/agent/pods/criconfig"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// TestHTTPHook asks for a hook: that it was asked for is what counts, not the answer.
func TestHTTPHook(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch r.URL.Path {
		case "/error":
			w.WriteHeader(http.StatusInternalServerError)
		case "/gone":
			w.WriteHeader(http.StatusNotFound)
		case "/cut":
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("short"))
		}
	}))
	defer server.Close()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	pod := newPod("p", box("main"))
	p := &pass{pod: pod, st: &state.Pod{}, node: &criconfig.Node{}}
	for i, path := range []string{"/", "/error", "/gone", "/cut"} {
		action := &v1.HTTPGetAction{Host: at.Hostname(), Port: intstr.Parse(at.Port()), Path: path}
		if err := p.httpHook(t.Context(), &pod.Spec.Containers[0], action); err != nil || asked != i+1 {
			t.Errorf("%s: got %v after %d requests, want no error after %d", path, err, asked, i+1)
		}
	}
	server.Close()
	action := &v1.HTTPGetAction{Host: at.Hostname(), Port: intstr.Parse(at.Port())}
	if err := p.httpHook(t.Context(), &pod.Spec.Containers[0], action); err == nil {
		t.Error("a hook that nobody has been asked for succeeded")
	}
}

// TestHTTPSHookInClear asks for a hook over TLS of a server that speaks none: it is asked for in clear, without the
// credential, and an event tells.
func TestHTTPSHookInClear(t *testing.T) {
	asked := make(chan http.Header, 2)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header }))
	defer server.Close()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	simulate(t, func(t *testing.T, a *agent) {
		c := box("main")
		c.Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{
			Host: at.Hostname(), Port: intstr.Parse(at.Port()), Scheme: v1.URISchemeHTTPS,
			HTTPHeaders: []v1.HTTPHeader{{Name: "Authorization", Value: "Basic eDp5"}, {Name: "X-Kept", Value: "yes"}},
		}}}
		pod := newPod("p", c)
		a.run(pod)
		if s := a.status(pod); s.Phase != v1.PodRunning || s.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("got %v, want the container running", s)
		}
		if !a.sink.hasEvent("Warning LifecycleHTTPFallback") {
			t.Errorf("got %q, want an event that tells of it", a.sink.events)
		}
	})
	if len(asked) != 1 {
		t.Fatalf("it was asked for %d times, want 1", len(asked))
	}
	h := <-asked
	if h.Get("Authorization") != "" || h.Get("X-Kept") != "yes" {
		t.Errorf("got headers %v, want the credential left out", h)
	}
	if !strings.HasPrefix(h.Get("User-Agent"), "kube-lifecycle/") {
		t.Errorf("asked by %q, want what the kubelet calls itself in hooks", h.Get("User-Agent"))
	}
}

// TestPostStartFails has a container stopped because of its hook: as always its preStop hook comes first.
func TestPostStartFails(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		hook := &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}
		c := box("main")
		c.Lifecycle = &v1.Lifecycle{PostStart: hook, PreStop: hook}
		pod := newPod("p", c)
		pod.Spec.RestartPolicy = v1.RestartPolicyNever
		a.runtime.set(func() { a.runtime.execErr = utilexec.CodeExitError{Err: errors.New("no"), Code: 1} })
		a.run(pod)
		if !a.sink.hasEvent("FailedPostStartHook") || !a.sink.hasEvent("FailedPreStopHook") || a.runtime.count("ExecSync") != 2 {
			t.Errorf("%d hooks were run, got %q, want both", a.runtime.count("ExecSync"), a.sink.events)
		}
		if s := a.status(pod); s.Phase != v1.PodFailed || len(a.runtime.running()) != 0 {
			t.Errorf("got %v", s)
		}
	})
}

// TestPreStopWithoutGrace stops pods that are given no time at all: a preStop hook still has its second.
func TestPreStopWithoutGrace(t *testing.T) {
	for name, stop := range map[string]func(a *agent, pod *v1.Pod){
		"deleted by force":                 func(a *agent, pod *v1.Pod) { a.delete(pod, 0) },
		"not listed any more":              func(a *agent, _ *v1.Pod) { a.manager.Desired(&edgeapi.DesiredPods{}) },
		"evicted":                          func(a *agent, pod *v1.Pod) { a.manager.Evict(string(pod.UID), 0, "no room", false) },
		"overdue":                          func(*agent, *v1.Pod) { time.Sleep(time.Minute) },
		"the others of its pod have ended": func(a *agent, _ *v1.Pod) { a.runtime.end(a.runtime.running()["main"], 1) },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, a *agent) {
				sidecar := box("sidecar")
				sidecar.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
				sidecar.Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}}
				pod := newPod("p", box("main"))
				pod.Spec.InitContainers = []v1.Container{sidecar}
				pod.Spec.RestartPolicy = v1.RestartPolicyNever
				pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](0)
				pod.Spec.ActiveDeadlineSeconds = ptr.To[int64](60)
				a.run(pod)
				stop(a, pod)
				a.settle()
				if len(a.runtime.running()) != 0 || a.runtime.count("ExecSync") != 1 {
					t.Errorf("its hook was run %d times, and %v still run; want once, and none", a.runtime.count("ExecSync"), a.runtime.running())
				}
			})
		})
	}
}

// TestLongReasons has it take very long, and in no encoding, to say why a container waits: a status must fit into
// what the link and the API server take.
func TestLongReasons(t *testing.T) {
	endless := strings.Repeat("\xff\u00e9", 1<<13)
	simulate(t, func(t *testing.T, a *agent) {
		a.runtime.set(func() { a.runtime.createErr = errors.New("no such file: " + endless) })
		pod := newPod("p", box("main"))
		a.run(pod)
		told := a.status(pod).ContainerStatuses[0].State.Waiting
		if told == nil || !strings.HasPrefix(told.Message, "no such file: \u00e9") || len(told.Message) > maxReason || !utf8.ValidString(told.Message) {
			t.Errorf("got %.200v", told)
		}
		a.runtime.set(func() {
			a.runtime.execErr, a.runtime.execOutput = utilexec.CodeExitError{Err: errors.New("no"), Code: 1}, endless
		})
		p := &pass{w: a.manager.worker(string(pod.UID))}
		hook := &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"x"}}}
		if err := p.runHook(t.Context(), &pod.Spec.Containers[0], "id", hook, time.Second); err == nil || len(err.Error()) > maxReason {
			t.Errorf("got %.200v", err)
		}
	})
}
