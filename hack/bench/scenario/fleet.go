package scenario

import (
	"context"
	"fmt"
	"io"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

const (
	fleetPrefix = "fleet-"
	// sites is over how many sites the EdgeDevices are spread: a label selects one of them.
	sites = 100
	// pageSize is kubectl's.
	pageSize = 500
	// listRounds is how often each list is read, and watchRounds how many changes are watched.
	listRounds, watchRounds = 7, 200
	// asTable is what kubectl get asks for.
	asTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
)

var fleetScenario = harness.Scenario{
	Name: "fleet",
	Doc: "LIST and WATCH of N EdgeDevices through kube-apiserver: whole, in pages, by label and by field; a list is over when its " +
		"last byte is there",
	N:       10000,
	SmokeN:  200,
	Cluster: oneDevice,
	Run:     runFleet,
}

func runFleet(ctx context.Context, r *harness.Run) error {
	stop, err := r.Watch(ctx, local.ServiceAranya, local.ServiceAPIServer)
	if err != nil {
		return err
	}
	defer stop()
	direct, err := newSessions(r.Direct())
	if err != nil {
		return err
	}
	before, err := liveMemory(ctx, direct)
	if err != nil {
		return err
	}
	took, err := harness.Parallel(ctx, r.N, harness.Workers, func(ctx context.Context, i int) error {
		_, err := r.Edge.AranyaV1alpha1().EdgeDevices(local.Namespace).Create(ctx, fleetMember(i), metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("create EdgeDevices: %w", err)
	}
	r.Figure(report.Figure{Name: "EdgeDevices created, without a device", Value: harness.Rate(r.N, took), Unit: "1/s"})
	after, err := liveMemory(ctx, direct)
	if err != nil {
		return err
	}
	r.Figure(report.Figure{Name: "memory of aranya per EdgeDevice", Value: (after.objects + after.stacks - before.objects - before.stacks) / 1024 / float64(r.N), Unit: "KiB",
		Note: "objects on the heap and stacks: what is stored and cached"})

	if err := lists(ctx, r); err != nil {
		return err
	}
	if err := watches(ctx, r); err != nil {
		return err
	}
	took, err = harness.Parallel(ctx, r.N, harness.Workers, func(ctx context.Context, i int) error {
		return r.Edge.AranyaV1alpha1().EdgeDevices(local.Namespace).Delete(ctx, fleetMember(i).Name, metav1.DeleteOptions{})
	})
	r.Figure(report.Figure{Name: "EdgeDevices deleted", Value: harness.Rate(r.N, took), Unit: "1/s"})
	return err
}

func fleetMember(i int) *v1alpha1.EdgeDevice {
	return &v1alpha1.EdgeDevice{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s%d", fleetPrefix, i), Labels: map[string]string{"site": fmt.Sprintf("site-%d", i%sites), "fleet": "bench"},
		},
		Spec: v1alpha1.EdgeDeviceSpec{Node: v1alpha1.NodeSpec{Disabled: true}},
	}
}

// lists reads the EdgeDevices in all ways.
func lists(ctx context.Context, r *harness.Run) error {
	for _, l := range []struct {
		name, accept string
		options      metav1.ListOptions
		paged        bool
		target       float64
	}{
		{"LIST, consistent", "", metav1.ListOptions{}, false, 1000},
		{"LIST, from the cache", "", metav1.ListOptions{ResourceVersion: "0"}, false, 1000},
		{"LIST in protobuf", runtime.ContentTypeProtobuf, metav1.ListOptions{}, false, 1000},
		{fmt.Sprintf("LIST in pages of %d, all pages", pageSize), "", metav1.ListOptions{Limit: pageSize}, true, 0},
		{"LIST as a table", asTable, metav1.ListOptions{}, false, 0},
		{"LIST by label, 1 of 100 sites", "", metav1.ListOptions{LabelSelector: "site=site-7"}, false, 300},
		{"LIST by field, the devices online", "", metav1.ListOptions{FieldSelector: "status.phase=Online"}, false, 300},
		{"LIST by name", "", metav1.ListOptions{FieldSelector: "metadata.name=" + fleetPrefix + "7"}, false, 300},
	} {
		var samples measure.Samples
		var size int64
		for range listRounds {
			if err := samples.Time(func() (err error) {
				size, err = list(ctx, r, l.accept, l.options, l.paged)
				return err
			}); err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
		}
		f := report.Figure{Name: l.name + " p50", Value: ms(samples.Median()), Unit: "ms",
			Note: fmt.Sprintf("%d samples, the slowest %.0f ms", samples.Len(), ms(samples.Quantile(1)))}
		if !l.paged {
			f.Note = fmt.Sprintf("%.0f KiB; %s", float64(size)/1024, f.Note)
		}
		if l.target > 0 {
			f.Target = report.AtMost(l.target)
		}
		r.Figure(f)
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// list reads one list to its last byte and returns its size, if it is not read in pages.
func list(ctx context.Context, r *harness.Run, accept string, options metav1.ListOptions, paged bool) (int64, error) {
	if paged {
		return 0, pages(ctx, r, options)
	}
	request := r.Edge.AranyaV1alpha1().RESTClient().Get().Namespace(local.Namespace).Resource("edgedevices")
	if accept != "" {
		request.SetHeader("Accept", accept)
	}
	for name, value := range map[string]string{"labelSelector": options.LabelSelector, "fieldSelector": options.FieldSelector, "resourceVersion": options.ResourceVersion} {
		if value != "" {
			request.Param(name, value)
		}
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	return io.Copy(io.Discard, body)
}

// pages reads a list page by page. It has to look into each for the token of the next.
func pages(ctx context.Context, r *harness.Run, options metav1.ListOptions) error {
	seen := 0
	for {
		page, err := r.Edge.AranyaV1alpha1().EdgeDevices(local.Namespace).List(ctx, options)
		if err != nil {
			return err
		}
		seen += len(page.Items)
		if options.Continue = page.Continue; options.Continue == "" {
			break
		}
	}
	if seen < r.N {
		return fmt.Errorf("the pages hold %d of %d EdgeDevices", seen, r.N)
	}
	return nil
}

// watches begins a watch with all that is there, as informers do, and then watches changes.
func watches(ctx context.Context, r *harness.Run) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	begin := time.Now()
	w, err := r.Edge.AranyaV1alpha1().EdgeDevices(local.Namespace).Watch(ctx, metav1.ListOptions{
		SendInitialEvents: ptr.To(true), AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	if err != nil {
		return err
	}
	defer w.Stop()
	initial := 0
	for {
		event, err := next(ctx, w)
		if err != nil {
			return err
		}
		if event.Type == watch.Bookmark {
			break
		}
		initial++
	}
	if initial < r.N {
		return fmt.Errorf("the watch began with %d of %d EdgeDevices", initial, r.N)
	}
	r.Figure(report.Figure{Name: "WATCH until it is in sync, decoded", Value: ms(time.Since(begin)), Unit: "ms", Note: fmt.Sprintf("%d initial events", initial)})

	var samples measure.Samples
	for i := range min(watchRounds, r.N) {
		name := fleetMember(i).Name
		if err := samples.Time(func() error {
			patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"round":"%d"}}}`, i)
			if _, err := r.Edge.AranyaV1alpha1().EdgeDevices(local.Namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				return err
			}
			for {
				event, err := next(ctx, w)
				if err != nil {
					return err
				}
				ed, ok := event.Object.(*v1alpha1.EdgeDevice)
				if ok && ed.Name == name && ed.Annotations["round"] == fmt.Sprint(i) {
					return nil
				}
			}
		}); err != nil {
			return fmt.Errorf("watch a change: %w", err)
		}
	}
	r.Latency("a change until a watch has it", &samples, nil, nil)
	return nil
}

func next(ctx context.Context, w watch.Interface) (watch.Event, error) {
	select {
	case event, ok := <-w.ResultChan():
		switch {
		case !ok:
			return event, fmt.Errorf("the watch ended")
		case event.Type == watch.Error:
			return event, fmt.Errorf("the watch failed: %v", event.Object)
		}
		return event, nil
	case <-ctx.Done():
		return watch.Event{}, context.Cause(ctx)
	}
}
