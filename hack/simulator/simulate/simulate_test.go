package simulate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"arhat.dev/aranya/hack/simulator/fakecri"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
)

func valid() Options {
	return Options{Cluster: &rest.Config{}, Namespace: "edge", Prefix: "sim", Devices: 3, Server: "gw:7443", Workers: 1, Period: time.Second}
}

func TestValidate(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Options)
		want   string // part of the error; empty: valid
	}{
		"valid":               {func(*Options) {}, ""},
		"tokens":              {func(o *Options) { o.Cluster, o.Devices, o.Tokens = nil, 0, []string{"t"} }, ""},
		"tokens and devices":  {func(o *Options) { o.Tokens = []string{"t"} }, "as many as tokens"},
		"tokens, no server":   {func(o *Options) { o.Devices, o.Tokens, o.Server = 0, []string{"t"}, "" }, "server: tokens do not tell"},
		"no devices":          {func(o *Options) { o.Devices = 0 }, "at least one"},
		"no cluster":          {func(o *Options) { o.Cluster = nil }, "neither a cluster nor tokens"},
		"prefix":              {func(o *Options) { o.Prefix = "Sim_" }, `prefix "Sim_"`},
		"failure rate":        {func(o *Options) { o.Runtime = fakecri.Options{FailureRate: 1.5} }, "failure rate 1.5"},
		"start delay":         {func(o *Options) { o.Runtime = fakecri.Options{StartDelay: -1} }, "start delay -1ns"},
		"workers":             {func(o *Options) { o.Workers = 0 }, "workers 0"},
		"period":              {func(o *Options) { o.Period = 0 }, "period 0s"},
		"EdgeDevice template": {func(o *Options) { o.EdgeDevice = "spec: {nodes: {}}" }, `unknown field "nodes"`},
		"agent template":      {func(o *Options) { o.Agent = "apiVersion: arhat.dev/v1alpha1\nkind: ArhatConfiguration\nservers: x" }, "servers"},
	} {
		t.Run(name, func(t *testing.T) {
			o := valid()
			tt.change(&o)
			err := o.Validate()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestTemplates(t *testing.T) {
	o := valid()
	o.NoNode = true
	o.EdgeDevice = "metadata: {labels: {device: $(NAME)}}\nspec: {connectivity: {method: mqtt}}"
	ed, err := o.edgeDevice("sim-2")
	if err != nil {
		t.Fatal(err)
	}
	if ed.Namespace != "edge" || ed.Name != "sim-2" || ed.Labels["device"] != "sim-2" || ed.Spec.Connectivity.Method != "mqtt" || !ed.Spec.Node.Disabled {
		t.Errorf("EdgeDevice %+v", ed)
	}

	o.Agent = "apiVersion: arhat.dev/v1alpha1\nkind: ArhatConfiguration\nserver: mqtts://broker:8883\nmqtt: {username: $(NAME)}"
	for _, tt := range []struct{ flag, given, want string }{
		{"", "gw:7443", "mqtts://broker:8883"},
		{"mqtts://other:8883", "gw:7443", "mqtts://other:8883"},
	} {
		o.Server = tt.flag
		c, err := o.agent("sim-2", tt.given)
		if err != nil {
			t.Fatal(err)
		}
		if c.Server != tt.want || c.MQTT.Username != "sim-2" {
			t.Errorf("server %s, user %s", c.Server, c.MQTT.Username)
		}
	}
	o.Agent, o.Server = "", ""
	if c, err := o.agent("sim-2", "gw:7443"); err != nil || c.Server != "gw:7443" {
		t.Errorf("configuration %+v, %v", c, err)
	}
	if _, err := o.agent("sim-2", ""); err == nil || !errors.Is(err, errNoServer) {
		t.Errorf("without an address: %v", err)
	}
}

// One EdgeDevice that cannot be deleted keeps no other from being.
func TestCleanup(t *testing.T) {
	var deleted []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		name := path.Base(r.URL.Path)
		if name == "sim-0" || name == "sim-2" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprintf(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "%s is stuck", "reason": "Forbidden", "code": 403}`, name)
			return
		}
		deleted = append(deleted, name)
		_, _ = io.WriteString(w, `{"kind": "Status", "apiVersion": "v1", "status": "Success"}`)
	}))
	defer server.Close()
	client, err := versioned.NewForConfig(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeJSON}})
	if err != nil {
		t.Fatal(err)
	}
	o := valid()
	o.Out = io.Discard
	s := &simulation{options: o, client: client, created: []string{"sim-0", "sim-1", "sim-2", "sim-3"}}
	err = s.cleanup(t.Context())
	server.Close() // all handlers have returned
	if want := "2 of 4 EdgeDevices could not be deleted, the first because of: sim-0 is stuck"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if !slices.Equal(deleted, []string{"sim-1", "sim-3"}) {
		t.Errorf("deleted %v", deleted)
	}
}

// An EdgeDevice whose creation is under way when the simulation is told to stop is deleted, too, one that was there not.
func TestStopWhileCreating(t *testing.T) {
	for name, tt := range map[string]struct {
		code    int // of the creation
		deletes bool
	}{
		"created":  {http.StatusCreated, true},
		"is there": {http.StatusConflict, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			deleted := false
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				switch {
				case r.Method == http.MethodDelete:
					deleted = true
				case strings.HasSuffix(r.URL.Path, "/edgedevices"):
					cancel()
					if tt.code == http.StatusConflict {
						w.WriteHeader(tt.code)
						_, _ = io.WriteString(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "AlreadyExists", "code": 409}`)
						return
					}
					w.WriteHeader(tt.code)
				}
				_, _ = io.WriteString(w, `{"kind": "EdgeDevice", "apiVersion": "aranya.arhat.dev/v1alpha1", "metadata": {"name": "sim-0"}}`)
			}))
			defer server.Close()
			o := valid()
			o.Cluster = &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeJSON}}
			o.Devices, o.Dir, o.Out = 1, filepath.Join(t.TempDir(), "state"), io.Discard
			if err := Run(ctx, o); err != nil {
				t.Error(err)
			}
			server.Close() // all handlers have returned
			if deleted != tt.deletes {
				t.Errorf("deleted: %t", deleted)
			}
		})
	}
}
