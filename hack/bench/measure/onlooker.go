package measure

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	onlookerPeriod  = 100 * time.Millisecond
	onlookerTimeout = 30 * time.Second
	onlookerName    = "onlooker"
)

// Onlooker is a user who has nothing to do with the load: it changes and reads an object of its own
// all the time and notes how long kube-apiserver takes.
type Onlooker struct {
	// Writes and Reads are the latencies; Failed counts calls that ended with an error.
	Writes, Reads Samples
	Failed        int

	client kubernetes.Interface
	series *Series // of the writes, in ms
	stop   context.CancelFunc
	done   chan struct{}
}

// StartOnlooker starts looking; the series gets the latency of each write. Its object lies in the
// namespace default.
func StartOnlooker(ctx context.Context, client kubernetes.Interface, series *Series) (*Onlooker, error) {
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: onlookerName + "-"}}
	created, err := client.CoreV1().ConfigMaps(metav1.NamespaceDefault).Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create the onlooker's object: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	o := &Onlooker{client: client, series: series, stop: cancel, done: make(chan struct{})}
	go o.look(ctx, created.Name)
	return o, nil
}

// Stop ends the looking. The samples do not change any more when it returns.
func (o *Onlooker) Stop() {
	o.stop()
	<-o.done
}

func (o *Onlooker) look(ctx context.Context, name string) {
	defer close(o.done)
	client := o.client.CoreV1().ConfigMaps(metav1.NamespaceDefault)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), onlookerTimeout)
		defer cancel()
		_ = client.Delete(ctx, name, metav1.DeleteOptions{}) // the cluster goes anyway
	}()
	ticker := time.NewTicker(onlookerPeriod)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		o.call(ctx, &o.Writes, func(ctx context.Context) error {
			data, err := json.Marshal(map[string]any{"data": map[string]string{"count": fmt.Sprint(i)}})
			if err != nil {
				return err
			}
			begin := time.Now()
			_, err = client.Patch(ctx, name, types.MergePatchType, data, metav1.PatchOptions{})
			if err == nil {
				o.series.Add(float64(time.Since(begin).Microseconds()) / 1000)
			}
			return err
		})
		o.call(ctx, &o.Reads, func(ctx context.Context) error {
			_, err := client.Get(ctx, name, metav1.GetOptions{})
			return err
		})
	}
}

func (o *Onlooker) call(ctx context.Context, samples *Samples, f func(context.Context) error) {
	timed, cancel := context.WithTimeout(ctx, onlookerTimeout)
	defer cancel()
	if err := samples.Time(func() error { return f(timed) }); err != nil && ctx.Err() == nil {
		o.Failed++
	}
}
