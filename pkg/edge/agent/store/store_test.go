package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"arhat.dev/aranya/pkg/edge/agent/seal"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/test/framework/rights"
)

func TestRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pods")
	s := open(t, dir)
	pod := &edgeapi.RunPod{Uid: "u-1", Pod: []byte("spec"), Digest: "d", VolumesDigest: "v"}
	if err := s.SavePod(pod); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveStatus("u-1", &v1.PodStatus{Phase: v1.PodRunning}, false); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveDeletion(&edgeapi.DeletePod{Uid: "u-2", Name: "gone", GracePeriodSeconds: 3}); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveStatus("u-3", &v1.PodStatus{Phase: v1.PodRunning}, false); err != nil {
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
	key := newKey(t, 1)
	sealed := func(key *seal.Key, name string, payload []byte) []byte {
		data, err := key.Seal(name, payload)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	message := mustMarshal(t, &edgeapi.RunPod{Uid: "bad"})
	good, plain := sealed(key, "bad.pod", message), encodePlain(message)
	for name, data := range map[string][]byte{
		"empty":             {},
		"foreign":           []byte("hello"),
		"cut off":           good[:20],
		"bit flip":          flipped(good),
		"no message":        sealed(key, "bad.pod", []byte{0xff}),
		"another's uid":     sealed(key, "bad.pod", mustMarshal(t, &edgeapi.RunPod{Uid: "other"})),
		"another record":    sealed(key, "other.pod", message),
		"another secret":    sealed(newKey(t, 2), "bad.pod", message),
		"plain, cut off":    plain[:20],
		"plain, bit flip":   flipped(plain),
		"plain, no message": encodePlain([]byte{0xff}),
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
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
			if _, errs := s.Load(); len(errs) != 1 || !strings.Contains(errs[0].Error(), "was set aside earlier") {
				t.Errorf("the second load reports %v", errs)
			}
			if uids, err := s.UIDs(); err != nil || !uids.Equal(sets.New("bad", "ok")) {
				t.Errorf("of %v is something kept, %v", uids, err)
			}
			// It comes again from the cloud, and that is that.
			if err := s.SavePod(&edgeapi.RunPod{Uid: "bad"}); err != nil {
				t.Fatal(err)
			}
			if records, errs := s.Load(); len(errs) != 0 || records["bad"] == nil {
				t.Errorf("got %v and %v after it came again", records, errs)
			}
		})
	}
}

// The record of images is no pod's, whatever becomes of it.
func TestCorruptImages(t *testing.T) {
	s := open(t, t.TempDir())
	path := filepath.Join(s.dir, imagesName)
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := s.LoadImages(); err == nil || data != nil {
		t.Errorf("got %q, %v", data, err)
	}
	if _, err := os.Stat(path + corruptSuffix); err != nil {
		t.Error(err)
	}
	if records, errs := s.Load(); len(records) != 0 || len(errs) != 0 {
		t.Errorf("the records of pods are %v, %v", records, errs)
	}
	if uids, err := s.UIDs(); err != nil || len(uids) != 0 {
		t.Errorf("of %v is something kept, %v", uids, err)
	}
}

func TestBounds(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.SavePod(&edgeapi.RunPod{Uid: "big", Pod: make([]byte, maxRecord+1)}); err == nil {
		t.Error("a record that is too large was kept")
	}
	for _, uid := range []string{"", "../x", "a/b", ".hidden", "a..b"} {
		if err := s.SavePod(&edgeapi.RunPod{Uid: uid}); err == nil {
			t.Errorf("UID %q was accepted as a file name", uid)
		}
	}
}

// Records of an agent from before there was sealing are read, and are sealed from then on.
func TestPlainRecordsAreSealed(t *testing.T) {
	s := open(t, t.TempDir())
	pod := &edgeapi.RunPod{Uid: "u", Pod: []byte("the secret in the environment")}
	path := filepath.Join(s.dir, "u.pod")
	if err := os.WriteFile(path, encodePlain(mustMarshal(t, pod)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"plain", "sealed"} {
		records, errs := s.Load()
		if len(errs) != 0 || records["u"] == nil || !proto.Equal(records["u"].Pod, pod) {
			t.Errorf("%s: got %v, %v", when, records, errs)
		}
		if data, err := os.ReadFile(path); err != nil || bytes.Contains(data, []byte("secret")) {
			t.Errorf("%s: it can be read after the load: %q, %v", when, data, err)
		}
	}
}

// TestStatusLost has statuses that tell nothing, each for another reason. The pods come back nevertheless.
func TestStatusLost(t *testing.T) {
	s := open(t, t.TempDir())
	path := func(name string) string { return filepath.Join(s.dir, name) }
	for uid, spoil := range map[string]func() error{
		"good":       func() error { return nil },
		"none":       func() error { return os.Remove(path("none" + statusSuffix)) },
		"damaged":    func() error { return os.Truncate(path("damaged"+statusSuffix), 0) },
		"unread":     func() error { return os.Chmod(path("unread"+statusSuffix), 0) },
		"came again": func() error { return nil },
	} {
		uid = strings.ReplaceAll(uid, " ", "-")
		if err := errors.Join(s.SavePod(&edgeapi.RunPod{Uid: uid}), s.SaveStatus(uid, &v1.PodStatus{Phase: v1.PodSucceeded}, true), spoil()); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path("came-again"+statusSuffix+corruptSuffix), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rights.Without(t, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH)
	for _, when := range []string{"at first", "again"} {
		records, _ := s.Load()
		for uid, want := range map[string]bool{"good": false, "none": false, "damaged": true, "unread": true, "came-again": false} {
			if r := records[uid]; r == nil || r.Pod == nil || r.StatusLost != want {
				t.Errorf("%s, %s: got %+v, want StatusLost %t", when, uid, r, want)
			}
		}
	}
	if err := os.Chmod(path("unread"+statusSuffix), 0o600); err != nil {
		t.Fatal(err)
	}
	if records, _ := s.Load(); records["unread"].StatusLost || records["unread"].Status.Phase != v1.PodSucceeded {
		t.Errorf("it can be read again, but got %+v", records["unread"])
	}
}

// TestPlainRecordOnAFullDisk has a record that is good but cannot be written anew.
func TestPlainRecordOnAFullDisk(t *testing.T) {
	s := open(t, t.TempDir())
	if err := os.WriteFile(filepath.Join(s.dir, "u.pod"), encodePlain(mustMarshal(t, &edgeapi.RunPod{Uid: "u"})), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.dir, 0o500); err != nil {
		t.Fatal(err)
	}
	rights.Without(t, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH)
	records, errs := s.Load()
	if err := os.Chmod(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if records["u"] == nil || records["u"].Pod == nil || len(errs) != 1 {
		t.Errorf("got %v, %v; want the record and one error", records, errs)
	}
}

func FuzzDecode(f *testing.F) {
	key := newKey(f, 1)
	message, err := proto.Marshal(&edgeapi.RunPod{Uid: "uid", Pod: []byte("pod")})
	if err != nil {
		f.Fatal(err)
	}
	good, err := key.Seal("uid.pod", message)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{{}, message, good, encodePlain(nil), encodePlain(message), []byte(plainMagic)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if payload, err := decodePlain(data); err == nil && !bytes.Equal(encodePlain(payload), data) {
			t.Errorf("a plain record is accepted that was never written: %q", data)
		}
		s := open(t, t.TempDir())
		for _, suffix := range []string{podSuffix, statusSuffix, deletionSuffix} {
			_ = (&Record{}).decode("uid", suffix, data) // must not panic
			if err := os.WriteFile(filepath.Join(s.dir, "uid"+suffix), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, errs := s.Load(); len(errs) == 0 {
			for _, suffix := range []string{podSuffix, statusSuffix, deletionSuffix} { // all of them are sealed now
				sealed, err := os.ReadFile(filepath.Join(s.dir, "uid"+suffix))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.key.Open("uid"+suffix, sealed); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func newKey(t testing.TB, fill byte) *seal.Key {
	t.Helper()
	key, err := seal.New(bytes.Repeat([]byte{fill}, seal.MinSecret))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, newKey(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// encodePlain is how records were written before there was sealing.
func encodePlain(payload []byte) []byte {
	sum := sha256.Sum256(payload)
	return slices.Concat([]byte(plainMagic), sum[:], payload)
}

func flipped(data []byte) []byte {
	data = bytes.Clone(data)
	data[len(data)-1] ^= 1
	return data
}

func mustMarshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
