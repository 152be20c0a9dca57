package node

import (
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A device that says something else of itself all the time has its Node written as often as others may bear, and then
// with what it said last.
func TestPace(t *testing.T) {
	r := newRig(t)
	r.expect("create")
	r.census.seen(r.ed.Name)
	version := 5
	report := func(kernel string) {
		r.report(corev1.NodeSystemInfo{KernelVersion: kernel})
		version++
		r.see(strconv.Itoa(version), nil)
	}
	report("0")
	if _, _, err := r.sync(); err != nil {
		t.Fatal(err)
	}
	for i := range pace.Burst - 1 {
		report(strconv.Itoa(i + 1))
		r.expect("patch")
	}
	for _, kernel := range []string{"too soon", "last"} {
		report(kernel)
		if verbs, again, err := r.sync(); len(verbs) > 0 || again != pace.Every || err != nil {
			t.Errorf("did %v, again after %s, error %v", verbs, again, err)
		}
	}
	r.clock.Step(pace.Every)
	r.expect("patch")
	r.see("100", func(n *corev1.Node) {
		if got := n.Status.NodeInfo.KernelVersion; got != "last" {
			t.Errorf("it is %q", got)
		}
	})
}
