// Package pod brings the pods that are bound to a device's Node to the device, and what becomes of
// them back into their status. How a pod is made self-contained belongs into package resolve, the
// watching of what it uses into package objects, Nodes into package node.
//
// How it works: everything is level-triggered. For each live link there is a record of what the
// device holds (state.go), which starts with the device's Hello. A pod is compared with that record
// whenever the pod, something it uses or the link changes (sync.go); what the device reports is
// compared with the pod's status in the same way (status.go).
package pod

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	nodelisters "k8s.io/client-go/listers/node/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	"arhat.dev/aranya/pkg/controller/events"
	"arhat.dev/aranya/pkg/controller/links"
	"arhat.dev/aranya/pkg/controller/node"
	"arhat.dev/aranya/pkg/controller/pod/bundles"
	"arhat.dev/aranya/pkg/controller/pod/objects"
	"arhat.dev/aranya/pkg/controller/pod/resolve"
	"arhat.dev/aranya/pkg/controller/queue"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/staticpod"
	aranyalisters "arhat.dev/aranya/pkg/generated/listers/aranya/v1alpha1"
)

// Names of the indices of the pod informer.
const (
	nodeIndex = node.PodIndex
	uidIndex  = "metadata.uid"
)

// workers is how many pods are worked on at the same time, and how many statuses are written.
const workers = 16

// mirrorWorkers is for how many devices mirror pods are made at the same time.
const mirrorWorkers = 4

// Config of the Controller.
type Config struct {
	Kube kubernetes.Interface
	// Pods is an informer from NewInformer.
	Pods     cache.SharedIndexInformer
	Nodes    cache.SharedIndexInformer
	Services corelisters.ServiceLister
	// RuntimeClasses are resolved to the handlers that devices know.
	RuntimeClasses nodelisters.RuntimeClassLister
	Devices        cache.SharedIndexInformer
	// Owner returns the EdgeDevice that a Node stands for; false for a foreign Node.
	Owner  func(nodeName string) (gateway.Device, bool)
	Events *events.Recorder
	Clock  clock.WithTicker
}

// Controller brings pods to devices. It is a links.Listener.
type Controller struct {
	config      Config
	lister      corelisters.PodLister
	indexer     cache.Indexer
	written     cache.MutationCache // of pods
	resolver    *resolve.Resolver
	edgeDevices aranyalisters.EdgeDeviceLister
	objects     *objects.Manager[key]
	bundles     *bundles.Manager
	tokens      *tokenCache

	// sync holds pods to compare with what the device holds, status those to compare with what the
	// device reported, and devices those whose pods are to be looked at anew.
	sync, status workqueue.TypedRateLimitingInterface[key]
	devices      workqueue.TypedRateLimitingInterface[gateway.Device]
	// absent holds devices that are away, mirrors those whose mirror pods are to be looked at.
	absent, mirrors workqueue.TypedRateLimitingInterface[gateway.Device]
	// again holds by UID how soon a pod is sent again that its device has removed.
	again *flowcontrol.Backoff
	// former holds by UID what identifies pods that have gone lately.
	former *utilcache.LRUExpireCache

	start time.Time // devices cannot connect before Run

	mu sync.Mutex
	// states holds a record for each live link, by the name of the device: their Node has that name too, and no
	// more than one of them owns it. The lists are replaced, not modified.
	states map[string][]*state
	// lost holds when devices in absent lost their last link; those that have had none are not in it.
	lost map[gateway.Device]time.Time
	// spent holds the allowances of devices that have a link, or had one until lately.
	spent map[gateway.Device]*allowance
}

// key names a pod that is bound to a Node.
type key struct {
	namespace, name string
	uid             types.UID
	node            string
}

func keyOf(pod *corev1.Pod) key {
	return key{namespace: pod.Namespace, name: pod.Name, uid: pod.UID, node: pod.Spec.NodeName}
}

var (
	_ links.Listener        = &Controller{}
	_ links.MessageListener = &Controller{}
)

// NewInformer returns the one informer of pods: of those that are bound to a Node.
func NewInformer(client kubernetes.Interface) cache.SharedIndexInformer {
	informer := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithTweakListOptions(bound),
		informers.WithTransform(queue.StripManagedFields),
	).Core().V1().Pods().Informer()
	// Indexers can only be refused by a started informer.
	if err := informer.AddIndexers(cache.Indexers{nodeIndex: node.IndexPod, uidIndex: byUID}); err != nil {
		panic(fmt.Sprintf("indexers of a new informer: %v", err))
	}
	return informer
}

// New returns a Controller that does nothing until Run. The watches that it starts on the way end with
// Run, or with ctx, which carries their logger.
func New(ctx context.Context, config Config) (*Controller, error) {
	c := &Controller{
		config:      config,
		lister:      corelisters.NewPodLister(config.Pods.GetIndexer()),
		indexer:     config.Pods.GetIndexer(),
		written:     queue.Written(config.Pods.GetIndexer()),
		edgeDevices: aranyalisters.NewEdgeDeviceLister(config.Devices.GetIndexer()),
		tokens:      newTokenCache(config.Kube, config.Clock),
		sync:        queue.New[key]("pods", config.Clock),
		status:      queue.New[key]("pod_statuses", config.Clock),
		devices:     queue.New[gateway.Device]("pod_devices", config.Clock),
		absent:      queue.New[gateway.Device]("absent_devices", config.Clock),
		mirrors:     queue.New[gateway.Device]("mirror_pods", config.Clock),
		start:       config.Clock.Now(),
		states:      map[string][]*state{},
		lost:        map[gateway.Device]time.Time{},
		spent:       map[gateway.Device]*allowance{},
		again:       flowcontrol.NewBackOff(minRunAgain, maxRunAgain),
		former:      utilcache.NewLRUExpireCacheWithClock(maxFormer, config.Clock),
	}
	c.again.Clock = config.Clock
	c.objects = objects.New(ctx, config.Kube, objects.DefaultLimit, func(users []key) {
		for _, k := range users {
			c.sync.Add(k)
		}
	})
	c.bundles = bundles.New(ctx, config.Kube, c.bundlesChanged)
	c.resolver = &resolve.Resolver{
		Objects: c.objects, Tokens: c.tokens, Bundles: c.bundles, Services: config.Services, RuntimeClasses: config.RuntimeClasses,
	}
	_, podErr := config.Pods.AddEventHandler(c.podHandler())
	_, nodeErr := config.Nodes.AddEventHandler(c.nodeHandler())
	_, deviceErr := config.Devices.AddEventHandler(c.deviceHandler())
	return c, errors.Join(podErr, nodeErr, deviceErr)
}

// Run works until ctx ends, and returns when all workers have. The informers must have synced.
func (c *Controller) Run(ctx context.Context) {
	c.start = c.config.Clock.Now()
	defer c.objects.Close()
	defer c.bundles.Close()
	var running sync.WaitGroup
	running.Go(func() { queue.Run(ctx, c.sync, workers, c.syncPod) })
	running.Go(func() { queue.Run(ctx, c.status, workers, c.syncStatus) })
	running.Go(func() { queue.Run(ctx, c.devices, workers, c.syncDevice) })
	running.Go(func() { queue.Run(ctx, c.absent, 1, c.syncAbsent) })
	running.Go(func() { queue.Run(ctx, c.mirrors, mirrorWorkers, c.syncMirrors) })
	running.Wait()
}

// Lister lists the pods that are bound to a Node.
func (c *Controller) Lister() corelisters.PodLister { return c.lister }

// OnNode returns the pods that are bound to a Node, from memory. Not to be modified.
func OnNode(indexer cache.Indexer, nodeName string) []*corev1.Pod {
	found, err := indexer.ByIndex(nodeIndex, nodeName)
	if err != nil {
		return nil
	}
	pods := make([]*corev1.Pod, 0, len(found))
	for _, object := range found {
		pods = append(pods, object.(*corev1.Pod))
	}
	return pods
}

func byUID(object any) ([]string, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	uids := []string{string(pod.UID)}
	if staticpod.IsMirror(pod) {
		uids = append(uids, pod.Annotations[staticpod.AnnotationMirror])
	}
	return uids, nil
}

// get returns a pod from memory, nil if it is gone.
func (c *Controller) get(k key) *corev1.Pod {
	object, exists, err := c.written.GetByKey(cache.NewObjectName(k.namespace, k.name).String())
	if err != nil || !exists {
		return nil
	}
	pod := object.(*corev1.Pod)
	if pod.UID != k.uid {
		return nil
	}
	return pod
}

// ofDevice returns the pod that a device knows by a UID from memory, or nil: also if it is another device's.
func (c *Controller) ofDevice(device gateway.Device, uid types.UID) *corev1.Pod {
	found, err := c.indexer.ByIndex(uidIndex, string(uid))
	if err != nil {
		return nil
	}
	for _, object := range found {
		pod := object.(*corev1.Pod)
		if staticpod.UIDOnDevice(pod, device.Namespace) != uid {
			continue
		}
		if owner, ok := c.config.Owner(pod.Spec.NodeName); ok && owner == device {
			return pod
		}
	}
	return nil
}

// retryAfter is how soon something is tried again that only time can heal.
const retryAfter = 30 * time.Second

// boundSelector selects pods that are bound to a Node.
var boundSelector = fields.OneTermNotEqualSelector("spec.nodeName", "").String()
