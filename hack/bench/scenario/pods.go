package scenario

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/measure"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
)

const (
	// podsConfig is a ConfigMap that all pods use.
	podsConfig = "pods"
	// configChanges is how often it is changed.
	configChanges, configSmokeChanges = 10, 2
	// churnWorkers is how many pods are replaced at a time, and churnShare which part of all is.
	churnWorkers, churnShare = 5, 10
)

var pods = harness.Scenario{
	Name: "pods",
	Doc: "1 and then 10 pods on each of N devices: created until Running, some of them replaced all the time, and a ConfigMap that all " +
		"use changed until all have it",
	N:       200,
	SmokeN:  3,
	Cluster: oneDevice,
	Run:     runPods,
}

func runPods(ctx context.Context, r *harness.Run) error {
	d, nodes, err := startDevices(ctx, r, r.N, r.N)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // the devices go with their files, whatever they say
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: podsConfig}, Data: map[string]string{"key": "0"}}
	if _, err := r.Kube.CoreV1().ConfigMaps(local.Namespace).Create(ctx, config, metav1.CreateOptions{}); err != nil {
		return err
	}
	watch, err := watchPods(ctx, r)
	if err != nil {
		return err
	}
	for _, each := range []int{1, 10} {
		if err := (&podBench{devices: d, watch: watch, each: each}).run(ctx); err != nil {
			return fmt.Errorf("%d pods per device: %w", each, err)
		}
	}
	return errors.Join(r.Kube.CoreV1().ConfigMaps(local.Namespace).Delete(ctx, podsConfig, metav1.DeleteOptions{}), d.deleteAll(ctx, nodes))
}

// podBench has some pods on each device.
type podBench struct {
	*devices
	watch   *podWatch
	each    int
	version int // of the ConfigMap
}

func (b *podBench) count() int { return b.each * len(b.names) }

// what is said of a figure.
func (b *podBench) what(figure string) string {
	return fmt.Sprintf("%s, %d per device", figure, b.each)
}

// pod is bound already: the pace of the scheduler is not aranya's.
func (b *podBench) pod(i int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: b.podName(i)},
		Spec: corev1.PodSpec{
			NodeName: b.names[i%len(b.names)],
			Containers: []corev1.Container{{
				Name: "main", Image: local.SampleImage, ImagePullPolicy: corev1.PullIfNotPresent,
				VolumeMounts: []corev1.VolumeMount{{Name: podsConfig, MountPath: "/config"}},
			}},
			Volumes: []corev1.Volume{{Name: podsConfig, VolumeSource: corev1.VolumeSource{
				ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: podsConfig}},
			}}},
			TerminationGracePeriodSeconds: ptr.To[int64](1),
		},
	}
}

func (b *podBench) podName(i int) string {
	return fmt.Sprintf("%sx%d-%d", simulatedPrefix, b.each, i)
}

func (b *podBench) run(ctx context.Context) error {
	var running measure.Samples
	begin := time.Now()
	if err := b.onAll(ctx, harness.Workers, b.count(), func(ctx context.Context, i int) error { return b.create(ctx, i, &running) }); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	took := time.Since(begin)
	b.r.Log("%d pods Running in %s", b.count(), took.Round(time.Millisecond))
	b.r.Figure(report.Figure{Name: b.what("pods created and Running"), Value: harness.Rate(b.count(), took), Unit: "1/s", Note: fmt.Sprintf("%d at a time", harness.Workers)})
	b.r.Latency(b.what("created until Running"), &running, nil, nil)
	if err := b.churn(ctx); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	if err := b.change(ctx); err != nil {
		return fmt.Errorf("change the ConfigMap: %w", err)
	}
	begin = time.Now()
	if err := b.onAll(ctx, harness.Workers, b.count(), func(ctx context.Context, i int) error { return b.remove(ctx, i, &measure.Samples{}) }); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	b.r.Figure(report.Figure{Name: b.what("pods deleted and gone"), Value: harness.Rate(b.count(), time.Since(begin)), Unit: "1/s"})
	return nil
}

func (b *podBench) onAll(ctx context.Context, workers, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	_, err := harness.Parallel(ctx, n, workers, do)
	return err
}

// create creates a pod and waits until it is Running.
func (b *podBench) create(ctx context.Context, i int, samples *measure.Samples) error {
	return samples.Time(func() error {
		if _, err := b.r.Kube.CoreV1().Pods(local.Namespace).Create(ctx, b.pod(i), metav1.CreateOptions{}); err != nil {
			return err
		}
		return b.watch.wait(ctx, b.podName(i), podRunning)
	})
}

// remove deletes a pod and waits until it is gone.
func (b *podBench) remove(ctx context.Context, i int, samples *measure.Samples) error {
	return samples.Time(func() error {
		if err := b.r.Kube.CoreV1().Pods(local.Namespace).Delete(ctx, b.podName(i), metav1.DeleteOptions{}); err != nil {
			return err
		}
		return b.watch.wait(ctx, b.podName(i), podGone)
	})
}

// churn replaces some of the pods, a few at a time: what a user sees who is not alone, with devices that are
// not swamped.
func (b *podBench) churn(ctx context.Context) error {
	var gone, running measure.Samples
	n := max(1, b.count()/churnShare)
	begin := time.Now()
	if err := b.onAll(ctx, churnWorkers, n, func(ctx context.Context, i int) error {
		i = i * churnShare % b.count()
		if err := b.remove(ctx, i, &gone); err != nil {
			return err
		}
		return b.create(ctx, i, &running)
	}); err != nil {
		return err
	}
	b.r.Figure(report.Figure{Name: b.what("pods replaced"), Value: harness.Rate(n, time.Since(begin)), Unit: "1/s", Note: fmt.Sprintf("%d at a time", churnWorkers)})
	b.r.Latency(b.what("deleted until gone"), &gone, nil, nil)
	b.r.Latency(b.what("created until Running while others are replaced"), &running, nil, nil)
	return nil
}

// change changes the ConfigMap and waits until the last device has it in the volume of its last pod.
func (b *podBench) change(ctx context.Context) error {
	files, err := b.files()
	if err != nil {
		return err
	}
	changes := configChanges
	if b.r.Smoke {
		changes = configSmokeChanges
	}
	var all measure.Samples
	for range changes {
		b.version++
		value := fmt.Sprintf("%d-%d", b.each, b.version)
		config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: podsConfig}, Data: map[string]string{"key": value}}
		if err := all.Time(func() error {
			if _, err := b.r.Kube.CoreV1().ConfigMaps(local.Namespace).Update(ctx, config, metav1.UpdateOptions{}); err != nil {
				return err
			}
			for _, path := range files {
				if err := waitFile(ctx, filepath.Dir(path), value); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	b.r.Figure(report.Figure{Name: b.what("ConfigMap changed until the last pod has it p50"), Value: ms(all.Median()), Unit: "ms",
		Note: fmt.Sprintf("%d changes, the slowest %.0f ms; %d pods", all.Len(), ms(all.Quantile(1)), b.count())})
	return nil
}

// files are those of the ConfigMap, of all pods.
func (b *podBench) files() ([]string, error) {
	var files []string
	for _, name := range b.names {
		found, err := filepath.Glob(filepath.Join(b.StateDir(name), "pods", "pods", "*", "volumes", "kubernetes.io~configmap", podsConfig, "key"))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	if len(files) != b.count() {
		return nil, fmt.Errorf("%d files of the ConfigMap are on the devices of %d pods", len(files), b.count())
	}
	return files, nil
}
