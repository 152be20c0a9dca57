// Package images sees to it that a container's image is on the device: it applies the pull policy,
// pulls with the pod's credentials, a few at a time, and backs off from what fails. Reasons, messages
// and back-off are the kubelet's. It starts no containers.
package images

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	_ "crypto/sha512" // digests in image names

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/flowcontrol"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

const (
	initialBackOff = 10 * time.Second
	maxBackOff     = 5 * time.Minute
)

// The reasons why an image is not there, as they appear in a waiting container's status.
var (
	ErrInvalidImageName = errors.New("InvalidImageName")
	ErrImageInspect     = errors.New("ImageInspectError")
	ErrImageNeverPull   = errors.New("ErrImageNeverPull")
	ErrImagePull        = errors.New("ErrImagePull")
	ErrImagePullBackOff = errors.New("ImagePullBackOff")
	// ErrPulling says that the image is on its way: Request.Done is called when the pull is over.
	ErrPulling = errors.New("Pulling")
)

// Request is for one image of one pod.
type Request struct {
	PodUID string
	// Image as in the container's spec.
	Image         string
	Policy        v1.PullPolicy
	Credentials   []*edgeapi.RegistryCredential
	Annotations   map[string]string
	SandboxConfig *runtimeapi.PodSandboxConfig
	// Event records what is worth telling the user.
	Event func(eventType, reason, message string)
	// Done is called once, from another goroutine, after Ensure returned ErrPulling.
	Done func()
}

// Puller ensures images. Its methods may be called concurrently, Ensure not for the same pod.
type Puller struct {
	service internalapi.ImageManagerService
	access  *Access
	clock   clock.PassiveClock
	backOff *flowcontrol.Backoff
	slots   chan struct{}

	mu      sync.Mutex
	pulls   map[string]*pull // by key
	closed  bool
	running sync.WaitGroup
}

// pull is one pull in progress, or its result that nobody has taken yet, or why the last one failed.
type pull struct {
	podUID  string
	cancel  context.CancelFunc
	done    bool
	ref     string
	err     error
	failure string    // of the pull before, told during back-off
	until   time.Time // the end of that back-off
}

// NewPuller returns a Puller that pulls at most maxParallel images at a time.
func NewPuller(service internalapi.ImageManagerService, access *Access, c clock.Clock, maxParallel int) *Puller {
	return &Puller{
		service: service,
		access:  access,
		clock:   c,
		backOff: flowcontrol.NewFakeBackOff(initialBackOff, maxBackOff, c), // the only constructor that takes a clock
		slots:   make(chan struct{}, maxParallel),
		pulls:   map[string]*pull{},
	}
}

// Ensure returns the runtime's reference of the image. The error is one of this package's reasons, or
// one of the runtime's own, with a message for the user. It never waits for a pull: see ErrPulling.
func (p *Puller) Ensure(ctx context.Context, req Request) (ref, message string, err error) {
	name, err := withDefaultTag(req.Image)
	if err != nil {
		message = fmt.Sprintf("Failed to apply default image tag %q: %v", req.Image, err)
		req.Event(v1.EventTypeWarning, "InspectFailed", message)
		return "", message, ErrInvalidImageName
	}
	spec := &runtimeapi.ImageSpec{Image: name, UserSpecifiedImage: req.Image, Annotations: req.Annotations}
	key := req.PodUID + "_" + req.Image
	if req.Policy != v1.PullAlways && !p.pending(key) {
		ref, message, err := p.present(ctx, req, spec)
		if ref != "" || err != nil {
			return ref, message, err
		}
	}
	return p.pull(ctx, key, req, spec)
}

// RetryAfter is how long the back-off of a failed pull still lasts, 0 or less if it is over.
func (p *Puller) RetryAfter(podUID, image string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := p.pulls[podUID+"_"+image]; last != nil {
		return last.until.Sub(p.clock.Now())
	}
	return 0
}

// present looks for the image on the device.
func (p *Puller) present(ctx context.Context, req Request, spec *runtimeapi.ImageSpec) (ref, message string, err error) {
	resp, err := p.service.ImageStatus(ctx, spec, false)
	if err != nil {
		message = fmt.Sprintf("Failed to inspect image %q: %v", req.Image, err)
		req.Event(v1.EventTypeWarning, "InspectFailed", message)
		return "", message, ErrImageInspect
	}
	// A pod that may not have the image is told the same as if it were not there.
	if image := resp.GetImage(); image != nil && p.allowed(req, spec.Image, image.Id) {
		req.Event(v1.EventTypeNormal, "Pulled",
			fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", req.Image))
		return image.Id, "", nil
	}
	if req.Policy == v1.PullNever {
		message = fmt.Sprintf("Container image %q is not present with pull policy of Never", req.Image)
		req.Event(v1.EventTypeWarning, "ErrImageNeverPull", message)
		return "", message, ErrImageNeverPull
	}
	return "", "", nil
}

// allowed tells whether the pod may use an image that is there without asking its registry.
func (p *Puller) allowed(req Request, name, ref string) bool {
	credentials, err := credentialsFor(req.Image, req.Credentials)
	return err == nil && p.access.allows(name, ref, credentials)
}

// pending tells whether there is a pull in progress or a result to take.
func (p *Puller) pending(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	running := p.pulls[key]
	return running != nil && running.cancel != nil
}

func (p *Puller) pull(ctx context.Context, key string, req Request, spec *runtimeapi.ImageSpec) (ref, message string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.pulls[key]
	if last != nil && last.cancel != nil {
		if !last.done {
			return "", "", ErrPulling
		}
		return p.take(key, req, last)
	}
	if p.backOff.IsInBackOffSinceUpdate(key, p.clock.Now()) {
		message = fmt.Sprintf("Back-off pulling image %q", req.Image)
		req.Event(v1.EventTypeNormal, "BackOff", message)
		if last != nil && last.failure != "" {
			message += ": " + last.failure
		}
		return "", message, ErrImagePullBackOff
	}
	if p.closed {
		return "", "", ErrPulling
	}
	req.Event(v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", req.Image))
	// The pull goes on when the call that began it is over; Forget and Close end it.
	pullCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	current := &pull{podUID: req.PodUID, cancel: cancel}
	p.pulls[key] = current
	p.running.Add(1)
	go func() {
		defer p.running.Done()
		defer cancel()
		p.run(pullCtx, current, req, spec)
	}()
	return "", "", ErrPulling
}

// take hands out the result of a pull that is over. Called with the lock held.
func (p *Puller) take(key string, req Request, last *pull) (ref, message string, err error) {
	delete(p.pulls, key)
	if last.err == nil {
		p.backOff.DeleteEntry(key)
		return last.ref, "", nil
	}
	p.backOff.Next(key, p.clock.Now())
	message, err = explain(req.Image, last.err)
	p.pulls[key] = &pull{podUID: req.PodUID, failure: fmt.Sprintf("%v: %s", err, message), until: p.clock.Now().Add(p.backOff.Get(key))}
	return "", message, err
}

// run pulls the image once a slot is free.
func (p *Puller) run(ctx context.Context, current *pull, req Request, spec *runtimeapi.ImageSpec) {
	start := p.clock.Now()
	var image *runtimeapi.Image
	var err error
	var took time.Duration
	select {
	case p.slots <- struct{}{}:
		begin := p.clock.Now()
		image, err = p.pullWithCredentials(ctx, req, spec)
		took = p.clock.Since(begin)
		<-p.slots
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil && ctx.Err() == nil {
		req.Event(v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", req.Image, err))
	} else if err == nil {
		req.Event(v1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.",
			req.Image, took.Truncate(time.Millisecond), p.clock.Since(start).Truncate(time.Millisecond), image.GetSize()))
	}
	p.mu.Lock()
	current.done, current.ref, current.err = true, image.GetId(), err
	p.mu.Unlock()
	req.Done()
}

// pullWithCredentials tries each credential that fits the image, or none if none fits.
func (p *Puller) pullWithCredentials(ctx context.Context, req Request, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	credentials, err := credentialsFor(req.Image, req.Credentials)
	if err != nil {
		return nil, err
	}
	if err := p.access.begin(spec.Image); err != nil {
		return nil, fmt.Errorf("failed to record image pull intent: %w", err)
	}
	var errs []error
	try := func(c *credential) (image *runtimeapi.Image, done bool) {
		var auth *runtimeapi.AuthConfig
		if c != nil {
			auth = c.auth
		}
		ref, err := p.service.PullImage(ctx, spec, auth, req.SandboxConfig)
		if err != nil {
			errs = append(errs, err)
			return nil, ctx.Err() != nil
		}
		return p.record(ctx, spec, ref, c), true
	}
	if len(credentials) == 0 {
		if image, _ := try(nil); image != nil {
			return image, nil
		}
	}
	for i := range credentials {
		if image, done := try(&credentials[i]); image != nil {
			return image, nil
		} else if done {
			break
		}
	}
	return nil, errors.Join(append(errs, p.access.failed(spec.Image))...)
}

// record keeps who has pulled an image, by the id that the runtime tells when it is looked for later: what
// a pull returned may be another name of it, as CRI-O's repository and digest. If the id cannot be had,
// the pull counts as one that was cut off, so that the image is not taken for a preloaded one.
func (p *Puller) record(ctx context.Context, spec *runtimeapi.ImageSpec, ref string, c *credential) *runtimeapi.Image {
	resp, err := p.service.ImageStatus(ctx, spec, false)
	image := resp.GetImage()
	if err == nil && image.GetId() == "" {
		err = errors.New("the container runtime does not know the image that it has pulled")
	}
	if err == nil {
		present, _ := p.service.ListImages(ctx, nil) // if it fails, nothing is forgotten
		err = p.access.pulled(spec.Image, image.Id, c, present)
	} else {
		image = &runtimeapi.Image{Id: ref}
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "It could not be kept who may use an image", "image", spec.Image)
	}
	return image
}

// Forget ends the pulls of a pod that is gone and drops what is kept for it.
func (p *Puller) Forget(podUID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, current := range p.pulls {
		if current.podUID == podUID {
			if current.cancel != nil {
				current.cancel()
			}
			delete(p.pulls, key)
			p.backOff.DeleteEntry(key)
		}
	}
}

// Close ends all pulls and waits until they are over.
func (p *Puller) Close() {
	p.mu.Lock()
	p.closed = true
	for _, current := range p.pulls {
		if current.cancel != nil {
			current.cancel()
		}
	}
	p.mu.Unlock()
	p.running.Wait()
}

// explain turns a runtime's error into a reason and a message.
func explain(image string, err error) (string, error) {
	for prefix, what := range map[error]string{
		crierrors.ErrRegistryUnavailable:       "the registry is unavailable",
		crierrors.ErrSignatureValidationFailed: "the signature validation failed",
	} {
		if rest, ok := strings.CutPrefix(err.Error(), prefix.Error()); ok {
			return fmt.Sprintf("image pull failed for %s because %s%s", image, what, rest), prefix
		}
	}
	return err.Error(), ErrImagePull
}

// withDefaultTag adds ":latest" to a name without tag and digest, and checks the name.
func withDefaultTag(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image name %q: %w", image, err)
	}
	if reference.IsNameOnly(named) {
		return image + ":latest", nil
	}
	return image, nil
}
