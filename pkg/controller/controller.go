// Package controller wires the controllers that make a device part of the cluster: EdgeDevice status
// (device), Node and Lease (node), pods (pod). It owns their informers and their order of start. What
// a controller does belongs into its own package; who calls whom is written here.
package controller

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"arhat.dev/aranya/pkg/controller/device"
	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/controller/node"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
	"arhat.dev/aranya/pkg/generated/informers/externalversions"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

// Config of the controllers.
type Config struct {
	// Kube is the client of the cluster that the Nodes and pods are in. Its rate limits are the
	// caller's business; the client-go default of 5 requests/s is far too low.
	Kube kubernetes.Interface
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
	// Replica is the name of this replica, for events and messages.
	Replica string

	// Disconnect cuts the link of a device; usually (*gateway.Gateway).Disconnect. It may be set
	// later by SetDisconnect, because the gateway needs the Handler of the controllers first.
	Disconnect func(device gateway.Device, reason error)
	// ReconnectGrace is how long after the start devices that were connected before may take to come
	// back until they are set Offline. Defaults to 75 s, a little more than the longest back-off of a
	// device.
	ReconnectGrace time.Duration
}

// Controllers are the controllers of one replica.
type Controllers struct {
	config     Config
	tracker    *links.Tracker
	disconnect atomic.Pointer[func(gateway.Device, error)]

	devices      aranyalisters.EdgeDeviceLister
	deviceSynced cache.InformerSynced
	kube         informers.SharedInformerFactory
	nodes        corelisters.NodeLister
	pods         corelisters.PodLister
}

// New returns controllers that do nothing until Run. It registers informers with
// config.EdgeInformers, which must not be started yet.
func New(config Config) (*Controllers, error) {
	if config.Kube == nil || config.Edge == nil || config.EdgeInformers == nil {
		return nil, errors.New("controllers need the clients Kube and Edge and the factory EdgeInformers")
	}
	if config.NodeAddress == "" || config.KubeletPort <= 0 {
		return nil, fmt.Errorf("controllers need the address and the port of the kubelet endpoint, got %q and %d", config.NodeAddress, config.KubeletPort)
	}
	if config.ReconnectGrace == 0 {
		config.ReconnectGrace = 75 * time.Second
	}
	c := &Controllers{config: config, tracker: links.NewTracker()}
	c.SetDisconnect(config.Disconnect)
	devices := config.EdgeInformers.Aranya().V1alpha1().EdgeDevices()
	c.devices, c.deviceSynced = devices.Lister(), devices.Informer().HasSynced
	c.kube = informers.NewSharedInformerFactory(config.Kube, 0)
	c.nodes = c.kube.Core().V1().Nodes().Lister()
	c.pods = c.kube.Core().V1().Pods().Lister()
	return c, nil
}

// SetDisconnect sets what cuts the link of a device. It may be called at any time.
func (c *Controllers) SetDisconnect(f func(device gateway.Device, reason error)) {
	if f == nil {
		f = func(gateway.Device, error) {}
	}
	c.disconnect.Store(&f)
}

// Handler is what the gateway tells about its links.
func (c *Controllers) Handler() gateway.Handler { return c.tracker }

// Pods lists the pods that are bound to a Node, from memory.
func (c *Controllers) Pods() corelisters.PodLister { return c.pods }

// Nodes lists the Nodes of the cluster, from memory.
func (c *Controllers) Nodes() corelisters.NodeLister { return c.nodes }

// Directory finds EdgeDevices and records their certificates, for the gateway.
func (c *Controllers) Directory() device.Directory {
	return device.Directory{Lister: c.devices, Client: c.config.Edge}
}

// DeviceForNode returns the EdgeDevice that a Node stands for; false for a Node that is not aranya's.
func (c *Controllers) DeviceForNode(nodeName string) (namespace, name string, ok bool) {
	n, err := c.nodes.Get(nodeName)
	if err != nil {
		return "", "", false
	}
	d, ok := node.Owner(n)
	if !ok {
		return "", "", false
	}
	ed, err := c.devices.EdgeDevices(d.Namespace).Get(d.Name)
	if err != nil || ed.UID != d.UID {
		return "", "", false
	}
	return d.Namespace, d.Name, true
}

// HasSynced says whether the informers hold what the cluster holds: the controllers do nothing
// before.
func (c *Controllers) HasSynced() bool { return c.deviceSynced() }

// Run runs the controllers until ctx ends, and returns when all of them have.
func (c *Controllers) Run(ctx context.Context) error {
	c.config.EdgeInformers.StartWithContext(ctx)
	c.kube.StartWithContext(ctx)
	<-ctx.Done()
	c.kube.Shutdown()
	return nil
}
