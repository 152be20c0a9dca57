package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// etcdProbeTimeout is how long one attempt to read from etcd may take.
const etcdProbeTimeout = 5 * time.Second

// awaitEtcd waits until the etcd of --etcd-servers answers. The generic library would wait for less time,
// whatever ctx does, and not say why there is no connection.
func (o *Options) awaitEtcd(ctx context.Context) error {
	client, err := o.etcdClient()
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	servers := strings.Join(client.Endpoints(), ",")
	return retry(ctx, "the etcd of --etcd-servers="+servers, func(ctx context.Context) error {
		return probeEtcd(ctx, client, path.Join("/", o.Recommended.Etcd.StorageConfig.Prefix, "health"))
	})
}

func (o *Options) etcdClient() (*clientv3.Client, error) {
	t := o.Recommended.Etcd.StorageConfig.Transport
	var config *tls.Config
	if t.CertFile != "" || t.TrustedCAFile != "" {
		var err error
		info := transport.TLSInfo{CertFile: t.CertFile, KeyFile: t.KeyFile, TrustedCAFile: t.TrustedCAFile}
		if config, err = info.ClientConfig(); err != nil {
			return nil, fmt.Errorf("use --etcd-cafile=%s, --etcd-certfile=%s and --etcd-keyfile=%s: %w", t.TrustedCAFile, t.CertFile, t.KeyFile, err)
		}
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:       t.ServerList,
		TLS:             config,
		Logger:          zap.NewNop(), // of attempts that are told anyway
		MaxUnaryRetries: 1,
		DialOptions:     []grpc.DialOption{grpc.WithChainUnaryInterceptor(failFast)},
	})
	if err != nil {
		return nil, fmt.Errorf("make a client for --etcd-servers: %w", err)
	}
	return client, nil
}

// failFast has calls end as soon as no server can be reached, with the reason. etcd's client would wait.
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// probeEtcd reads what is not there, as the health check of the generic library does.
func probeEtcd(ctx context.Context, client *clientv3.Client, key string) error {
	ctx, cancel := context.WithTimeout(ctx, etcdProbeTimeout)
	defer cancel()
	_, err := client.Get(ctx, key)
	if s, ok := status.FromError(err); ok && err != nil {
		return errors.New(s.Message())
	}
	return err
}
