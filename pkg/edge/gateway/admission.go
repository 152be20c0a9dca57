package gateway

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/identity"
)

const (
	lookupInterval = 50 * time.Millisecond
	// freshCertificate is how old a certificate or a token may be for the cache to be given time.
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
	case ed.Status.Certificate == nil:
		return nil, refuse(refusedForgotten, codes.PermissionDenied,
			"aranya has no record that EdgeDevice %s has enrolled, perhaps because it was restored from a backup that was made before. %s", device, enrolAnew)
	case ed.Status.Certificate.PublicKeySHA256 != keyHash:
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

// tellRefused tells why a device was not let in: also those who do not look for it if its identity is no good any
// more, but not each time that it tries for the same reason.
func (g *Gateway) tellRefused(info *peerInfo, c *credential, err error) {
	address, reason, verbosity := remoteAddress(info.conn), status.Convert(err).Message(), 2
	if status.Code(err) == codes.PermissionDenied && g.refusals.allow(c.keyHash+" "+reason) {
		verbosity = 0
		if g.config.Refused != nil {
			g.config.Refused(c.device, address, reason)
		}
	}
	g.logger.V(verbosity).Info("Refused a device", "edgeDevice", klog.KRef(c.device.Namespace, c.device.Name), "remote", address, "reason", reason)
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

// errTokenRefused is all that somebody is told whose token is no good: who guesses learns nothing of which
// EdgeDevices there are.
var errTokenRefused = status.Error(codes.Unauthenticated, "the enrolment token is unknown, expired or used up: "+
	"create another one with \"kubectl edge token\"")

// enrolment is who wants to enrol, by a token that is genuine.
type enrolment struct {
	device Device
	issued time.Time // when the token was issued
}

// enrollable checks a token and returns who it is of, or a gRPC status. A token does not tell the UID that it is
// for: it is genuine if it was made for the EdgeDevice of that name which is there now. One that was issued
// lately may be ahead of the cache.
func (g *Gateway) enrollable(ctx context.Context, token identity.Token, keyHash string) (*enrolment, error) {
	data, issued, ok := g.claims(token)
	if !ok {
		return nil, errTokenRefused
	}
	genuine := func(ed *v1alpha1.EdgeDevice) bool { return g.config.Authority.tokens.verify(data, DeviceOf(ed)) }
	ed, err := g.config.Devices.Get(token.Namespace, token.Name)
	unknown := apierrors.IsNotFound(err) || err == nil && !genuine(ed)
	if unknown && time.Since(issued) < clockSkew+freshCertificate {
		ed, err = g.config.Devices.Stored(ctx, token.Namespace, token.Name)
		unknown = apierrors.IsNotFound(err) || err == nil && !genuine(ed)
	}
	switch {
	case unknown:
		return nil, errTokenRefused
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "EdgeDevice %s/%s cannot be looked up: %v", token.Namespace, token.Name, err)
	case ed.DeletionTimestamp != nil:
		return nil, status.Errorf(codes.Unauthenticated, "EdgeDevice %s, which the token is for, is being deleted", DeviceOf(ed))
	}
	// What counts is what is stored by then. This saves a signature.
	if _, err := Certified(ed, DeviceOf(ed), v1alpha1.CertificateStatus{PublicKeySHA256: keyHash}, issued); err != nil {
		return nil, errTokenRefused
	}
	return &enrolment{device: DeviceOf(ed), issued: issued}, nil
}

// claims returns what a token says of itself, and whether it may be good.
func (g *Gateway) claims(token identity.Token) (data [identity.TokenBytes]byte, issued time.Time, ok bool) {
	data, err := token.Bytes()
	if err != nil || token.Name == "" || token.CAHash != g.config.Authority.hash {
		return data, time.Time{}, false
	}
	issued, life := claimsOf(data)
	now := time.Now()
	return data, issued, !issued.After(now.Add(clockSkew)) && now.Before(issued.Add(life))
}

// knows says whether a token was made for an EdgeDevice in the cache, which is all that it takes to find out.
func (g *Gateway) knows(token identity.Token) bool {
	data, _, ok := g.claims(token)
	if !ok {
		return false
	}
	ed, err := g.config.Devices.Get(token.Namespace, token.Name)
	return err == nil && g.config.Authority.tokens.verify(data, DeviceOf(ed))
}

// DeviceOf returns the device that an EdgeDevice stands for.
func DeviceOf(ed *v1alpha1.EdgeDevice) Device {
	return Device{Namespace: ed.Namespace, Name: ed.Name, UID: ed.UID}
}
