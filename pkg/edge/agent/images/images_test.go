package images

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	testingclock "k8s.io/utils/clock/testing"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeService holds images in memory. A pull waits for release, if there is one.
type fakeService struct {
	internalapi.ImageManagerService
	mu      sync.Mutex
	images  map[string]bool
	pullErr error
	// pullRef is what pulls return instead of the id, statusErr the error of what is asked after one.
	pullRef   string
	statusErr error
	release   chan struct{}
	active    int
	most      int
	auths     []string
}

func (f *fakeService) ImageStatus(_ context.Context, image *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.images[image.Image] {
		if f.statusErr != nil {
			return nil, f.statusErr
		}
		return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: "id-" + image.Image, Size: 42}}, nil
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

func (f *fakeService) PullImage(ctx context.Context, image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	f.mu.Lock()
	f.active++
	f.most = max(f.most, f.active)
	f.auths = append(f.auths, auth.GetUsername())
	f.mu.Unlock()
	defer func() { f.mu.Lock(); f.active--; f.mu.Unlock() }()
	if f.release != nil {
		select {
		case <-f.release:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pullErr != nil {
		return "", f.pullErr
	}
	f.images[image.Image] = true
	if f.pullRef != "" {
		return f.pullRef, nil
	}
	return "id-" + image.Image, nil
}

func (f *fakeService) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := []*runtimeapi.Image{}
	for name, present := range f.images {
		if present {
			list = append(list, &runtimeapi.Image{Id: "id-" + name})
		}
	}
	return list, nil
}

// memory keeps records as a disk would.
type memory struct {
	mu   sync.Mutex
	data []byte
	err  error
}

func (m *memory) SaveImages(data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.data = data
	}
	return m.err
}

func (m *memory) LoadImages() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.data, m.err
}

type harness struct {
	t      *testing.T
	disk   *memory
	puller *Puller
	done   chan struct{}
	mu     sync.Mutex
	events []string
}

func newHarness(t *testing.T, service *fakeService, c *testingclock.FakeClock, parallel int) *harness {
	h := &harness{t: t, disk: &memory{}, done: make(chan struct{}, 100)}
	access, err := NewAccess(h.disk)
	if err != nil {
		t.Fatal(err)
	}
	h.puller = NewPuller(service, access, c, parallel)
	t.Cleanup(h.puller.Close)
	return h
}

func (h *harness) ensure(pod, image string, policy v1.PullPolicy, credentials ...*edgeapi.RegistryCredential) (string, string, error) {
	return h.puller.Ensure(h.t.Context(), Request{
		PodUID: pod, Image: image, Policy: policy, Credentials: credentials,
		Event: func(_, reason, message string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.events = append(h.events, reason+": "+message)
		},
		Done: func() { h.done <- struct{}{} },
	})
}

func TestPolicies(t *testing.T) {
	for _, tc := range []struct {
		name, image string
		policy      v1.PullPolicy
		wantErr     error
		wantEvent   string
	}{
		{"present", "here:1", v1.PullIfNotPresent, nil, "Pulled: Container image \"here:1\" already present"},
		{"never and present", "here:1", v1.PullNever, nil, "Pulled: "},
		{"never and absent", "absent", v1.PullNever, ErrImageNeverPull, "ErrImageNeverPull: Container image \"absent\" is not present with pull policy of Never"},
		{"absent", "absent", v1.PullIfNotPresent, ErrPulling, "Pulling: Pulling image \"absent\""},
		{"always", "here:1", v1.PullAlways, ErrPulling, "Pulling: Pulling image \"here:1\""},
		{"bad name", "UPPER:CASE", v1.PullIfNotPresent, ErrInvalidImageName, "InspectFailed: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHarness(t, &fakeService{images: map[string]bool{"here:1": true}}, testingclock.NewFakeClock(time.Now()), 1)
			ref, _, err := h.ensure("pod", tc.image, tc.policy)
			if !errors.Is(err, tc.wantErr) {
				t.Fatalf("got %v, want %v", err, tc.wantErr)
			}
			if err == nil && ref != "id-here:1" {
				t.Errorf("got reference %q", ref)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if len(h.events) == 0 || !strings.HasPrefix(h.events[0], tc.wantEvent) {
				t.Errorf("got events %q, want %q", h.events, tc.wantEvent)
			}
		})
	}
}

func TestPullAndBackOff(t *testing.T) {
	c := testingclock.NewFakeClock(time.Now())
	service := &fakeService{images: map[string]bool{}, pullErr: errors.New("no route")}
	h := newHarness(t, service, c, 1)
	try := func() (string, error) {
		_, message, err := h.ensure("pod", "img", v1.PullIfNotPresent)
		if errors.Is(err, ErrPulling) {
			<-h.done
			_, message, err = h.ensure("pod", "img", v1.PullIfNotPresent)
		}
		return message, err
	}
	left := func(want time.Duration) {
		t.Helper()
		if got := h.puller.RetryAfter("pod", "img"); got != want {
			t.Errorf("the back-off lasts %v, want %v", got, want)
		}
	}
	for _, backOff := range []time.Duration{10, 20, 40} {
		if message, err := try(); !errors.Is(err, ErrImagePull) || message != "no route" {
			t.Fatalf("got %q, %v; want the error of the pull", message, err)
		}
		left(backOff * time.Second)
		c.Step(backOff*time.Second - time.Millisecond)
		if message, err := try(); !errors.Is(err, ErrImagePullBackOff) || message != `Back-off pulling image "img": ErrImagePull: no route` {
			t.Fatalf("got %q, %v; want back-off of %ds", message, err, backOff)
		}
		left(time.Millisecond)
		c.Step(time.Millisecond)
		left(0)
	}
	service.mu.Lock()
	service.pullErr = nil
	service.mu.Unlock()
	if message, err := try(); err != nil {
		t.Fatalf("got %q, %v after the registry came back", message, err)
	}
	if _, _, err := h.ensure("pod", "img", v1.PullIfNotPresent); err != nil {
		t.Fatal(err)
	}
}

func TestParallelPullsAreBounded(t *testing.T) {
	service := &fakeService{images: map[string]bool{}, release: make(chan struct{})}
	h := newHarness(t, service, testingclock.NewFakeClock(time.Now()), 2)
	for _, pod := range []string{"a", "b", "c", "d"} {
		if _, _, err := h.ensure(pod, "img", v1.PullAlways); !errors.Is(err, ErrPulling) {
			t.Fatal(err)
		}
	}
	close(service.release)
	for range 4 {
		<-h.done
	}
	if service.most > 2 {
		t.Errorf("%d pulls at a time, want at most 2", service.most)
	}
	if ref, _, err := h.ensure("a", "img", v1.PullAlways); err != nil || ref != "id-img:latest" {
		t.Errorf("got %q, %v: the result of a pull must not be pulled again", ref, err)
	}
}

func TestForgetEndsThePull(t *testing.T) {
	service := &fakeService{images: map[string]bool{}, release: make(chan struct{})}
	h := newHarness(t, service, testingclock.NewFakeClock(time.Now()), 1)
	if _, _, err := h.ensure("pod", "img", v1.PullAlways); !errors.Is(err, ErrPulling) {
		t.Fatal(err)
	}
	h.puller.Forget("pod")
	<-h.done
}

func TestCredentials(t *testing.T) {
	cred := func(registry string) *edgeapi.RegistryCredential {
		return &edgeapi.RegistryCredential{Registry: registry, Username: registry}
	}
	for _, tc := range []struct {
		image string
		keys  []string
		want  []string
	}{
		{"registry.example/app", []string{"registry.example"}, []string{"registry.example"}},
		{"registry.example/app", []string{"https://registry.example/v1/"}, []string{"https://registry.example/v1/"}},
		{"registry.example/app", []string{"other.example"}, nil},
		{"registry.example:5000/app", []string{"registry.example"}, nil},
		{"registry.example:5000/app", []string{"registry.example:5000"}, []string{"registry.example:5000"}},
		{"a.example.com/app", []string{"*.example.com"}, []string{"*.example.com"}},
		{"a.b.example.com/app", []string{"*.example.com"}, nil},
		{"registry.example/team/app", []string{"registry.example", "registry.example/team"}, []string{"registry.example/team", "registry.example"}},
		{"registry.example/other/app", []string{"registry.example/team"}, nil},
		{"busybox", []string{"https://index.docker.io/v1/"}, []string{"https://index.docker.io/v1/"}},
		{"docker.io/library/busybox", []string{"docker.io"}, []string{"docker.io"}},
		{"registry.example/app", []string{"%zz"}, nil},
	} {
		var credentials []*edgeapi.RegistryCredential
		for _, key := range tc.keys {
			credentials = append(credentials, cred(key))
		}
		auths, err := credentialsFor(tc.image, credentials)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, auth := range auths {
			got = append(got, auth.auth.Username)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s with %v: got %v, want %v", tc.image, tc.keys, got, tc.want)
		}
	}
}

func TestAllCredentialsAreTried(t *testing.T) {
	service := &fakeService{images: map[string]bool{}, pullErr: errors.New("denied")}
	h := newHarness(t, service, testingclock.NewFakeClock(time.Now()), 1)
	_, _, err := h.ensure("pod", "registry.example/app", v1.PullAlways,
		&edgeapi.RegistryCredential{Registry: "registry.example", Username: "one"},
		&edgeapi.RegistryCredential{Registry: "registry.example", Username: "two"})
	if !errors.Is(err, ErrPulling) {
		t.Fatal(err)
	}
	<-h.done
	if !slices.Equal(service.auths, []string{"one", "two"}) {
		t.Errorf("tried %v", service.auths)
	}
}
