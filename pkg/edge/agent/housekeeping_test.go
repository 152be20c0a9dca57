package agent

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"arhat.dev/aranya/pkg/edge/agent/config"
)

// TestReserved checks that pods cannot have what the owner reserves, nor what eviction keeps free.
func TestReserved(t *testing.T) {
	c := config.New()
	c.Default()
	c.Reserved.EphemeralStorage = "1Gi"
	a := &Agent{config: c}
	got := a.reserved(v1.ResourceList{v1.ResourceMemory: resource.MustParse("4Gi"), v1.ResourceEphemeralStorage: resource.MustParse("50Gi")})
	for name, want := range map[v1.ResourceName]string{v1.ResourceCPU: "0", v1.ResourceMemory: "164Mi", v1.ResourceEphemeralStorage: "6Gi"} {
		if q := got[name]; q.Cmp(resource.MustParse(want)) != 0 {
			t.Errorf("%s of %s is reserved, want %s", q.String(), name, want)
		}
	}
	small := a.reserved(v1.ResourceList{v1.ResourceMemory: resource.MustParse("500Mi")})
	if q := small[v1.ResourceMemory]; q.Cmp(resource.MustParse("114Mi")) != 0 { // the default threshold is 10 % there
		t.Errorf("%s is reserved on a small device", q.String())
	}
}

func TestCheckReserved(t *testing.T) {
	capacity := v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("4Gi"), v1.ResourceEphemeralStorage: {}}
	for name, tt := range map[string]struct {
		reserved config.Reserved
		hard     map[string]string
		want     []string
	}{
		"default":          {config.Reserved{}, nil, nil},
		"all":              {config.Reserved{CPU: "2", Memory: "3996Mi"}, nil, nil},
		"a unit forgotten": {config.Reserved{CPU: "1000"}, nil, []string{`reserved.cpu: Invalid value: "1000": must be at most what the device has, 2`}},
		"with eviction": {config.Reserved{Memory: "4Gi"}, nil, []string{
			`reserved.memory: Invalid value: "4Gi": must be at most what the device has, 4Gi, less what evictionHard keeps free, 100Mi`,
		}},
		"two":          {config.Reserved{CPU: "3", Memory: "100Gi"}, nil, []string{"reserved.cpu", "reserved.memory"}},
		"not measured": {config.Reserved{EphemeralStorage: "1Gi"}, map[string]string{"nodefs.available": "20Gi"}, nil},
		"eviction of more than there is": {config.Reserved{}, map[string]string{"memory.available": "8Gi"}, []string{
			`not valid: evictionHard[memory.available]: Invalid value: "8Gi": must be less than what the device has, 4Gi`,
		}},
		"eviction of all": {config.Reserved{}, map[string]string{"memory.available": "100%"}, []string{"not valid: evictionHard[memory.available]"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := config.New()
			c.Reserved, c.EvictionHard = tt.reserved, tt.hard
			c.Default()
			err := (&Agent{config: c}).checkReserved(capacity)
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %s", err, want)
				}
			}
		})
	}
}

func TestReservedBeyondTheDevice(t *testing.T) {
	d := newDevice(t, newCloud(t))
	d.stop()
	d.config.Reserved.Memory = "1Ei"
	if _, err := New(t.Context(), d.config, Seams{}); err == nil || !strings.Contains(err.Error(), "reserved.memory") {
		t.Errorf("got %v", err)
	}
}
