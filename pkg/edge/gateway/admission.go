package gateway

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

const (
	lookupInterval = 50 * time.Millisecond
	// freshCertificate is how old a certificate may be for the cache to be given time.
	freshCertificate = 2 * time.Minute
	// rememberedDeletions is of how many EdgeDevices it is known that they are gone for good. Their devices
	// come back for as long as nobody stops them, many at once if many are deleted.
	rememberedDeletions = 16384
)

const enrolAnew = "To enrol it, create a token with \"kubectl edge token\" and run " +
	"\"arhat join --server HOST:PORT --token TOKEN\" on the device"

// refusal is why a device is not let in.
type refusal struct {
	reason string // for the metric
	err    error  // a gRPC status, for the person at the device
}

func refuse(reason string, code codes.Code, format string, args ...any) *refusal {
	return &refusal{reason: reason, err: status.Errorf(code, format, args...)}
}

// judge decides whether the EdgeDevice lets in the device with this identity.
func (g *Gateway) judge(device Device, keyHash string, connecting bool) (*v1alpha1.EdgeDevice, *refusal) {
	ed, err := g.config.Devices.Get(device.Namespace, device.Name)
	switch {
	case apierrors.IsNotFound(err):
		return nil, refuse(refusedGone, codes.PermissionDenied,
			"EdgeDevice %s does not exist, or was deleted: this device is not welcome any more. "+
				"If it should be, create the EdgeDevice again. %s", device, enrolAnew)
	case err != nil:
		return nil, refuse(refusedError, codes.Unavailable, "EdgeDevice %s cannot be looked up: %v", device, err)
	case ed.UID != device.UID:
		return nil, refuse(refusedUID, codes.PermissionDenied,
			"EdgeDevice %s was deleted and created again: the certificate of this device belongs to the former one. %s", device, enrolAnew)
	case ed.Status.Certificate == nil || ed.Status.Certificate.PublicKeySHA256 != keyHash:
		return nil, refuse(refusedKey, codes.PermissionDenied,
			"another enrolment as EdgeDevice %s has replaced the key of this device. If that was not you, find out who did it. %s", device, enrolAnew)
	case connecting && ed.DeletionTimestamp != nil:
		return nil, refuse(refusedDeleting, codes.PermissionDenied, "EdgeDevice %s is being deleted", device)
	}
	return ed, nil
}

// authorize lets a device in, or returns a gRPC status that says why not.
func (g *Gateway) authorize(ctx context.Context, c *credential) (*v1alpha1.EdgeDevice, error) {
	ed, no := g.judge(c.device, c.keyHash, true)
	if no != nil && g.mayLag(no, c) {
		_ = wait.PollUntilContextTimeout(ctx, lookupInterval, g.config.CacheLag, false, func(context.Context) (bool, error) {
			ed, no = g.judge(c.device, c.keyHash, true)
			return no == nil, nil
		})
	}
	if no != nil {
		refused.WithLabelValues(no.reason).Inc()
		return nil, no.err
	}
	return ed, nil
}

// mayLag says whether the directory, which may be a moment behind, could let a device in soon that was just
// enrolled.
func (g *Gateway) mayLag(no *refusal, c *credential) bool {
	if no.reason == refusedError || no.reason == refusedDeleting {
		return false
	}
	if _, deleted := g.deleted.Get(c.device.UID); deleted {
		return false
	}
	return time.Since(c.notBefore) < clockSkew+freshCertificate
}

// enrollable waits for the EdgeDevice of a token to show up in the cache.
func (g *Gateway) enrollable(ctx context.Context, device Device) error {
	var last error
	_ = wait.PollUntilContextTimeout(ctx, lookupInterval, g.config.CacheLag, true, func(context.Context) (bool, error) {
		ed, err := g.config.Devices.Get(device.Namespace, device.Name)
		switch {
		case apierrors.IsNotFound(err) || err == nil && ed.UID != device.UID:
			last = status.Errorf(codes.Unauthenticated, "EdgeDevice %s, which the token is for, does not exist any more", device)
			return false, nil
		case err != nil:
			last = status.Errorf(codes.Unavailable, "EdgeDevice %s cannot be looked up: %v", device, err)
		case ed.DeletionTimestamp != nil:
			last = status.Errorf(codes.Unauthenticated, "EdgeDevice %s, which the token is for, is being deleted", device)
		default:
			last = nil
		}
		return true, nil
	})
	if last == nil && ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return last
}
