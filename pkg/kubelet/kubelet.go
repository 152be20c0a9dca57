package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/streaming"
)

const (
	readHeaderTimeout = 32 * time.Second
	idleTimeout       = 90 * time.Second
	shutdownTimeout   = 10 * time.Second
	maxHeader         = 64 << 10
)

// Config of the kubelet endpoint. All fields are needed.
type Config struct {
	// Listener of the endpoint, without TLS. Run closes it.
	Listener net.Listener
	// GetCertificate returns the serving certificate, which names the address that is in the Nodes.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// Authenticator identifies clients by certificate or bearer token.
	Authenticator authenticator.Request
	// Authorizer is asked about nodes/<subresource>.
	Authorizer authorizer.UnconditionalAuthorizer

	Sessions gateway.Sessions
	// Pods of the cluster.
	Pods corelisters.PodLister
	// PodsOnNode returns the pods that are bound to a Node, without going through all of the cluster.
	PodsOnNode func(nodeName string) []*corev1.Pod
	// DeviceForNode returns the device that a Node stands for.
	DeviceForNode func(nodeName string) (namespace, name string, ok bool)
	// LastSeen says when a device was last connected, zero if that is not known.
	LastSeen func(namespace, name string) time.Time
	// OnlyNode returns the Node of a cluster that has no other of aranya's; empty in all other clusters.
	OnlyNode func() string
	// Streaming serves the upgraded connections. Its Shutdown is the business of its owner.
	Streaming *streaming.Server
}

// Kubelet is the endpoint.
type Kubelet struct {
	config Config
}

// New returns an endpoint that serves nothing until Run.
func New(config Config) (*Kubelet, error) {
	switch {
	case config.Listener == nil, config.GetCertificate == nil:
		return nil, errors.New("the kubelet endpoint needs Listener and GetCertificate")
	case config.Authenticator == nil, config.Authorizer == nil:
		return nil, errors.New("the kubelet endpoint needs Authenticator and Authorizer")
	case config.Pods == nil, config.PodsOnNode == nil:
		return nil, errors.New("the kubelet endpoint needs Pods and PodsOnNode")
	case config.Sessions == nil, config.DeviceForNode == nil, config.LastSeen == nil, config.OnlyNode == nil, config.Streaming == nil:
		return nil, errors.New("the kubelet endpoint needs Sessions, DeviceForNode, LastSeen, OnlyNode and Streaming")
	}
	return &Kubelet{config: config}, nil
}

// errShutdown is the cause of the end of requests that are served when Run is told to stop.
var errShutdown = errors.New("the server is shutting down")

// Run serves until ctx ends, then ends what is being served, and returns. The error says why it could
// not serve; it is nil after ctx has ended.
func (k *Kubelet) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx)
	// Requests outlive ctx by a moment: they end with a reason of their own.
	requests, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(errShutdown)
	server := &http.Server{
		Handler:           k,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          klog.NewStandardLogger("INFO"),
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: k.config.GetCertificate,
			// The authenticator verifies them.
			ClientAuth: tls.RequestClientCert,
		},
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	served := make(chan struct{})
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-served:
			return
		}
		cancel(errShutdown)
		grace, stop := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer stop()
		if err := server.Shutdown(grace); err != nil {
			logger.Error(err, "Could not end all requests in time")
			server.Close()
		}
	})
	logger.Info("Serving the kubelet endpoint", "address", k.config.Listener.Addr().String())
	err := server.ServeTLS(k.config.Listener, "", "")
	close(served)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve the kubelet endpoint: %w", err)
}
