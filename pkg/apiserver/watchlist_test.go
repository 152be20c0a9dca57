package apiserver

import (
	"context"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// TestWatchListAfterFirstStart would fail if the first start, which looks for devices before it makes a device CA,
// cut off the question for the version of etcd, which is asked once: all watch-lists would then be refused.
func TestWatchListAfterFirstStart(t *testing.T) {
	known := etcdfeature.DefaultFeatureSupportChecker
	etcdfeature.DefaultFeatureSupportChecker = etcdfeature.NewDefaultFeatureSupportChecker()
	t.Cleanup(func() { etcdfeature.DefaultFeatureSupportChecker = known })
	answer := make(chan struct{})
	endpoint := startSlowDatabase(t, answer)
	cluster, kubeconfig := newMainCluster(t)
	s := serve(t, cluster, kubeconfig, "", "--etcd-servers="+endpoint)
	close(answer)

	devices := s.client(tokenUser).AranyaV1alpha1().EdgeDevices("edge")
	if _, err := devices.Create(t.Context(), &v1alpha1.EdgeDevice{ObjectMeta: objectMeta("camera-1")}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var last watch.Event
	if err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 60*time.Second, true, func(ctx context.Context) (bool, error) {
		w, err := devices.Watch(ctx, metav1.ListOptions{
			SendInitialEvents: ptr.To(true), AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
		})
		if err != nil {
			return false, err
		}
		defer w.Stop()
		select {
		case last = <-w.ResultChan():
			return last.Type == watch.Added, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}); err != nil {
		t.Errorf("%v; the watch-list began with %+v", err, last)
	}
	if err := s.shutdown(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// startSlowDatabase starts an etcd that does not say which version it is before answer is closed.
func startSlowDatabase(t *testing.T, answer <-chan struct{}) (endpoint string) {
	t.Helper()
	c := embed.NewConfig()
	c.Dir = etcdDir(t)
	socket := url.URL{Scheme: "unix", Path: filepath.Join(filepath.Dir(c.Dir), "client.sock")}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{socket}, []url.URL{socket}
	c.ListenPeerUrls, c.AdvertisePeerUrls = nil, []url.URL{{Scheme: "unix", Path: "nobody"}}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	c.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainUnaryInterceptor(
		func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if info.FullMethod == "/etcdserverpb.Maintenance/Status" {
				select {
				case <-answer:
				case <-ctx.Done():
				}
			}
			return handler(ctx, request)
		})}
	database, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(database.Close)
	<-database.Server.ReadyNotify()
	return socket.String()
}
