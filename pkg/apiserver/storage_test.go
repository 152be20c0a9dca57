package apiserver

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/apiserver/etcd"
)

// startDatabase starts an etcd that a server can share, and a client of it.
func startDatabase(t *testing.T) (*etcd.Embedded, *clientv3.Client) {
	t.Helper()
	database, err := etcd.StartEmbedded(t.Context(), etcd.EmbeddedConfig{Dir: etcdDir(t), QuotaBytes: defaultQuotaBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(database.Stop)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{database.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return database, client
}

// TestStorageMediaType goes from storage in JSON, which is all that older versions know, to protobuf and back.
func TestStorageMediaType(t *testing.T) {
	database, client := startDatabase(t)
	cluster, kubeconfig := newMainCluster(t)

	var last *v1alpha1.EdgeDevice
	var err error
	for _, step := range []struct {
		args []string
		want string // what is stored begins with it
	}{
		{[]string{"--storage-media-type=" + runtime.ContentTypeJSON}, "{"},
		{nil, "k8s\x00"},
		{[]string{"--storage-media-type=" + runtime.ContentTypeJSON}, "{"},
	} {
		s := serve(t, cluster, kubeconfig, "", append(step.args, "--etcd-servers="+database.Endpoint())...)
		devices := s.client(tokenUser).AranyaV1alpha1().EdgeDevices("edge")
		if last == nil {
			ed := &v1alpha1.EdgeDevice{ObjectMeta: objectMeta("camera-1"), Spec: v1alpha1.EdgeDeviceSpec{Node: v1alpha1.NodeSpec{Disabled: true}}}
			if last, err = devices.Create(t.Context(), ed, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		found, err := devices.Get(t.Context(), "camera-1", metav1.GetOptions{})
		if err != nil {
			t.Fatalf("with %q what was stored before cannot be read: %v", step.args, err)
		}
		if diff := cmp.Diff(last.Spec, found.Spec); diff != "" || found.UID != last.UID {
			t.Errorf("with %q it is another EdgeDevice: %s", step.args, diff)
		}
		// A change of nothing stores it in the format of now.
		if last, err = devices.Patch(t.Context(), "camera-1", types.MergePatchType, []byte("{}"), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		if last.Generation != found.Generation {
			t.Errorf("generation %d became %d", found.Generation, last.Generation)
		}
		if data := stored(t, client, "camera-1"); !bytes.HasPrefix(data, []byte(step.want)) {
			t.Errorf("with %q this is stored: %q", step.args, data)
		}
		if err := s.shutdown(); err != nil {
			t.Errorf("Run returned %v", err)
		}
	}
}

// TestTokensAreNotStored would fail if anything were written to etcd for an enrolment token.
func TestTokensAreNotStored(t *testing.T) {
	database, client := startDatabase(t)
	cluster, kubeconfig := newMainCluster(t)
	s := serve(t, cluster, kubeconfig, "", "--etcd-servers="+database.Endpoint())
	devices := s.client(tokenUser).AranyaV1alpha1().EdgeDevices("edge")
	ed := &v1alpha1.EdgeDevice{ObjectMeta: objectMeta("camera-1"), Spec: v1alpha1.EdgeDeviceSpec{Node: v1alpha1.NodeSpec{Disabled: true}}}
	if _, err := devices.Create(t.Context(), ed, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// What a controller may write meanwhile is not looked at: the EdgeDevice itself.
	others := func() []string {
		response, err := client.Get(t.Context(), "/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, kv := range response.Kvs {
			if !strings.HasSuffix(string(kv.Key), "/edgedevices/edge/camera-1") {
				found = append(found, fmt.Sprintf("%s %d", kv.Key, kv.ModRevision))
			}
		}
		return found
	}
	before := others()
	token, err := devices.CreateToken(t.Context(), "camera-1", &v1alpha1.EnrollmentToken{}, metav1.CreateOptions{})
	if err != nil || token.Status.Token == "" {
		t.Fatalf("%+v, error %v", token, err)
	}
	if diff := cmp.Diff(before, others()); diff != "" {
		t.Errorf("a token changed what is stored: %s", diff)
	}
	leases, err := client.Leases(t.Context())
	if err != nil || len(leases.Leases) != 0 {
		t.Errorf("leases: %+v, error %v", leases, err)
	}
	if err := s.shutdown(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// stored returns the one thing that is stored under a name.
func stored(t *testing.T, client *clientv3.Client, name string) []byte {
	t.Helper()
	response, err := client.Get(t.Context(), defaultEtcdPrefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range response.Kvs {
		if strings.HasSuffix(string(kv.Key), "/edgedevices/edge/"+name) {
			return kv.Value
		}
	}
	t.Fatalf("no %s in %v", name, response.Kvs)
	return nil
}
