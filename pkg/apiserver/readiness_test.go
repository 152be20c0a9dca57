package apiserver

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestReadinessIsHonest would fail if a part that does not work went unnoticed.
func TestReadinessIsHonest(t *testing.T) {
	request := httptest.NewRequest(http.MethodGet, "/readyz", nil)
	state := map[string]*bool{"edgedevice-informer-sync": new(bool), "front-proxy-ca": new(bool)}
	r := &readiness{
		devicesSynced: func() bool { return *state["edgedevice-informer-sync"] },
		callersKnown:  func() bool { return *state["front-proxy-ca"] },
	}
	set := map[string]func(bool){
		"gateway": r.gateway.Store, "kubelet-endpoint": r.kubelet.Store,
		"edgedevice-informer-sync": func(v bool) { *state["edgedevice-informer-sync"] = v },
		"front-proxy-ca":           func(v bool) { *state["front-proxy-ca"] = v },
	}
	checks := r.checks()
	if len(checks) != len(set) {
		t.Fatalf("%d checks, this test knows %d", len(checks), len(set))
	}
	for _, c := range checks {
		if c.Check(request) == nil {
			t.Errorf("%s is ready before anything has started", c.Name())
		}
		set[c.Name()](true)
		if err := c.Check(request); err != nil {
			t.Errorf("%s: %v", c.Name(), err)
		}
		set[c.Name()](false)
		if c.Check(request) == nil {
			t.Errorf("%s is ready after it has ended", c.Name())
		}
	}
}
