package controller

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/eventually"
)

// A device that holds the volumes of a pod is not sent them again with each change of a label: they may be large.
func TestChangedPodLeavesOutItsVolumes(t *testing.T) {
	for name, features := range map[string][]string{"with the feature": {edgeapi.FeatureKeptVolumes}, "an older agent": nil} {
		t.Run(name, func(t *testing.T) {
			ed := edgeDevice("d1")
			c := newCluster(t, time.Hour, ed, configMap("cm", "1"), secret("1"), edgePod("p", "d1", withVolume, withSecret))
			session := func(held ...*edgeapi.PodDigest) *session {
				s := newSession(ed, held...)
				s.hello.Features = features
				return c.connect(s)
			}
			label := func(value string) {
				t.Helper()
				p := c.pod("p")
				p.Labels = map[string]string{"changed": value}
				if _, err := c.kube.CoreV1().Pods("edge").Update(c.ctx, p, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			check := func(run *edgeapi.RunPod, kept ...string) {
				t.Helper()
				if features == nil {
					kept = nil
				}
				got := slices.Clone(run.GetKeptVolumes())
				slices.Sort(got)
				if !slices.Equal(got, kept) || len(run.GetVolumes()) != 2-len(kept) {
					t.Errorf("sent %v, left out %q, want %q left out of 2", run.GetVolumes(), got, kept)
				}
			}

			s := session()
			eventually.Holds(t, "pod sent", func() bool { return len(s.runs()) == 1 })
			if run := s.runs()[0]; len(run.GetKeptVolumes()) > 0 || len(run.GetVolumes()) != 2 {
				t.Errorf("first sent with %v, left out %q", run.GetVolumes(), run.GetKeptVolumes())
			}
			label("once")
			eventually.Holds(t, "change sent", func() bool { return len(s.runs()) == 2 })
			check(s.runs()[1], "secret", "v")
			held := &edgeapi.PodDigest{Uid: s.runs()[1].GetUid(), Digest: s.runs()[1].GetDigest(), VolumesDigest: s.runs()[1].GetVolumesDigest()}
			c.cut(s, "gone")

			// With another pod but the same volumes, by their digest.
			label("while it was away")
			s = session(held)
			eventually.Holds(t, "change sent over another link", func() bool { return len(s.runs()) == 1 })
			check(s.runs()[0], "secret", "v")
		})
	}
}
