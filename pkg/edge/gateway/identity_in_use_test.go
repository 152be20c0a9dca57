package gateway_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// Two machines that take the link from each other are told of, with where they are; one that comes again is not,
// however often it does.
func TestIdentityInUse(t *testing.T) {
	for name, tt := range map[string]struct {
		boots string
		want  bool
	}{
		"two machines": {"ABABA", true},
		"one machine":  {"AAABBBCCC", false},
	} {
		t.Run(name, func(t *testing.T) {
			told := make(chan [2]gateway.Machine, len(tt.boots))
			w := newWorld(t, func(c *gateway.Config) {
				c.IdentityInUse = func(d gateway.Device, one, other gateway.Machine) {
					if d.String() != "edge/device-1" {
						t.Errorf("told of %s", d)
					}
					told <- [2]gateway.Machine{one, other}
				}
			})
			cert := certificateIn(t, w.enrol(t, w.directory.put("device-1", "uid-1")))
			for _, boot := range strings.Split(tt.boots, "") {
				status := corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{BootID: boot}}
				data, err := status.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				call, err := w.rawClient(t, cert).Connect(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := call.Send(&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Hello{Hello: &edgeapi.Hello{
					NodeStatus: &edgeapi.NodeStatus{Status: data},
				}}}); err != nil {
					t.Fatal(err)
				}
				if _, err := call.Recv(); err != nil { // until it is in
					t.Fatal(err)
				}
			}
			close(told) // whoever is in was told of before
			var got [][2]gateway.Machine
			for machines := range told {
				got = append(got, machines)
			}
			if !tt.want {
				if len(got) > 0 {
					t.Errorf("told of %v", got)
				}
				return
			}
			if len(got) != 1 || got[0][0].BootID != "A" || got[0][1].BootID != "B" ||
				!strings.HasPrefix(got[0][0].Address, "127.0.0.1:") || !strings.HasPrefix(got[0][1].Address, "127.0.0.1:") {
				t.Errorf("told of %v", got)
			}
		})
	}
}
