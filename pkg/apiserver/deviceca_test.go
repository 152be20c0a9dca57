package apiserver

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// TestLostDeviceCA would fail if a server made a new CA while there are devices that know another one only.
func TestLostDeviceCA(t *testing.T) {
	database, client := startDatabase(t)
	cluster, kubeconfig := newMainCluster(t)
	s := serve(t, cluster, kubeconfig, "", "--etcd-servers="+database.Endpoint(), "--storage-media-type="+runtime.ContentTypeJSON)
	devices := s.client(tokenUser).AranyaV1alpha1().EdgeDevices("edge")
	for _, name := range []string{"new", "long-ago", "enrolled"} {
		ed := &v1alpha1.EdgeDevice{ObjectMeta: objectMeta(name), Spec: v1alpha1.EdgeDeviceSpec{Node: v1alpha1.NodeSpec{Disabled: true}}}
		if _, err := devices.Create(t.Context(), ed, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.shutdown(); err != nil {
		t.Fatalf("Run returned %v", err)
	}
	certify(t, client, "long-ago", time.Now().Add(-time.Hour)) // it may have renewed since, if a backup was restored, or may still
	certify(t, client, "enrolled", time.Now().Add(24*time.Hour))

	ca := cluster.secret(gateway.AuthoritySecret)
	cluster.deleteSecret(gateway.AuthoritySecret)
	s = run(t, cluster, kubeconfig, "", "--etcd-servers="+database.Endpoint())
	cluster.missed(gateway.AuthoritySecret, 3) // once before the first start
	err := s.shutdown()
	if err == nil || !strings.Contains(err.Error(), "2 enrolled devices, such as edge/enrolled,") {
		t.Errorf("Run returned %v", err)
	}
	if cluster.secret(gateway.AuthoritySecret) != nil {
		t.Error("made another CA")
	}

	cluster.addSecret(ca)
	s = serve(t, cluster, kubeconfig, "", "--etcd-servers="+database.Endpoint())
	if err := s.shutdown(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// certify stores that a device has enrolled, which no client can write.
func certify(t *testing.T, client *clientv3.Client, name string, notAfter time.Time) {
	t.Helper()
	response, err := client.Get(t.Context(), defaultEtcdPrefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range response.Kvs {
		if !strings.HasSuffix(string(kv.Key), "/edgedevices/edge/"+name) {
			continue
		}
		ed := &v1alpha1.EdgeDevice{}
		if err := json.Unmarshal(kv.Value, ed); err != nil {
			t.Fatal(err)
		}
		ed.Status.Certificate = &v1alpha1.CertificateStatus{SerialNumber: "1", NotAfter: metav1.NewTime(notAfter)}
		data, err := json.Marshal(ed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Put(t.Context(), string(kv.Key), string(data)); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no %s in %v", name, response.Kvs)
}
