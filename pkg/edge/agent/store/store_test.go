package store

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func TestRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pods")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	pod := &edgeapi.RunPod{Uid: "u-1", Pod: []byte("spec"), Digest: "d", VolumesDigest: "v"}
	if err := s.SavePod(pod); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveStatus("u-1", &v1.PodStatus{Phase: v1.PodRunning}); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveDeletion(&edgeapi.DeletePod{Uid: "u-2", Name: "gone", GracePeriodSeconds: 3}); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveStatus("u-3", &v1.PodStatus{Phase: v1.PodRunning}); err != nil {
		t.Fatal(err)
	}
	records, errs := s.Load()
	if len(errs) != 0 {
		t.Fatal(errs)
	}
	if len(records) != 2 {
		t.Fatalf("got %d records, want those of u-1 and u-2", len(records))
	}
	if got := records["u-1"]; !proto.Equal(got.Pod, pod) || got.Status.Phase != v1.PodRunning || got.Deletion != nil {
		t.Errorf("u-1: got %v", got)
	}
	if got := records["u-2"]; got.Pod != nil || got.Deletion.GracePeriodSeconds != 3 {
		t.Errorf("u-2: got %v", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, _ := e.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600: it holds secrets", e.Name(), info.Mode())
		}
	}
	if err := s.Remove("u-1"); err != nil {
		t.Fatal(err)
	}
	if records, _ := s.Load(); records["u-1"] != nil {
		t.Error("u-1 is still there after Remove")
	}
}

func TestCorruptRecordsAreSetAside(t *testing.T) {
	good := encode(mustMarshal(t, &edgeapi.RunPod{Uid: "bad"}))
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for name, data := range map[string][]byte{
		"empty":         {},
		"foreign":       []byte("hello"),
		"cut off":       good[:20],
		"bit flip":      flipped,
		"no message":    encode([]byte{0xff}),
		"another's uid": encode(mustMarshal(t, &edgeapi.RunPod{Uid: "other"})),
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if err := s.SavePod(&edgeapi.RunPod{Uid: "ok"}); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(s.dir, "bad.pod"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			records, errs := s.Load()
			if len(errs) != 1 || records["bad"] != nil || records["ok"] == nil {
				t.Errorf("got %v and %v, want the good record and one error", records, errs)
			}
			if _, err := os.Stat(filepath.Join(s.dir, "bad.pod.corrupt")); err != nil {
				t.Error(err)
			}
			if _, errs := s.Load(); len(errs) != 0 {
				t.Errorf("the second load reports it again: %v", errs)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SavePod(&edgeapi.RunPod{Uid: "big", Pod: make([]byte, MaxRecord+1)}); err == nil {
		t.Error("a record that is too large was kept")
	}
	for _, uid := range []string{"", "../x", "a/b", ".hidden", "a..b"} {
		if err := s.SavePod(&edgeapi.RunPod{Uid: uid}); err == nil {
			t.Errorf("UID %q was accepted as a file name", uid)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(nil))
	f.Add(encode([]byte("payload")))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		payload, err := decode(data)
		if err == nil && !bytes.Equal(encode(payload), data) {
			t.Errorf("decode accepts what encode does not make: %q", data)
		}
		for _, suffix := range []string{podSuffix, statusSuffix, deletionSuffix} {
			_ = (&Record{}).decode("uid", suffix, data) // must not panic
		}
	})
}

func mustMarshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
