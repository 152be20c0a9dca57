package gateway_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// connectError is what a device with this identity is told.
func (w *world) connectError(t *testing.T, dir string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	call, err := w.rawClient(t, certificateIn(t, dir)).Connect(ctx)
	if err == nil {
		_ = call.Send(&edgeapi.DeviceMessage{Message: &edgeapi.DeviceMessage_Hello{Hello: &edgeapi.Hello{}}})
		_, err = call.Recv()
	}
	return err
}

func TestDeleted(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1")
	dir := w.enrol(t, ed)
	d := w.run(t, dir)
	receive(t, d.connected, "the device to connect")
	w.handler.next(t, "started")

	// While it is being deleted the link stays: its pods have to go.
	w.directory.change("device-1", func(ed *v1alpha1.EdgeDevice) { ed.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
	w.DeviceChanged("edge", "device-1")
	if _, ok := w.Session("edge", "device-1"); !ok {
		t.Fatal("the link was cut before the EdgeDevice was gone")
	}
	w.directory.remove("device-1")
	w.DeviceChanged("edge", "device-1")
	if end := w.handler.next(t, "ended"); status.Code(end.reason) != codes.PermissionDenied {
		t.Errorf("ended: %v", end.reason)
	}
	err := receive(t, d.disconnected, "the device to be told")
	wantCode(t, err, codes.PermissionDenied, "was deleted")
	d.stop()

	wantCode(t, w.connectError(t, dir), codes.PermissionDenied, "was deleted")
	cert := certificateIn(t, dir)
	_, err = w.rawClient(t, cert).Renew(t.Context(), &edgeapi.RenewRequest{Csr: csrFor(t, cert.PrivateKey)})
	wantCode(t, err, codes.PermissionDenied, "was deleted")

	w.directory.put("device-1", "uid-2")
	wantCode(t, w.connectError(t, dir), codes.PermissionDenied, "created again")
	w.directory.put("device-1", "uid-1", func(ed *v1alpha1.EdgeDevice) { ed.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
	wantCode(t, w.connectError(t, dir), codes.PermissionDenied, "")
}

// What is known to be gone is not waited for, unlike what a cache may not know yet.
func TestDeletedForGood(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config) { c.CacheLag = 10 * deadline })
	device := w.directory.put("device-1", "uid-1")
	dir := w.enrol(t, device)
	w.directory.change("device-1", func(ed *v1alpha1.EdgeDevice) { ed.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
	wantCode(t, w.connectError(t, dir), codes.PermissionDenied, "is being deleted")
	w.directory.remove("device-1")
	w.DeviceDeleted(device)
	wantCode(t, w.connectError(t, dir), codes.PermissionDenied, "was deleted")
}

// The heartbeat notices a deletion by itself too.
func TestDeletedNoticedByHeartbeat(t *testing.T) {
	w := newWorld(t)
	d := w.run(t, w.enrol(t, w.directory.put("device-1", "uid-1", func(ed *v1alpha1.EdgeDevice) {
		ed.Spec.Connectivity.HeartbeatInterval = &metav1.Duration{Duration: 20 * time.Millisecond}
	})))
	receive(t, d.connected, "the device to connect")
	w.handler.next(t, "started")
	w.directory.remove("device-1")
	w.handler.next(t, "ended")
}

// Enrolling anew shuts the old key out, at once and for good.
func TestRekeyed(t *testing.T) {
	w := newWorld(t)
	ed := w.directory.put("device-1", "uid-1")
	old := w.enrol(t, ed)
	d := w.run(t, old)
	receive(t, d.connected, "the device to connect")
	w.handler.next(t, "started")

	fresh := w.enrol(t, ed)
	err := receive(t, d.disconnected, "the device to be told")
	wantCode(t, err, codes.PermissionDenied, "replaced the key")
	w.handler.next(t, "ended")
	d.stop()

	wantCode(t, w.connectError(t, old), codes.PermissionDenied, "replaced the key")
	cert := certificateIn(t, old)
	_, err = w.rawClient(t, cert).Renew(t.Context(), &edgeapi.RenewRequest{Csr: csrFor(t, cert.PrivateKey)})
	wantCode(t, err, codes.PermissionDenied, "replaced the key")

	d2 := w.run(t, fresh)
	receive(t, d2.connected, "the new agent to connect")
}

// An enrolment of which nothing is recorded any more is no sign of a thief.
func TestEnrolmentForgotten(t *testing.T) {
	w := newWorld(t)
	dir := w.enrol(t, w.directory.put("device-1", "uid-1"))
	w.directory.change("device-1", func(ed *v1alpha1.EdgeDevice) { ed.Status.Certificate = nil })
	wantCode(t, w.connectError(t, dir), codes.PermissionDenied, "no record that EdgeDevice edge/device-1")
}

// A cache that is a moment behind does not turn a new device away.
func TestLaggingDirectory(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config) { c.CacheLag = deadline })
	dir := w.enrol(t, w.directory.put("device-1", "uid-1"))
	full, _ := w.directory.Get("edge", "device-1")
	w.directory.change("device-1", func(ed *v1alpha1.EdgeDevice) { ed.Status.Certificate = nil })
	d := w.run(t, dir)
	go func() {
		// By now the device may or may not have asked; either way it must get in.
		w.directory.change("device-1", func(ed *v1alpha1.EdgeDevice) { ed.Status = full.Status })
	}()
	receive(t, d.connected, "the device to connect")
}

// A machine that is refused until it is enrolled anew is told of, once for each reason, however often it tries.
func TestRefusedIsToldOf(t *testing.T) {
	told := make(chan string, 16)
	w := newWorld(t, func(c *gateway.Config) {
		c.CertificateLifetime, c.RenewalGrace = -2*time.Minute, time.Minute
		c.Refused = func(d gateway.Device, address, reason string) {
			if d.String() != "edge/device-1" || !strings.HasPrefix(address, "127.0.0.1:") {
				t.Errorf("told of %s at %q", d, address)
			}
			told <- reason
		}
	})
	cert := certificateIn(t, w.enrol(t, w.directory.put("device-1", "uid-1")))
	renewals := func() {
		for range 3 {
			_, err := w.rawClient(t, cert).Renew(t.Context(), &edgeapi.RenewRequest{Csr: csrFor(t, cert.PrivateKey)})
			wantCode(t, err, codes.PermissionDenied, "")
		}
	}
	renewals()
	w.stop()
	w.config.RenewalGrace = time.Hour
	w.directory.put("device-1", "uid-2")
	w.start(t)
	renewals()
	close(told)
	var reasons []string
	for reason := range told {
		reasons = append(reasons, reason)
	}
	if len(reasons) != 2 || !strings.Contains(reasons[0], "grace period of 60s") || !strings.Contains(reasons[1], "created again") {
		t.Errorf("told %q", reasons)
	}
}
