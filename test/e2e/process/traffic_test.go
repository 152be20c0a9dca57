package process_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/test/framework/suite"
)

// TestTraffic has a command send bytes over the link and finds them in the status, in kubectl describe and in
// kubectl edge top: what the server counts at once, what the device counts with its next answer to a heartbeat.
func TestTraffic(t *testing.T) {
	const size = 300_000
	e := suite.Get(t)
	method := e.Cluster.State().Link
	heartbeat := func(value string) {
		e.Kubectl(t, "patch", "ed", "-n", suite.Namespace, device, "--type=merge", "-p",
			fmt.Sprintf(`{"spec":{"connectivity":{"heartbeatInterval":%s}}}`, value))
	}
	status := func() v1alpha1.EdgeDeviceStatus {
		var ed v1alpha1.EdgeDevice
		if err := json.Unmarshal([]byte(e.Kubectl(t, "get", "ed", "-n", suite.Namespace, device, "-o", "json")), &ed); err != nil {
			t.Fatal(err)
		}
		return ed.Status
	}
	sent := func(s v1alpha1.EdgeDeviceStatus) int64 {
		if s.Link == nil {
			t.Fatal("the device has no link")
		}
		for _, k := range s.Link.Traffic {
			if k.Kind == "exec" {
				return k.BytesIn
			}
		}
		return 0
	}
	heartbeat(`"5s"`)
	defer heartbeat("null")
	before := sent(status())
	e.Kubectl(t, edge("exec", device, "--", "head", "-c", fmt.Sprint(size), "/dev/zero")...)

	now := status()
	if grown := sent(now) - before; grown < size || grown > size+size/50 {
		t.Errorf("status.link.traffic has %d bytes more of exec from the device, want %d", grown, size)
	}
	var sum v1alpha1.KindTraffic
	for _, k := range now.Link.Traffic {
		sum.BytesIn += k.BytesIn
		sum.BytesOut += k.BytesOut
	}
	// What is under way at this moment is counted on one side only.
	if diff := now.Link.BytesIn - sum.BytesIn; now.Link.BytesIn < size || diff > 4096 || diff < -4096 {
		t.Errorf("all kinds make %+v of %+v", sum, now.Link)
	}
	suite.Eventually(t, 60*time.Second, "the device tells what it counted", func(context.Context) error {
		s := status()
		for _, d := range s.Traffic {
			if d.Link == method && d.Kind == "exec" && d.BytesIn >= sent(now) {
				return nil
			}
		}
		return fmt.Errorf("status.traffic is %+v", s.Traffic)
	})
	row := regexp.MustCompile(`(?m)^` + device + ` +` + method + ` +exec +\d+Ki +\d+(Ki)? +\d+Ki +\d+(Ki)?$`)
	if out := e.Kubectl(t, edge("top", device, "--traffic")...); !row.MatchString(out) {
		t.Errorf("kubectl edge top --traffic printed\n%s", out)
	}
	if out := e.Kubectl(t, "describe", "ed", "-n", suite.Namespace, device); !regexp.MustCompile(`Kind: +exec`).MatchString(out) || !strings.Contains(out, "Traffic:") {
		t.Errorf("kubectl describe does not show the traffic:\n%s", out)
	}
}
