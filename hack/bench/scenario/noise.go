package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"arhat.dev/aranya/hack/bench/harness"
	"arhat.dev/aranya/hack/bench/report"
	"arhat.dev/aranya/hack/cluster/local"
)

const (
	noiseDevices, noiseSmokeDevices = 100, 5
	noisePrefix                     = "noise-"
)

var noise = harness.Scenario{
	Name: "noise",
	Doc: "N Services relabelled in the namespace of 100 devices, each with a pod that has the variables of Services: " +
		"what of that goes to the devices",
	N:       2000,
	SmokeN:  50,
	Cluster: oneDevice,
	Run:     runNoise,
}

func runNoise(ctx context.Context, r *harness.Run) (err error) {
	count := noiseDevices
	if r.Smoke {
		count = noiseSmokeDevices
	}
	d, nodes, err := startDevices(ctx, r, count, count)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // the devices go with their files, whatever they say
	if err := eachService(ctx, r, createService); err != nil {
		return fmt.Errorf("create Services: %w", err)
	}
	if err := runOnAll(ctx, d); err != nil {
		return err
	}
	if err := sleep(ctx, restTime); err != nil {
		return err
	}

	_, before := d.Bytes()
	if before == 0 {
		return errors.New("the bytes to the devices are not counted")
	}
	begin := time.Now()
	if err := eachService(ctx, r, relabelService); err != nil {
		return fmt.Errorf("relabel Services: %w", err)
	}
	if err := sleep(ctx, restTime); err != nil { // for whatever may follow
		return err
	}
	took := time.Since(begin)
	_, after := d.Bytes()
	if err := sleep(ctx, took); err != nil {
		return err
	}
	_, quiet := d.Bytes()
	busy, idle := float64(after-before), float64(quiet-after)
	r.Figure(report.Figure{Name: "to a device while Services changed", Value: busy / float64(count), Unit: "B", Note: took.Round(time.Second).String()})
	r.Figure(report.Figure{Name: "to a device in as much time without", Value: idle / float64(count), Unit: "B", Note: "heartbeats"})
	r.Figure(report.Figure{Name: "to a device for each Service that changed", Value: max(0, busy-idle) / float64(count) / float64(r.N), Unit: "B",
		Target: report.AtMost(0.5), Note: "what is beyond heartbeats"})
	return errors.Join(eachService(ctx, r, deleteService), d.deleteAll(ctx, nodes))
}

func eachService(ctx context.Context, r *harness.Run, do func(ctx context.Context, r *harness.Run, name string) error) error {
	_, err := harness.Parallel(ctx, r.N, harness.Workers, func(ctx context.Context, i int) error {
		return do(ctx, r, fmt.Sprintf("%s%d", noisePrefix, i))
	})
	return err
}

func createService(ctx context.Context, r *harness.Run, name string) error {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"round": "0"}},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
	_, err := r.Kube.CoreV1().Services(local.Namespace).Create(ctx, service, metav1.CreateOptions{})
	return err
}

func relabelService(ctx context.Context, r *harness.Run, name string) error {
	_, err := r.Kube.CoreV1().Services(local.Namespace).Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"labels":{"round":"1"}}}`), metav1.PatchOptions{})
	return err
}

func deleteService(ctx context.Context, r *harness.Run, name string) error {
	return r.Kube.CoreV1().Services(local.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
}

// runOnAll runs a pod on each device and waits until it runs.
func runOnAll(ctx context.Context, d *devices) error {
	pods := d.r.Kube.CoreV1().Pods(local.Namespace)
	if _, err := harness.Parallel(ctx, len(d.names), harness.Workers, func(ctx context.Context, i int) error {
		_, err := pods.Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: noisePrefix + d.names[i]},
			Spec: corev1.PodSpec{
				NodeName:   d.names[i],
				Containers: []corev1.Container{{Name: "main", Image: local.SampleImage, ImagePullPolicy: corev1.PullIfNotPresent}},
			},
		}, metav1.CreateOptions{})
		return err
	}); err != nil {
		return fmt.Errorf("create pods: %w", err)
	}
	return poll(ctx, func(ctx context.Context) error {
		list, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running"})
		if err != nil {
			return err
		}
		running := 0
		for i := range list.Items {
			if strings.HasPrefix(list.Items[i].Spec.NodeName, simulatedPrefix) {
				running++
			}
		}
		if running < len(d.names) {
			return fmt.Errorf("%d of %d pods run", running, len(d.names))
		}
		return nil
	})
}
