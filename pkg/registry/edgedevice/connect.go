package edgedevice

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubectl/pkg/cmd/util/podcmd"

	"arhat.dev/aranya/pkg/apis/aranya"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
	"arhat.dev/aranya/pkg/streaming"
)

// Connector is what the subresources that reach the device itself have in common. All fields are
// needed.
type Connector struct {
	// Devices is the storage of edgedevices.
	Devices  rest.Getter
	Sessions gateway.Sessions
	// Pods of the main cluster.
	Pods corelisters.PodLister
	// DeviceForNode returns the device that a Node stands for.
	DeviceForNode func(nodeName string) (namespace, name string, ok bool)
	// LastSeen says when a device was last connected, zero if that is not known. The stored status tells of it later.
	LastSeen func(namespace, name string) time.Time
	// Authorizer of the main cluster. It is asked for what the request's own check does not cover:
	// "create" for WebSocket GETs, and the rights on a pod that is reached through its device.
	Authorizer authorizer.UnconditionalAuthorizer
	// Streaming serves the upgraded connections.
	Streaming *streaming.Server
}

// authorizeCreate demands the verb create, whatever the method of the request: a WebSocket client
// that may only "get" must not be able to run a command.
func (c *Connector) authorizeCreate(ctx context.Context) error {
	attributes, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if attributes.GetVerb() == "create" {
		return nil // checked before the request came here
	}
	return c.authorize(ctx, createAttributes{attributes})
}

// createAttributes are the attributes of a request, but for the verb.
type createAttributes struct{ authorizer.Attributes }

func (createAttributes) GetVerb() string  { return "create" }
func (createAttributes) IsReadOnly() bool { return false }

// authorize returns an API status unless the authorizer allows what is asked for.
func (c *Connector) authorize(ctx context.Context, attributes authorizer.Attributes) error {
	decision, reason, err := c.Authorizer.Authorize(ctx, attributes)
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil:
		return apierrors.NewInternalError(fmt.Errorf("authorize %s of %s/%s: %w", attributes.GetVerb(), attributes.GetResource(), attributes.GetSubresource(), err))
	}
	return responsewriters.ForbiddenStatusError(attributes, reason)
}

func (c *Connector) device(ctx context.Context, name string) (*aranya.EdgeDevice, error) {
	obj, err := c.Devices.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	device, ok := obj.(*aranya.EdgeDevice)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("unexpected object %T in the storage of edgedevices", obj))
	}
	return device, nil
}

// session returns the live link of a device, or an API status that says since when there is none.
func (c *Connector) session(device *aranya.EdgeDevice) (gateway.Session, error) {
	session, ok := c.Sessions.Session(device.Namespace, device.Name)
	if ok && session.Device().UID == device.UID {
		return session, nil
	}
	seen := c.LastSeen(device.Namespace, device.Name)
	if seen.IsZero() && device.Status.Certificate == nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("EdgeDevice %s/%s is offline: no agent has enrolled as this device yet", device.Namespace, device.Name))
	}
	return nil, gateway.NewLastSeenError(device.Namespace, device.Name, seen)
}

// allowed checks a switch of spec.host, which is on unless it was turned off.
func allowed(device *aranya.EdgeDevice, subresource, field string, value *bool) error {
	if value == nil || *value {
		return nil
	}
	return apierrors.NewForbidden(aranya.Resource("edgedevices/"+subresource), device.Name,
		fmt.Errorf("spec.host.%s of the EdgeDevice is false", field))
}

// podAccess is what a caller needs to be allowed on a pod, and the pod.
type podAccess struct {
	// name is that of a pod in the device's namespace, or namespace/name.
	name              string
	verb, subresource string
}

// pod returns a pod of the device that the user may access in the main cluster: the right on an
// EdgeDevice gives none on the pods of others.
func (c *Connector) pod(ctx context.Context, device *aranya.EdgeDevice, access podAccess) (*corev1.Pod, error) {
	namespace, name := device.Namespace, access.name
	if before, after, ok := strings.Cut(access.name, "/"); ok {
		namespace, name = before, after
	}
	attributes, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if err := c.authorize(ctx, authorizer.AttributesRecord{
		User: attributes.GetUser(), Verb: access.verb,
		Namespace: namespace, Name: name,
		APIVersion: "v1", Resource: "pods", Subresource: access.subresource,
		ResourceRequest: true,
	}); err != nil {
		return nil, err
	}
	pod, err := c.Pods.Pods(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	ownerNamespace, owner, ok := c.DeviceForNode(pod.Spec.NodeName)
	if !ok || ownerNamespace != device.Namespace || owner != device.Name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s/%s is not bound to the Node of EdgeDevice %s/%s", namespace, name, device.Namespace, device.Name))
	}
	return pod, nil
}

// container returns a container of a pod of the device that the user may access.
func (c *Connector) container(ctx context.Context, device *aranya.EdgeDevice, access podAccess, name string) (*target.Container, error) {
	pod, err := c.pod(ctx, device, access)
	if err != nil {
		return nil, err
	}
	return resolveContainer(ctx, pod, name)
}

// resolveContainer resolves a container of a pod by the rules of kubectl exec: the one that is named, else the
// one that the pod's annotation names, else the first, of which the user is told if there are others.
func resolveContainer(ctx context.Context, pod *corev1.Pod, name string) (*target.Container, error) {
	var said strings.Builder
	container, err := podcmd.FindOrDefaultContainerByName(pod, name, false, &said)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if said.Len() > 0 {
		warning.AddWarning(ctx, "", strings.TrimSuffix(said.String(), "\n"))
	}
	return &target.Container{Pod: pod, Name: container.Name}, nil
}
