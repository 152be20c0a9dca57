package apiserver

import (
	"context"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"arhat.dev/aranya/pkg/apiserver/etcd"
)

// Whoever has set up the connection to an etcd has to learn what is wrong with it.
func TestProbeEtcdTellsWhy(t *testing.T) {
	database, _ := startDatabase(t)
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want string // in the error; none is expected if empty
	}{
		"it answers":          {args: []string{"--etcd-servers=" + database.Endpoint()}},
		"nobody listens":      {args: []string{"--etcd-servers=http://" + closed.Addr().String()}, want: "connection refused"},
		"one of two listens":  {args: []string{"--etcd-servers=" + database.Endpoint() + ",http://" + closed.Addr().String()}},
		"a CA is not trusted": {args: []string{"--etcd-servers=" + server.URL}, want: "certificate signed by unknown authority"},
		"no such file":        {args: []string{"--etcd-servers=" + server.URL, "--etcd-cafile=/none"}, want: "--etcd-cafile=/none"},
		"not an etcd":         {args: []string{"--etcd-servers=" + server.URL, "--etcd-cafile=" + ca}, want: "404"},
	} {
		t.Run(name, func(t *testing.T) {
			client, err := parse(t, test.args...).etcdClient()
			if err == nil {
				err = probeEtcd(t.Context(), client, "/health")
				_ = client.Close()
			}
			if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// An etcd may start after aranya does, and a server that waits for it can be stopped.
func TestAwaitEtcd(t *testing.T) {
	dir := etcdDir(t)
	o := parse(t, "--etcd-servers=unix://"+filepath.Join(dir, "client.sock"))
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := o.awaitEtcd(stopped); err == nil || !strings.Contains(err.Error(), "the etcd of --etcd-servers=unix://"+dir) {
		t.Errorf("of a server that is stopped: %v", err)
	}
	result := make(chan error, 1)
	go func() { result <- o.awaitEtcd(t.Context()) }()
	database, err := etcd.StartEmbedded(t.Context(), etcd.EmbeddedConfig{Dir: dir, QuotaBytes: defaultQuotaBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(database.Stop)
	if err := <-result; err != nil {
		t.Error(err)
	}
}
