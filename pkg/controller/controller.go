// Package controller wires the controllers that make a device part of the cluster: EdgeDevice status (device), Node
// and Lease (node), pods (pod), MQTT brokers (broker), certificates and Services that lead to the gateway
// (certificate, service). It owns their informers and their order of start. What a controller does belongs into its
// own package; who calls whom is written here.
package controller

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/controller/broker"
	"arhat.dev/aranya/pkg/controller/certificate"
	"arhat.dev/aranya/pkg/controller/device"
	"arhat.dev/aranya/pkg/controller/events"
	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/controller/node"
	"arhat.dev/aranya/pkg/controller/pod"
	"arhat.dev/aranya/pkg/controller/service"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
	"arhat.dev/aranya/pkg/generated/informers/externalversions"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

// DefaultReconnectGrace is a little more than the longest back-off of a device.
const DefaultReconnectGrace = 75 * time.Second

// Config of the controllers.
type Config struct {
	// Kube is the client of the cluster that the Nodes and pods are in. Its rate limits are the
	// caller's business; the client-go default of 5 requests/s is far too low.
	Kube kubernetes.Interface
	// EventClients write events. Each defaults to Kube.
	EventClients events.Clients
	// Leases renews the Leases of Nodes. Defaults to Kube.
	Leases coordinationclient.LeasesGetter
	// Edge is the client of aranya's own API. It must act as the server itself (loopback), so that
	// status.certificate may be written.
	Edge versioned.Interface
	// EdgeInformers is the factory of the EdgeDevice informer, shared with whoever else needs one.
	// Run starts it.
	EdgeInformers externalversions.SharedInformerFactory

	// NodeAddress is the InternalIP of the Nodes, where the kubelet endpoint of this replica listens.
	NodeAddress string
	// KubeletPort is the port of that endpoint.
	KubeletPort int32
	// GatewayPort is the port of the gateway at NodeAddress, to which the Services of devices lead; 0
	// for no Services.
	GatewayPort int32
	// Replica is the name of this replica, for the log.
	Replica string

	// Disconnect cuts the link of a device; usually (*gateway.Gateway).Disconnect. It may be set
	// later by SetDisconnect, because the gateway needs the Handler of the controllers first.
	Disconnect func(device gateway.Device, reason error)
	// ReconnectGrace is how long devices may take to come back until they are set Offline, after the start
	// and when many links were lost at once. Defaults to DefaultReconnectGrace.
	ReconnectGrace time.Duration
	// Clock defaults to the real one.
	Clock clock.WithTicker
}

// Controllers are the controllers of one replica.
type Controllers struct {
	config     Config
	tracker    *links.Tracker
	disconnect atomic.Pointer[func(gateway.Device, error)]
	cancel     context.CancelFunc
	recorder   *events.Recorder

	deviceInformer cache.SharedIndexInformer
	devices        aranyalisters.EdgeDeviceLister
	kube           informers.SharedInformerFactory
	nodeInformer   cache.SharedIndexInformer
	nodeLister     corelisters.NodeLister
	serviceSynced  cache.InformerSynced
	classSynced    cache.InformerSynced
	podInformer    cache.SharedIndexInformer

	broker       *broker.Pool
	certificates *certificate.Store
	device       *device.Controller
	node         *node.Controller
	pod          *pod.Controller
	service      *service.Controller // nil without a gateway to lead to
}

// New returns controllers that do nothing until Run, which must follow. It adds an index to the
// EdgeDevice informer of config.EdgeInformers, which must not be started yet.
func New(config Config) (*Controllers, error) {
	if config.Kube == nil || config.Edge == nil || config.EdgeInformers == nil {
		return nil, errors.New("controllers need the clients Kube and Edge and the factory EdgeInformers")
	}
	if config.NodeAddress == "" || config.KubeletPort <= 0 {
		return nil, fmt.Errorf("controllers need the address and the port of the kubelet endpoint, got %q and %d", config.NodeAddress, config.KubeletPort)
	}
	if config.ReconnectGrace == 0 {
		config.ReconnectGrace = DefaultReconnectGrace
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	if config.EventClients.Normal == nil {
		config.EventClients.Normal = config.Kube
	}
	if config.EventClients.Warning == nil {
		config.EventClients.Warning = config.Kube
	}
	c := &Controllers{config: config, tracker: links.NewTracker(config.Clock, config.ReconnectGrace)}
	c.SetDisconnect(config.Disconnect)

	devices := config.EdgeInformers.Aranya().V1alpha1().EdgeDevices()
	c.devices, c.deviceInformer = devices.Lister(), devices.Informer()
	if err := c.deviceInformer.AddIndexers(cache.Indexers{node.NameIndex: node.IndexDevice}); err != nil {
		return nil, fmt.Errorf("index EdgeDevices by name: %w", err)
	}
	c.kube = informers.NewSharedInformerFactoryWithOptions(config.Kube, 0, informers.WithTransform(slim))
	c.nodeLister, c.nodeInformer = c.kube.Core().V1().Nodes().Lister(), c.kube.Core().V1().Nodes().Informer()
	c.serviceSynced = c.kube.Core().V1().Services().Informer().HasSynced
	c.classSynced = c.kube.Node().V1().RuntimeClasses().Informer().HasSynced
	c.podInformer = pod.NewInformer(config.Kube)
	if err := c.build(); err != nil {
		c.cancel()
		return nil, err
	}
	return c, nil
}

// build makes the single controllers and subscribes them to the links.
func (c *Controllers) build() (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.recorder = events.New(ctx)
	if c.node, err = node.New(node.Config{
		Kube: c.config.Kube, Leases: c.config.Leases, Edge: c.config.Edge, Nodes: c.nodeInformer, Pods: c.podInformer.GetIndexer(), Devices: c.deviceInformer,
		Tracker: c.tracker, Events: c.recorder, Clock: c.config.Clock,
		Address: c.config.NodeAddress, Port: c.config.KubeletPort, ReconnectGrace: c.config.ReconnectGrace,
		Changed: func(key types.NamespacedName) { c.device.Notice(key) },
	}); err != nil {
		return err
	}
	if c.broker, err = broker.New(ctx, broker.Config{
		Kube: c.config.Kube, Devices: c.deviceInformer, Lister: c.devices, Clock: c.config.Clock,
		Changed: func(key types.NamespacedName) { c.device.Notice(key) },
	}); err != nil {
		return err
	}
	if err := c.buildEntries(ctx); err != nil {
		return err
	}
	if c.device, err = device.New(device.Config{
		Edge: c.config.Edge, Devices: c.deviceInformer, Lister: c.devices, NodeInformer: c.nodeInformer, Nodes: c.node,
		Tracker: c.tracker, Events: c.recorder, Clock: c.config.Clock, ReconnectGrace: c.config.ReconnectGrace,
		Disconnect: func(d gateway.Device, reason error) { (*c.disconnect.Load())(d, reason) }, Broker: c.broker.State,
		NodeProblem: c.node.Problem, SeenBefore: c.node.SeenBefore,
	}); err != nil {
		return err
	}
	if c.pod, err = pod.New(ctx, pod.Config{
		Kube: c.config.Kube, Pods: c.podInformer, Nodes: c.nodeInformer, Services: c.kube.Core().V1().Services().Lister(),
		RuntimeClasses: c.kube.Node().V1().RuntimeClasses().Lister(),
		Devices:        c.deviceInformer, Owner: c.owner, Events: c.recorder, Clock: c.config.Clock,
	}); err != nil {
		return err
	}
	c.tracker.AddListener(c.node)
	c.tracker.AddListener(c.device)
	c.tracker.AddListener(c.pod)
	return nil
}

// buildEntries makes what lets devices in beside the gateway's own address: certificates and Services.
func (c *Controllers) buildEntries(ctx context.Context) (err error) {
	if c.certificates, err = certificate.New(ctx, certificate.Config{
		Kube: c.config.Kube, Devices: c.deviceInformer, Lister: c.devices, Events: c.recorder, Clock: c.config.Clock,
	}); err != nil || c.config.GatewayPort == 0 {
		return err
	}
	c.service, err = service.New(service.Config{
		Kube: c.config.Kube, Devices: c.deviceInformer, Lister: c.devices, Services: c.kube.Core().V1().Services().Informer(),
		Events: c.recorder, Clock: c.config.Clock, Address: c.config.NodeAddress, Port: c.config.GatewayPort,
	})
	return err
}

// Certificate returns the certificate that a device names for a host name, nil if none does.
func (c *Controllers) Certificate(serverName string) *tls.Certificate {
	return c.certificates.Get(serverName)
}

// SetDisconnect sets what cuts the link of a device. It may be called at any time.
func (c *Controllers) SetDisconnect(f func(device gateway.Device, reason error)) {
	if f == nil {
		f = func(gateway.Device, error) {}
	}
	c.disconnect.Store(&f)
}

// SetGateway sets who serves the devices that are reached through MQTT brokers; without it none are. It
// must be called before Run.
func (c *Controllers) SetGateway(g broker.Gateway) { c.broker.SetGateway(g) }

// Handler is what the gateway tells about its links.
func (c *Controllers) Handler() gateway.Handler { return c.tracker }

// IdentityInUse is for the gateway to tell of two machines that use the identity of one device.
func (c *Controllers) IdentityInUse(device gateway.Device, one, other gateway.Machine) {
	c.device.IdentityInUse(device, one, other)
}

// Refused is for the gateway to tell of a machine whose identity is refused.
func (c *Controllers) Refused(device gateway.Device, address, reason string) {
	c.device.Refused(device, address, reason)
}

// Pods lists the pods that are bound to a Node, from memory.
func (c *Controllers) Pods() corelisters.PodLister { return c.pod.Lister() }

// PodsOnNode returns the pods that are bound to a Node, from memory. Not to be modified.
func (c *Controllers) PodsOnNode(nodeName string) []*corev1.Pod {
	return pod.OnNode(c.podInformer.GetIndexer(), nodeName)
}

// Directory finds EdgeDevices and records their certificates, for the gateway.
func (c *Controllers) Directory() device.Directory {
	return device.Directory{Lister: c.devices, Client: c.config.Edge}
}

// DeviceForNode returns the EdgeDevice that a Node stands for; false for a Node that is not aranya's.
func (c *Controllers) DeviceForNode(nodeName string) (namespace, name string, ok bool) {
	d, ok := c.owner(nodeName)
	return d.Namespace, d.Name, ok
}

// LastSeen says when a device that is not connected was last heard of; zero if that is not known.
func (c *Controllers) LastSeen(namespace, name string) time.Time {
	ed, err := c.devices.EdgeDevices(namespace).Get(name)
	if err != nil {
		return time.Time{}
	}
	return c.device.LastSeen(ed)
}

// OnlyNode returns the name of aranya's Node if there is one, and no other.
func (c *Controllers) OnlyNode() (only string) {
	nodes, err := c.nodeLister.List(labels.Everything())
	if err != nil {
		return ""
	}
	for _, n := range nodes {
		if _, ok := node.Owner(n); !ok {
			continue
		}
		if only != "" {
			return ""
		}
		only = n.Name
	}
	return only
}

func (c *Controllers) owner(nodeName string) (gateway.Device, bool) {
	n, err := c.nodeLister.Get(nodeName)
	if err != nil {
		return gateway.Device{}, false
	}
	d, ok := node.Owner(n)
	if !ok {
		return gateway.Device{}, false
	}
	ed, err := c.devices.EdgeDevices(d.Namespace).Get(d.Name)
	if err != nil || ed.UID != d.UID {
		return gateway.Device{}, false
	}
	return d, true
}

// HasSynced says whether the informers hold what the cluster holds: the controllers do nothing
// before.
func (c *Controllers) HasSynced() bool {
	return c.deviceInformer.HasSynced() && c.nodeInformer.HasSynced() && c.serviceSynced() && c.classSynced() && c.podInformer.HasSynced()
}

// Run runs the controllers until ctx ends, and returns when all of them have. It returns an error only
// if they could not start.
func (c *Controllers) Run(ctx context.Context) error {
	defer c.cancel()
	defer c.recorder.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	defer c.kube.Shutdown()

	c.config.EdgeInformers.StartWithContext(ctx)
	c.kube.StartWithContext(ctx)
	running.Go(func() { c.podInformer.RunWithContext(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), c.HasSynced) {
		return nil // told to stop
	}
	klog.FromContext(ctx).Info("The controllers' informers have synced", "replica", c.config.Replica)
	c.recorder.Start(c.config.EventClients)
	running.Go(func() { c.node.Run(ctx) })
	running.Go(func() { c.device.Run(ctx) })
	running.Go(func() { c.pod.Run(ctx) })
	running.Go(func() { c.broker.Run(ctx) })
	running.Go(func() { c.certificates.Run(ctx) })
	if c.service != nil {
		running.Go(func() { c.service.Run(ctx) })
	}
	<-ctx.Done()
	return nil
}
