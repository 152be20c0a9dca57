package etcd

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/klog/v2"
)

const (
	dialTimeout = 20 * time.Second
	// keepAlive* find a dead etcd behind a connection that looks alive.
	keepAliveTime    = 30 * time.Second
	keepAliveTimeout = 10 * time.Second
	maxCallSize      = 16 << 20
)

// NewClient makes a client for what aranya keeps in etcd beside API objects, from the same options as
// the API objects' storage. It does not wait for a connection. The caller closes it.
func NewClient(ctx context.Context, cfg storagebackend.TransportConfig) (*clientv3.Client, error) {
	config := clientv3.Config{
		// The client lives until it is closed: after the requests that still need it at the end.
		Context:              context.WithoutCancel(ctx),
		Endpoints:            cfg.ServerList,
		DialTimeout:          dialTimeout,
		DialKeepAliveTime:    keepAliveTime,
		DialKeepAliveTimeout: keepAliveTimeout,
		MaxCallSendMsgSize:   maxCallSize,
		DialOptions:          []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxCallSize))},
		Logger:               newZapLogger(klog.FromContext(ctx).WithName("etcd-client"), new(atomic.Bool)),
	}
	info := transport.TLSInfo{CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, TrustedCAFile: cfg.TrustedCAFile}
	if info.CertFile != "" || info.TrustedCAFile != "" {
		tlsConfig, err := info.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("load the TLS files for etcd: %w", err)
		}
		config.TLS = tlsConfig
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("make a client for etcd at %v: %w", cfg.ServerList, err)
	}
	return client, nil
}
