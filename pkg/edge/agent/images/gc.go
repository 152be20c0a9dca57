package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/distribution/reference"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// gcPeriod is how often images are looked at, as by the kubelet.
const gcPeriod = 5 * time.Minute

// GCPolicy says when images that nothing uses are removed. The fields are the kubelet's.
type GCPolicy struct {
	// HighThresholdPercent of the file system in use makes removal begin, LowThresholdPercent is where
	// it ends. 100 means never.
	HighThresholdPercent, LowThresholdPercent int
	// MinAge is how long an image has been seen before it may be removed.
	MinAge time.Duration
	// MaxAge without use makes an image go whether the disk is full or not. 0 means never.
	MaxAge time.Duration
}

// Runtime is what a Collector needs of the container runtime.
type Runtime interface {
	internalapi.ImageManagerService
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
	Status(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error)
}

// Collector removes images that nothing uses: no container in the runtime, whoever made it, and no pod
// that the device is to run, even if it does not at the moment: without a link its image could not be
// had again. Images that the runtime pins and the one of its sandboxes stay as well. Its methods may be
// called concurrently.
type Collector struct {
	runtime Runtime
	clock   clock.WithTicker
	policy  GCPolicy
	wanted  func() []string
	event   func(eventType, reason, message string)
	space   func(path string) (capacity, available uint64, err error)

	mu      sync.Mutex // held while images are looked at or removed
	records map[string]*record
	sandbox string // name of the image of sandboxes; empty until the runtime has told
}

// record is what is remembered of one image, by its id.
type record struct {
	image          *runtimeapi.Image
	detected, used time.Time
}

// NewCollector returns a Collector. Wanted lists the images of the pods that the device is to run, as in
// their specs; event tells the user about the device.
func NewCollector(r Runtime, c clock.WithTicker, policy GCPolicy, wanted func() []string, event func(eventType, reason, message string)) *Collector {
	return &Collector{runtime: r, clock: c, policy: policy, wanted: wanted, event: event, space: statfs, records: map[string]*record{}}
}

func statfs(path string) (capacity, available uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, fmt.Errorf("file system of %s: %w", path, err)
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
}

// Run collects until the context ends.
func (c *Collector) Run(ctx context.Context) {
	began := c.clock.Now()
	ticker := c.clock.NewTicker(gcPeriod)
	defer ticker.Stop()
	for {
		if err := c.Collect(ctx, began); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Images that nothing uses could not be removed")
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

// Collect removes images that are too old, and others if the disk is too full. Began is when the
// collector began to watch: no image's age is known from before.
func (c *Collector) Collect(ctx context.Context, began time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	unused, err := c.detect(ctx)
	if err != nil {
		return err
	}
	if unused, err = c.removeOld(ctx, unused, began); err != nil {
		return err
	}
	if c.policy.HighThresholdPercent >= 100 {
		return nil
	}
	capacity, available, err := c.imageSpace(ctx)
	if err != nil || capacity == 0 {
		return err
	}
	usage := 100 - int(available*100/capacity)
	if usage < c.policy.HighThresholdPercent {
		return nil
	}
	target := capacity / 100 * uint64(100-c.policy.LowThresholdPercent)
	toFree := target - min(available, target)
	klog.FromContext(ctx).Info("Removing images that nothing uses: the disk is too full", "percent", usage, "bytesToFree", toFree)
	freed, err := c.free(ctx, unused, toFree)
	if err != nil {
		return err
	}
	if freed < toFree {
		message := fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %d bytes used). "+
			"Failed to free sufficient space by deleting unused images (freed %d bytes). "+
			"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.", usage, capacity, freed)
		c.event(v1.EventTypeWarning, "FreeDiskSpaceFailed", message)
		return errors.New(message)
	}
	return nil
}

// DeleteUnused removes every image that may be removed, for a device under disk pressure.
func (c *Collector) DeleteUnused(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	unused, err := c.detect(ctx)
	if err != nil {
		return err
	}
	_, err = c.free(ctx, unused, math.MaxUint64)
	return err
}

// imageSpace is the size of the file system that holds images, and what is left of it; 0 if there is none.
func (c *Collector) imageSpace(ctx context.Context) (capacity, available uint64, err error) {
	info, err := c.runtime.ImageFsInfo(ctx)
	if err != nil {
		return 0, 0, err
	}
	if len(info.GetImageFilesystems()) == 0 { // as of a runtime without images
		return 0, 0, nil
	}
	path := info.ImageFilesystems[0].GetFsId().GetMountpoint()
	if capacity, available, err = c.space(path); err != nil {
		return 0, 0, err
	}
	if capacity == 0 {
		c.event(v1.EventTypeWarning, "InvalidDiskCapacity", "invalid capacity 0 on image filesystem")
		return 0, 0, fmt.Errorf("the file system of %s says that it has no room at all", path)
	}
	return capacity, min(available, capacity), nil
}

// detect brings the records up to date and returns those of unused images, the least recently used and
// then the oldest first.
func (c *Collector) detect(ctx context.Context) ([]*record, error) {
	images, err := c.runtime.ListImages(ctx, nil)
	if err != nil {
		return nil, err
	}
	used, err := c.inUse(ctx)
	if err != nil {
		return nil, err
	}
	now := c.clock.Now()
	current := make(map[string]*record, len(images))
	var unused []*record
	for _, image := range images {
		r := c.records[image.Id]
		if r == nil {
			r = &record{detected: now}
		}
		r.image = image
		if used.HasAny(append(slices.Concat(image.RepoTags, image.RepoDigests), image.Id)...) {
			r.used = now
		} else if !image.Pinned {
			unused = append(unused, r)
		}
		current[image.Id] = r
	}
	c.records = current
	slices.SortFunc(unused, func(a, b *record) int {
		if order := a.used.Compare(b.used); order != 0 {
			return order
		}
		return a.detected.Compare(b.detected)
	})
	return unused, nil
}

// inUse returns the names and ids of images that must stay.
func (c *Collector) inUse(ctx context.Context) (sets.Set[string], error) {
	used := sets.New[string]()
	containers, err := c.runtime.ListContainers(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, container := range containers {
		used.Insert(container.GetImageRef(), container.GetImageId(), container.GetImage().GetImage())
	}
	names := c.wanted()
	if c.sandbox == "" {
		if c.sandbox, err = c.sandboxImage(ctx); err != nil {
			return nil, err
		}
	}
	if c.sandbox != "" {
		names = append(names, c.sandbox)
	}
	for _, name := range names {
		used.Insert(name)
		if named, err := reference.ParseNormalizedNamed(name); err == nil {
			used.Insert(reference.TagNameOnly(named).String())
			if digested, ok := named.(reference.Digested); ok {
				// The runtime lists it without the tag that may be there as well.
				if canonical, err := reference.WithDigest(reference.TrimNamed(named), digested.Digest()); err == nil {
					used.Insert(canonical.String())
				}
			}
		}
	}
	used.Delete("")
	return used, nil
}

// sandboxImage asks containerd, which does not pin that image before version 1.7. Other runtimes pin it.
func (c *Collector) sandboxImage(ctx context.Context) (string, error) {
	status, err := c.runtime.Status(ctx, true)
	if err != nil {
		return "", err
	}
	var config struct {
		SandboxImage string `json:"sandboxImage"`
	}
	if text := status.GetInfo()["config"]; text != "" {
		if err := json.Unmarshal([]byte(text), &config); err != nil {
			return "", fmt.Errorf("the container runtime's description of itself is not JSON: %w", err)
		}
	}
	return config.SandboxImage, nil
}

// removeOld removes the images that were not used for too long, and returns the others.
func (c *Collector) removeOld(ctx context.Context, unused []*record, began time.Time) ([]*record, error) {
	now := c.clock.Now()
	if c.policy.MaxAge == 0 || now.Sub(began) <= c.policy.MaxAge {
		return unused, nil
	}
	var kept []*record
	for _, r := range unused {
		last := r.used
		if last.IsZero() {
			last = r.detected
		}
		if now.Sub(last) <= c.policy.MaxAge {
			kept = append(kept, r)
			continue
		}
		if err := c.remove(ctx, r); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// free removes images until so many bytes are free, or none is left that may go. One that cannot be
// removed does not keep the others.
func (c *Collector) free(ctx context.Context, unused []*record, bytes uint64) (freed uint64, err error) {
	now := c.clock.Now()
	var errs []error
	for _, r := range unused {
		if freed >= bytes || ctx.Err() != nil {
			break
		}
		if now.Sub(r.detected) < c.policy.MinAge {
			continue // it may have been pulled for a pod that is about to come
		}
		if err := c.remove(ctx, r); err != nil {
			errs = append(errs, err)
			continue
		}
		freed += r.image.Size
	}
	return freed, errors.Join(errs...)
}

func (c *Collector) remove(ctx context.Context, r *record) error {
	klog.FromContext(ctx).Info("Removing an image that nothing uses", "imageID", r.image.Id, "tags", r.image.RepoTags, "bytes", r.image.Size)
	if err := c.runtime.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: r.image.Id}); err != nil {
		return fmt.Errorf("remove image %s: %w", r.image.Id, err)
	}
	delete(c.records, r.image.Id)
	return nil
}
