package agent

import (
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
