package images

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	testingclock "k8s.io/utils/clock/testing"
)

// fakeRuntime is a disk of 1000 bytes with images on it.
type fakeRuntime struct {
	fakeService
	stored     []*runtimeapi.Image
	containers []*runtimeapi.Container
	removed    []string
	stuck      string // cannot be removed
	other      uint64 // bytes that are no images
	nowhere    bool   // images lie on no file system
}

func (f *fakeRuntime) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return f.stored, nil
}

func (f *fakeRuntime) ListContainers(context.Context, *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	return f.containers, nil
}

func (f *fakeRuntime) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Info: map[string]string{"config": `{"sandboxImage": "registry.example/pause:1"}`}}, nil
}

func (f *fakeRuntime) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	if f.nowhere {
		return &runtimeapi.ImageFsInfoResponse{}, nil
	}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/images"}}}}, nil
}

func (f *fakeRuntime) RemoveImage(_ context.Context, image *runtimeapi.ImageSpec) error {
	if image.Image == f.stuck {
		return errors.New("stuck")
	}
	f.removed = append(f.removed, image.Image)
	f.stored = slices.DeleteFunc(f.stored, func(i *runtimeapi.Image) bool { return i.Id == image.Image })
	return nil
}

func (f *fakeRuntime) space(string) (capacity, available uint64, err error) {
	used := f.other
	for _, i := range f.stored {
		used += i.Size
	}
	return 1000, 1000 - used, nil
}

func newFakeRuntime() *fakeRuntime {
	image := func(id, tag string, pinned bool) *runtimeapi.Image {
		return &runtimeapi.Image{Id: id, RepoTags: []string{tag}, Size: 100, Pinned: pinned}
	}
	return &fakeRuntime{
		stored: []*runtimeapi.Image{
			image("old-1", "registry.example/old:1", false), image("old-2", "registry.example/old:2", false), image("running", "registry.example/running:1", false),
			image("wanted", "docker.io/library/wanted:latest", false), image("pause", "registry.example/pause:1", false), image("pinned", "registry.example/pinned:1", true),
		},
		containers: []*runtimeapi.Container{{Image: &runtimeapi.ImageSpec{Image: "registry.example/running:1"}, ImageRef: "running"}},
		other:      250, // 85 % in use
	}
}

func TestCollect(t *testing.T) {
	policy := GCPolicy{HighThresholdPercent: 85, LowThresholdPercent: 80, MinAge: 2 * time.Minute}
	for _, tc := range []struct {
		name    string
		policy  GCPolicy
		change  func(*fakeRuntime)
		removed []string
		err     string // and that of the event
	}{
		{name: "just enough", policy: policy, removed: []string{"old-1"}},
		{name: "below the threshold", policy: policy, change: func(f *fakeRuntime) { f.other = 240 }},
		{name: "not enough to be had", policy: GCPolicy{HighThresholdPercent: 85, LowThresholdPercent: 70}, change: func(f *fakeRuntime) { f.other = 400 }, removed: []string{"old-1", "old-2"},
			err: "Insufficient free disk space on the node's image filesystem (100% of 1000 bytes used). Failed to free sufficient space by deleting unused images (freed 200 bytes)."},
		{name: "one that is stuck", policy: policy, change: func(f *fakeRuntime) { f.stuck = "old-1" }, removed: []string{"old-2"}, err: "stuck"},
		{name: "used by another's container", policy: policy, change: func(f *fakeRuntime) {
			f.containers = append(f.containers, &runtimeapi.Container{ImageRef: "old-1"})
		}, removed: []string{"old-2"}},
		{name: "too young", policy: GCPolicy{HighThresholdPercent: 85, LowThresholdPercent: 80, MinAge: time.Hour}, err: "freed 0 bytes"},
		{name: "never", policy: GCPolicy{HighThresholdPercent: 100}, change: func(f *fakeRuntime) { f.other = 400 }},
		{name: "no file system", policy: policy, change: func(f *fakeRuntime) { f.nowhere = true }},
		{name: "too old", policy: GCPolicy{HighThresholdPercent: 100, MaxAge: 3 * time.Minute}, removed: []string{"old-1", "old-2"}},
		{name: "not old enough", policy: GCPolicy{HighThresholdPercent: 100, MaxAge: time.Hour}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFakeRuntime()
			if tc.change != nil {
				tc.change(f)
			}
			clock := testingclock.NewFakeClock(time.Unix(1_000_000, 0))
			var events []string
			c := NewCollector(f, clock, tc.policy, func() []string { return []string{"wanted"} }, func(eventType, reason, message string) {
				events = append(events, eventType+" "+reason+" "+message)
			})
			c.space = f.space
			began := clock.Now()
			if _, err := c.detect(t.Context()); err != nil {
				t.Fatal(err)
			}
			clock.Step(5 * time.Minute)
			err := c.Collect(t.Context(), began)
			if (err != nil) != (tc.err != "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("got error %v, want %q", err, tc.err)
			}
			if strings.Contains(tc.err, "freed") && (len(events) != 1 || !strings.HasPrefix(events[0], "Warning FreeDiskSpaceFailed ")) {
				t.Errorf("events %q", events)
			}
			if !slices.Equal(f.removed, tc.removed) {
				t.Errorf("removed %q, want %q", f.removed, tc.removed)
			}
		})
	}
}

// TestWantedNames has one image, and pods that name it in all the ways that there are.
func TestWantedNames(t *testing.T) {
	const digest = "@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	for wanted, kept := range map[string]bool{
		"nginx":                              true,
		"nginx:latest":                       true,
		"docker.io/library/nginx:latest":     true,
		"nginx" + digest:                     true,
		"nginx:latest" + digest:              true,
		"docker.io/library/nginx:1" + digest: true, // the digest alone decides
		"registry.example/nginx:1" + digest:  false,
		"nginx:1":                            false,
		"the-id":                             true,
	} {
		t.Run(wanted, func(t *testing.T) {
			f := &fakeRuntime{stored: []*runtimeapi.Image{{Id: "the-id", RepoTags: []string{"docker.io/library/nginx:latest"}, RepoDigests: []string{"docker.io/library/nginx" + digest}}}}
			c := NewCollector(f, testingclock.NewFakeClock(time.Unix(1_000_000, 0)), GCPolicy{HighThresholdPercent: 100}, func() []string { return []string{wanted} }, nil)
			if err := c.DeleteUnused(t.Context()); err != nil || (len(f.removed) == 0) != kept {
				t.Errorf("removed %q, %v; to be kept is %t", f.removed, err, kept)
			}
		})
	}
}

func TestDeleteUnused(t *testing.T) {
	f := newFakeRuntime()
	clock := testingclock.NewFakeClock(time.Unix(1_000_000, 0))
	c := NewCollector(f, clock, GCPolicy{HighThresholdPercent: 100, MinAge: time.Minute}, func() []string { return []string{"wanted"} }, nil)
	if err := c.DeleteUnused(t.Context()); err != nil || len(f.removed) != 0 {
		t.Errorf("removed %q, %v before the least age", f.removed, err)
	}
	clock.Step(time.Minute)
	// The one that was in use until now is the last to go.
	f.containers = nil
	if err := c.DeleteUnused(t.Context()); err != nil || !slices.Equal(f.removed, []string{"old-1", "old-2", "running"}) {
		t.Errorf("removed %q, %v", f.removed, err)
	}
}
