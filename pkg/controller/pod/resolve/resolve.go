// Package resolve makes a pod self-contained: what it takes from ConfigMaps, Secrets, Services and
// the TokenRequest API is put into one message, so that the device needs no access to the cluster.
// Where the objects come from and when a pod is resolved belongs elsewhere; what only the device
// knows (fieldRef, resourceFieldRef, downwardAPI) is left to the device.
package resolve

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	nodelisters "k8s.io/client-go/listers/node/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// ErrPending says that an object is being looked up; who asked is told when it is there.
var ErrPending = errors.New("not known yet")

// Objects finds the ConfigMaps and Secrets of pods. An object that does not exist gives an API status
// NotFound, one that is still being looked up ErrPending.
type Objects interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, error)
	Secret(namespace, name string) (*corev1.Secret, error)
}

// Bundles finds the trust anchors that a pod takes from ClusterTrustBundles, in PEM. As long as they are
// being looked up the error is ErrPending.
type Bundles interface {
	Anchors(source *corev1.ClusterTrustBundleProjection) ([]byte, error)
}

// Tokens issues service account tokens that are bound to a pod. Refresh is when the token should be
// replaced.
type Tokens interface {
	Token(ctx context.Context, pod *corev1.Pod, source *corev1.ServiceAccountTokenProjection) (token string, refresh time.Time, err error)
}

// Resolver resolves pods.
type Resolver struct {
	Objects  Objects
	Tokens   Tokens
	Bundles  Bundles
	Services corelisters.ServiceLister
	// RuntimeClasses of the cluster: a device is told their handlers.
	RuntimeClasses nodelisters.RuntimeClassLister
}

// Result is a resolved pod.
type Result struct {
	// Message is ready to be sent.
	Message *edgeapi.RunPod
	// VolumeDigests holds a digest per volume, without its tokens.
	VolumeDigests map[string]string
	// VolumeTokens tells apart the tokens in each volume that has some.
	VolumeTokens map[string]string
	// Refresh is when the first of the tokens should be replaced; zero without tokens.
	Refresh time.Time
	// KeepsHandler is set if only a device that has the pod can use the message: the RuntimeClass is gone.
	KeepsHandler bool
	// Warnings are fit for events on the pod.
	Warnings []Warning
}

// Warning is something that the user should know but that does not keep the pod from running.
type Warning struct {
	Reason, Message string
}

// Unresolved is why a pod cannot run yet. It is an error.
type Unresolved struct {
	// Pending is set if something is still being looked up: the other fields may be incomplete.
	Pending bool
	// Containers maps names of containers to what is missing for their environment.
	Containers map[string]string
	// Volumes lists what is missing for volumes, fit for FailedMount events.
	Volumes []string
	// Sandbox is what keeps the pod from having a sandbox, fit for a FailedCreatePodSandBox event.
	Sandbox error
}

// any tells whether anything is missing.
func (u *Unresolved) any() bool {
	return u.Pending || len(u.Containers) > 0 || len(u.Volumes) > 0 || u.Sandbox != nil
}

// OnlyPending tells whether all that is missing is being looked up.
func (u *Unresolved) OnlyPending() bool {
	return u.Pending && len(u.Containers) == 0 && len(u.Volumes) == 0 && u.Sandbox == nil
}

// Error implements error.
func (u *Unresolved) Error() string {
	switch {
	case u.Sandbox != nil:
		return u.Sandbox.Error()
	case len(u.Volumes) > 0:
		return u.Volumes[0]
	case len(u.Containers) > 0:
		name := slices.Sorted(maps.Keys(u.Containers))[0] // always the same, as events are told apart by their text
		return fmt.Sprintf("container %q: %s", name, u.Containers[name])
	}
	return ErrPending.Error()
}

// pending tells whether an error says that something is still being looked up, and notes that.
func (u *Unresolved) pending(err error) bool {
	if errors.Is(err, ErrPending) {
		u.Pending = true
		return true
	}
	return false
}

// Pod resolves a pod. The error is an *Unresolved if the user has to provide something first, or an
// error of the TokenRequest API, which may pass. Then the result holds only the volumes that do not
// depend on what is missing. The pod is not modified.
func (r *Resolver) Pod(ctx context.Context, pod *corev1.Pod) (*Result, error) {
	return r.pod(ctx, pod, false)
}

// KeptPod resolves a pod that its device has, and of which that can keep the runtime handler: the
// RuntimeClass may be gone.
func (r *Resolver) KeptPod(ctx context.Context, pod *corev1.Pod) (*Result, error) {
	return r.pod(ctx, pod, true)
}

func (r *Resolver) pod(ctx context.Context, pod *corev1.Pod, mayKeepHandler bool) (*Result, error) {
	missing := &Unresolved{Containers: map[string]string{}}
	result := &Result{Message: &edgeapi.RunPod{Uid: string(pod.UID)}}

	plain := strip(pod)
	r.runtimeHandler(plain, mayKeepHandler, result, missing)
	r.resolveEnv(pod, plain, missing)
	credentials := r.credentials(pod, result, missing)
	volumes, err := r.volumes(ctx, pod, result, missing)
	message := result.Message
	message.Volumes, message.VolumesDigest = volumes, volumesDigest(result.VolumeDigests)
	if missing.any() {
		return result, missing
	}
	if err != nil {
		return result, err
	}

	message.RegistryCredentials = credentials
	message.Digest, err = digest(plain, credentials)
	if err != nil {
		return nil, err
	}

	// Services come and go; they are neither part of the digest nor a reason to send a pod again.
	r.addServiceEnv(plain)
	return result, encode(message, plain, pod)
}

// Ended returns a pod that has ended as it is: nothing of it is started any more, and what it was resolved
// from may be gone.
func Ended(pod *corev1.Pod) (*Result, error) {
	result := &Result{Message: &edgeapi.RunPod{Uid: string(pod.UID)}}
	plain := strip(pod)
	var err error
	if result.Message.Digest, err = digest(plain, nil); err != nil {
		return nil, err
	}
	return result, encode(result.Message, plain, pod)
}

// encode puts the pod, as it was resolved, into the message, with what of it is not part of the digest.
func encode(message *edgeapi.RunPod, plain, pod *corev1.Pod) (err error) {
	plain.ResourceVersion, plain.Generation = pod.ResourceVersion, pod.Generation
	plain.CreationTimestamp, plain.OwnerReferences = pod.CreationTimestamp, pod.OwnerReferences
	plain.Status = pod.Status
	if message.Pod, err = plain.Marshal(); err != nil {
		return fmt.Errorf("encode pod: %w", err)
	}
	return nil
}

// Keep makes the volumes that did not resolve count as what they were before.
func (r *Result) Keep(volumeDigests, volumeTokens map[string]string) {
	for name, digest := range volumeDigests {
		if _, resolved := r.VolumeDigests[name]; resolved {
			continue
		}
		r.VolumeDigests[name] = digest
		if token, ok := volumeTokens[name]; ok {
			r.VolumeTokens[name] = token
		}
	}
	r.Message.VolumesDigest = volumesDigest(r.VolumeDigests)
}

// strip returns a copy of the pod with only what a device acts on.
func strip(pod *corev1.Pod) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID,
			Labels: pod.Labels, Annotations: pod.Annotations,
		},
		Spec: *pod.Spec.DeepCopy(),
	}
}
