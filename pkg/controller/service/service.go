// Package service keeps the Services that EdgeDevices ask for by spec.connectivity.grpcConfig.service:
// named after the device, with a port "grpc" that leads to the gateway of this replica, for use as the
// backend of an Ingress. Services that aranya did not make are never touched.
package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	aranya "arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller/events"
	"arhat.dev/aranya/pkg/controller/queue"
	"arhat.dev/aranya/pkg/edge/gateway"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

const (
	workers = 4
	// portName is the name of the port.
	portName = "grpc"
	// managedBy is the value of labels that say who made something.
	managedBy      = "aranya.arhat.dev"
	labelManagedBy = "app.kubernetes.io/managed-by"

	// ReasonConflict is the reason of the event on an EdgeDevice whose Service cannot be made because
	// there is another of that name.
	ReasonConflict = "ServiceNameConflict"
	// ReasonFailed is the reason of the event when the cluster refuses the Service.
	ReasonFailed = "ServiceNotCreated"
)

// Config of the Controller.
type Config struct {
	Kube     kubernetes.Interface
	Devices  cache.SharedIndexInformer
	Lister   aranyalisters.EdgeDeviceLister
	Services cache.SharedIndexInformer
	Events   *events.Recorder
	Clock    clock.WithTicker
	// Address and Port are where the gateway of this replica listens.
	Address string
	Port    int32
}

// Controller keeps the Services of devices.
type Controller struct {
	config   Config
	services corelisters.ServiceLister
	start    time.Time
	// emptyAtStart is set if there was no EdgeDevice when Run was called.
	emptyAtStart bool
	queue        workqueue.TypedRateLimitingInterface[types.NamespacedName]
}

// New returns a Controller that does nothing until Run.
func New(config Config) (*Controller, error) {
	c := &Controller{
		config: config, services: corelisters.NewServiceLister(config.Services.GetIndexer()),
		queue: queue.New[types.NamespacedName]("services", config.Clock), start: config.Clock.Now(),
	}
	_, deviceErr := config.Devices.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			if ed, ok := object.(*aranya.EdgeDevice); ok && wanted(ed) != nil {
				c.notice(ed)
			}
		},
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*aranya.EdgeDevice)
			ed, ok2 := after.(*aranya.EdgeDevice)
			if ok1 && ok2 && (old.UID != ed.UID || !apiequality.Semantic.DeepEqual(wanted(old), wanted(ed))) {
				c.notice(ed)
			}
		},
		DeleteFunc: func(object any) { c.notice(object) },
	})
	_, serviceErr := config.Services.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { c.noticeService(object) },
		UpdateFunc: func(_, object any) { c.noticeService(object) },
		DeleteFunc: func(object any) { c.noticeService(object) },
	})
	return c, errors.Join(deviceErr, serviceErr)
}

func (c *Controller) notice(object any) {
	if name, err := cache.DeletionHandlingObjectToName(object); err == nil {
		c.queue.Add(name.AsNamespacedName())
	}
}

// noticeService looks at Services of devices, and at others whose name a device could want.
func (c *Controller) noticeService(object any) {
	svc, ok := queue.Deleted(object).(*corev1.Service)
	if !ok {
		return
	}
	_, err := c.config.Lister.EdgeDevices(svc.Namespace).Get(svc.Name)
	if err == nil || made(svc) {
		c.notice(svc)
	}
}

// made says whether aranya made a Service. A copy has another name or namespace than is written on it.
func made(svc *corev1.Service) bool {
	return svc.Annotations[aranya.AnnotationUID] != "" && svc.Labels[aranya.LabelName] == svc.Name && svc.Labels[aranya.LabelNamespace] == svc.Namespace
}

// Run works until ctx ends, and returns when all workers have. The informers must have synced.
func (c *Controller) Run(ctx context.Context) {
	c.emptyAtStart = len(c.config.Devices.GetIndexer().ListKeys()) == 0
	queue.Run(ctx, c.queue, workers, c.sync)
}

// wanted is the Service that a device asks for, nil for none.
func wanted(ed *aranya.EdgeDevice) *aranya.ServiceSpec {
	if ed.DeletionTimestamp != nil || ed.Spec.Connectivity.Method == aranya.ConnectivityMQTT || ed.Spec.Connectivity.GRPCConfig == nil {
		return nil
	}
	return ed.Spec.Connectivity.GRPCConfig.Service
}

func (c *Controller) sync(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	var spec *aranya.ServiceSpec
	ed, err := c.config.Lister.EdgeDevices(key.Namespace).Get(key.Name)
	if err == nil {
		spec = wanted(ed)
	} else if !apierrors.IsNotFound(err) {
		return 0, err
	}
	svc, err := c.services.Services(key.Namespace).Get(key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	switch {
	case svc != nil && !made(svc):
		if spec != nil {
			c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeWarning, ReasonConflict,
				"Service %s exists already and is not this EdgeDevice's. It is not touched; the device gets its Service when that one is gone", key.Name)
		}
		return 0, nil
	case svc != nil && ed == nil && c.emptyAtStart && svc.CreationTimestamp.Time.Before(c.start):
		klog.FromContext(ctx).Info("Left the Service of an EdgeDevice that does not exist, because there was none at all at the start: restore the database, or delete the Service",
			"service", klog.KObj(svc))
		return 0, nil
	case svc != nil && (spec == nil || svc.Annotations[aranya.AnnotationUID] != string(ed.UID)):
		return 0, c.remove(ctx, svc) // its deletion leads here again
	case spec == nil:
		return 0, nil
	}
	if svc, err = c.apply(ctx, ed, spec, svc); err == nil {
		err = c.applyEndpoints(ctx, svc)
	}
	if err != nil && (apierrors.IsInvalid(err) || apierrors.IsForbidden(err)) {
		c.config.Events.Device(gateway.DeviceOf(ed), corev1.EventTypeWarning, ReasonFailed, "The Service cannot be made: %v", err)
	}
	return 0, err
}

// remove deletes a Service. Its EndpointSlice goes by garbage collection.
func (c *Controller) remove(ctx context.Context, svc *corev1.Service) error {
	err := c.config.Kube.CoreV1().Services(svc.Namespace).Delete(ctx, svc.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &svc.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the Service: %w", err)
	}
	klog.FromContext(ctx).V(2).Info("Deleted the Service of a device", "service", klog.KObj(svc))
	return nil
}

// apply creates the Service, or brings it in line.
func (c *Controller) apply(ctx context.Context, ed *aranya.EdgeDevice, spec *aranya.ServiceSpec, current *corev1.Service) (*corev1.Service, error) {
	client := c.config.Kube.CoreV1().Services(ed.Namespace)
	if current == nil {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ed.Namespace, Name: ed.Name}}
		c.fill(svc, ed, spec)
		created, err := client.Create(ctx, svc, metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("create the Service: %w", err)
		}
		return created, nil
	}
	svc := current.DeepCopy()
	c.fill(svc, ed, spec)
	if apiequality.Semantic.DeepEqual(svc, current) {
		return current, nil
	}
	updated, err := client.Update(ctx, svc, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update the Service: %w", err)
	}
	return updated, nil
}

// fill sets what aranya decides; what the cluster or its users add stays.
func (c *Controller) fill(svc *corev1.Service, ed *aranya.EdgeDevice, spec *aranya.ServiceSpec) {
	svc.Labels = with(svc.Labels, map[string]string{labelManagedBy: managedBy, aranya.LabelName: ed.Name, aranya.LabelNamespace: ed.Namespace})
	svc.Annotations = annotations(svc.Annotations, spec.Annotations)
	svc.Annotations[aranya.AnnotationUID] = string(ed.UID)
	// No EdgeDevice owns it, as it did formerly: with the database of EdgeDevices lost, the garbage collector
	// would delete it.
	svc.OwnerReferences = slices.DeleteFunc(svc.OwnerReferences, func(r metav1.OwnerReference) bool {
		return r.APIVersion == aranya.SchemeGroupVersion.String() && r.Kind == "EdgeDevice"
	})
	svc.Spec.Type = corev1.ServiceType(spec.Type)
	if svc.Spec.Type == "" {
		svc.Spec.Type = corev1.ServiceTypeClusterIP
	}
	svc.Spec.Selector = nil
	port := corev1.ServicePort{Name: portName, Protocol: corev1.ProtocolTCP, Port: c.config.Port}
	if len(svc.Spec.Ports) == 1 { // the cluster has chosen a node port, perhaps
		former := svc.Spec.Ports[0]
		port.TargetPort, port.AppProtocol = former.TargetPort, former.AppProtocol
		if svc.Spec.Type != corev1.ServiceTypeClusterIP {
			port.NodePort = former.NodePort
		}
	}
	svc.Spec.Ports = []corev1.ServicePort{port}
}

// annotations returns those of a Service with what its EdgeDevice wants, and without what it wanted formerly.
func annotations(current, wanted map[string]string) map[string]string {
	result := maps.Clone(current)
	for _, key := range strings.Split(current[aranya.AnnotationApplied], ",") {
		delete(result, key)
	}
	delete(result, aranya.AnnotationApplied)
	result = with(result, wanted)
	if len(wanted) > 0 {
		result[aranya.AnnotationApplied] = strings.Join(slices.Sorted(maps.Keys(wanted)), ",")
	}
	return result
}

func with(m, more map[string]string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	maps.Copy(m, more)
	return m
}

func sliceName(svc *corev1.Service) string { return svc.Name + "-" + portName }

// applyEndpoints has the Service lead to this replica.
func (c *Controller) applyEndpoints(ctx context.Context, svc *corev1.Service) error {
	slice := c.endpoints(svc)
	client := c.config.Kube.DiscoveryV1().EndpointSlices(svc.Namespace)
	_, err := client.Create(ctx, slice, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			return fmt.Errorf("create the EndpointSlice: %w", err)
		}
		return nil
	}
	current, err := client.Get(ctx, slice.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("look up the EndpointSlice: %w", err)
	}
	if current.Labels[discoveryv1.LabelManagedBy] != managedBy {
		return fmt.Errorf("the EndpointSlice %s exists already and is not aranya's", slice.Name)
	}
	if current.AddressType != slice.AddressType || !metav1.IsControlledBy(current, svc) {
		options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &current.UID}}
		if err := client.Delete(ctx, slice.Name, options); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("replace the EndpointSlice: %w", err)
		}
		if _, err := client.Create(ctx, slice, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("replace the EndpointSlice: %w", err)
		}
		return nil
	}
	if apiequality.Semantic.DeepEqual(current.Endpoints, slice.Endpoints) && apiequality.Semantic.DeepEqual(current.Ports, slice.Ports) {
		return nil
	}
	current.Endpoints, current.Ports = slice.Endpoints, slice.Ports
	if _, err := client.Update(ctx, current, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update the EndpointSlice: %w", err)
	}
	return nil
}

func (c *Controller) endpoints(svc *corev1.Service) *discoveryv1.EndpointSlice {
	family := discoveryv1.AddressTypeIPv4
	if ip := net.ParseIP(c.config.Address); ip != nil && ip.To4() == nil {
		family = discoveryv1.AddressTypeIPv6
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: sliceName(svc),
			Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name, discoveryv1.LabelManagedBy: managedBy},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Service", Name: svc.Name, UID: svc.UID, Controller: ptr.To(true),
			}},
		},
		AddressType: family,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{c.config.Address}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
		}},
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To(portName), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(c.config.Port)}},
	}
}
