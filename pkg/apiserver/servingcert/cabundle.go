package servingcert

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	apiregistrationinformers "k8s.io/kube-aggregator/pkg/client/informers/externalversions/apiregistration/v1"

	"arhat.dev/aranya/pkg/controller/queue"
)

// conflictRetry is how long to wait after a conflict.
const conflictRetry = 200 * time.Millisecond

// CABundleConfig configures a CABundle controller.
type CABundleConfig struct {
	Client clientset.Interface
	// APIService is the name of the one whose caBundle is kept.
	APIService string
	// Namespace and Service are what it must refer to: the bundle is of no use for another server.
	Namespace, Service string
	Manager            *Manager
}

// CABundle keeps the caBundle of one APIService equal to the bundle of a Manager.
type CABundle struct {
	cfg   CABundleConfig
	queue workqueue.TypedRateLimitingInterface[string]
}

// NewCABundle returns a controller.
func NewCABundle(cfg CABundleConfig) *CABundle {
	c := &CABundle{
		cfg: cfg,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](200*time.Millisecond, 5*time.Minute),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: "apiservice-cabundle"}),
	}
	cfg.Manager.AddListener(c)
	return c
}

// Enqueue implements dynamiccertificates.Listener: the bundle may have changed.
func (c *CABundle) Enqueue() { c.queue.Add(c.cfg.APIService) }

// Run keeps the caBundle until ctx ends.
func (c *CABundle) Run(ctx context.Context) {
	informer := apiregistrationinformers.NewFilteredAPIServiceInformer(c.cfg.Client, 0, cache.Indexers{},
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, c.cfg.APIService).String()
		})
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.Enqueue() },
		UpdateFunc: func(any, any) { c.Enqueue() },
	}); err != nil {
		klog.FromContext(ctx).Error(err, "Changes of the APIService will not be noticed", "apiService", c.cfg.APIService)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { informer.RunWithContext(ctx) })
	c.Enqueue()
	queue.Run(ctx, c.queue, 1, c.work)
}

func (c *CABundle) work(ctx context.Context, name string) (again time.Duration, err error) {
	err = c.sync(ctx)
	if apierrors.IsConflict(err) {
		return conflictRetry, nil // no news: its status changes while it becomes available
	}
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Could not check the caBundle; trying again", "apiService", name)
	}
	return 0, err
}

// sync compares and, if needed, patches. It reads the APIService itself rather than from the informer:
// it runs a few times a month.
func (c *CABundle) sync(ctx context.Context) error {
	logger := klog.FromContext(ctx)
	services := c.cfg.Client.ApiregistrationV1().APIServices()
	service, err := services.Get(ctx, c.cfg.APIService, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		logger.Info("There is no such APIService yet: the API is not served through kube-apiserver until it is applied", "apiService", c.cfg.APIService)
		return nil
	}
	if err != nil {
		return fmt.Errorf("get the APIService %s: %w", c.cfg.APIService, err)
	}
	if !c.ours(service) {
		logger.Info("The APIService refers to another Service; its caBundle is left alone", "apiService", c.cfg.APIService,
			"refersTo", service.Spec.Service, "want", klog.KRef(c.cfg.Namespace, c.cfg.Service))
		return nil
	}
	if c.current(service) {
		return nil
	}
	// Another replica may be ahead of us: do not put back what it replaced.
	if _, err := c.cfg.Manager.sync(ctx); err != nil {
		return err
	}
	if c.current(service) {
		return nil
	}
	patch, err := c.patch(service)
	if err != nil {
		return err
	}
	if _, err := services.Patch(ctx, c.cfg.APIService, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("patch the caBundle of the APIService %s: %w", c.cfg.APIService, err)
	}
	logger.Info("Updated the caBundle", "apiService", c.cfg.APIService)
	return nil
}

func (c *CABundle) ours(service *apiregistrationv1.APIService) bool {
	ref := service.Spec.Service
	return ref != nil && ref.Namespace == c.cfg.Namespace && ref.Name == c.cfg.Service
}

func (c *CABundle) current(service *apiregistrationv1.APIService) bool {
	return !service.Spec.InsecureSkipTLSVerify && bytes.Equal(service.Spec.CABundle, c.cfg.Manager.Bundle())
}

// patch sets what differs. The resource version makes it fail if somebody else was faster.
func (c *CABundle) patch(service *apiregistrationv1.APIService) ([]byte, error) {
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": service.ResourceVersion},
		"spec": map[string]any{
			"caBundle": c.cfg.Manager.Bundle(),
			// kube-apiserver rejects a caBundle beside it, and nothing may be served unverified.
			"insecureSkipTLSVerify": nil,
		},
	})
}
