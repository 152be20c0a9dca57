package images

import (
	"errors"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	testingclock "k8s.io/utils/clock/testing"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

const private = "registry.example/app:1"

func registryCredential(secret, password string) *edgeapi.RegistryCredential {
	return &edgeapi.RegistryCredential{Registry: "registry.example", Username: "user", Password: password, SecretUid: secret}
}

// fetch ensures an image and waits for its pull, if there is one.
func (h *harness) fetch(pod, image string, policy v1.PullPolicy, credentials ...*edgeapi.RegistryCredential) (pulled bool, err error) {
	h.t.Helper()
	_, _, err = h.ensure(pod, image, policy, credentials...)
	if errors.Is(err, ErrPulling) {
		<-h.done
		pulled = true
		_, _, err = h.ensure(pod, image, policy, credentials...)
	}
	return pulled, err
}

// TestAccess has an image on the device, pulled by one pod with a Secret, that others want as well.
func TestAccess(t *testing.T) {
	for name, tc := range map[string]struct {
		image       string
		policy      v1.PullPolicy
		credentials []*edgeapi.RegistryCredential
		wantPull    bool
		wantErr     error
	}{
		"the same Secret":                       {private, v1.PullIfNotPresent, []*edgeapi.RegistryCredential{registryCredential("s", "right")}, false, nil},
		"the same credential in another Secret": {private, v1.PullIfNotPresent, []*edgeapi.RegistryCredential{registryCredential("t", "right")}, false, nil},
		"the Secret has a newer credential":     {private, v1.PullIfNotPresent, []*edgeapi.RegistryCredential{registryCredential("s", "newer")}, false, nil},
		"another credential":                    {private, v1.PullIfNotPresent, []*edgeapi.RegistryCredential{registryCredential("t", "other")}, true, nil},
		"no credential":                         {private, v1.PullIfNotPresent, nil, true, nil},
		"no credential and no pull":             {private, v1.PullNever, nil, false, ErrImageNeverPull},
		"the same Secret and no pull":           {private, v1.PullNever, []*edgeapi.RegistryCredential{registryCredential("s", "right")}, false, nil},
		"always":                                {private, v1.PullAlways, []*edgeapi.RegistryCredential{registryCredential("s", "right")}, true, nil},
		"a preloaded image":                     {"preloaded.example/app:1", v1.PullNever, nil, false, nil},
		"an image that is public":               {"public.example/app:1", v1.PullNever, nil, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			service := &fakeService{images: map[string]bool{"preloaded.example/app:1": true}}
			h := newHarness(t, service, testingclock.NewFakeClock(time.Now()), 1)
			for image, credentials := range map[string][]*edgeapi.RegistryCredential{private: {registryCredential("s", "right")}, "public.example/app:1": nil} {
				if pulled, err := h.fetch("first", image, v1.PullIfNotPresent, credentials...); !pulled || err != nil {
					t.Fatalf("%s: pulled %t, %v", image, pulled, err)
				}
			}
			// After a restart of the agent nothing is different.
			access, err := NewAccess(h.disk)
			if err != nil {
				t.Fatal(err)
			}
			h.puller.access = access
			pulled, err := h.fetch("second", tc.image, tc.policy, tc.credentials...)
			if pulled != tc.wantPull || !errors.Is(err, tc.wantErr) {
				t.Errorf("pulled %t, %v", pulled, err)
			}
		})
	}
	t.Run("an image that turns out to be public", func(t *testing.T) {
		h := newHarness(t, &fakeService{images: map[string]bool{}}, testingclock.NewFakeClock(time.Now()), 1)
		for i, want := range []bool{true, true, false} {
			var credentials []*edgeapi.RegistryCredential
			if i == 0 {
				credentials = append(credentials, registryCredential("s", "right"))
			}
			if pulled, err := h.fetch(strings.Repeat("p", i+1), private, v1.PullIfNotPresent, credentials...); pulled != want || err != nil {
				t.Errorf("pod %d: pulled %t, %v", i, pulled, err)
			}
		}
	})
}

// TestAccessByOtherReference has a runtime that returns from a pull another name of the image than the id
// that it tells of what is there, as CRI-O's repository and digest.
func TestAccessByOtherReference(t *testing.T) {
	right := registryCredential("s", "right")
	for name, tc := range map[string]struct {
		statusErr error // after the first pull
		wantRef   string
		owner     error // for the pod with the Secret
	}{
		"the id is told later": {wantRef: "id-" + private},
		"the id cannot be had": {statusErr: errors.New("busy"), wantRef: "registry.example/app@sha256:1", owner: ErrImageNeverPull},
	} {
		t.Run(name, func(t *testing.T) {
			service := &fakeService{images: map[string]bool{}, pullRef: "registry.example/app@sha256:1", statusErr: tc.statusErr}
			h := newHarness(t, service, testingclock.NewFakeClock(time.Now()), 1)
			if _, _, err := h.ensure("first", private, v1.PullIfNotPresent, right); !errors.Is(err, ErrPulling) {
				t.Fatal(err)
			}
			<-h.done
			if ref, _, err := h.ensure("first", private, v1.PullIfNotPresent, right); ref != tc.wantRef || err != nil {
				t.Errorf("got reference %q, %v; want %q", ref, err, tc.wantRef)
			}
			service.mu.Lock()
			service.statusErr = nil
			service.mu.Unlock()
			if _, err := h.fetch("second", private, v1.PullNever); !errors.Is(err, ErrImageNeverPull) {
				t.Errorf("a pod without the Secret got %v", err)
			}
			if _, err := h.fetch("third", private, v1.PullNever, right); !errors.Is(err, tc.owner) {
				t.Errorf("a pod with the Secret got %v, want %v", err, tc.owner)
			}
		})
	}
}

// TestAccessForgets checks that records go with their images, and that what the agent did not see end
// counts as pulled.
func TestAccessForgets(t *testing.T) {
	disk := &memory{}
	a, err := NewAccess(disk)
	if err != nil {
		t.Fatal(err)
	}
	c := &credential{auth: &runtimeapi.AuthConfig{Username: "user", Password: "secret-password"}, secret: "s"}
	for _, step := range []error{a.begin("a.example/x:1"), a.pulled("a.example/x:1", "x", c, []*runtimeapi.Image{{Id: "x"}}), a.begin("b.example/y:1")} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if strings.Contains(string(disk.data), "secret-password") {
		t.Error("the password is on the disk")
	}
	if a, err = NewAccess(disk); err != nil {
		t.Fatal(err)
	}
	if a.allows("b.example/y:1", "y", nil) {
		t.Error("an image whose pull was cut off counts as preloaded")
	}
	if err := errors.Join(a.begin("b.example/y:1"), a.pulled("b.example/y:1", "y", c, []*runtimeapi.Image{{Id: "y"}})); err != nil {
		t.Fatal(err)
	}
	if a.known.Pulled["x"] != nil || len(a.known.Pulling) > 0 {
		t.Errorf("left behind: %+v", a.known)
	}
	disk.data = []byte("{")
	if a, err = NewAccess(disk); err == nil || !a.allows("b.example/y:1", "y", nil) {
		t.Errorf("a corrupt record: %v", err)
	}
}
