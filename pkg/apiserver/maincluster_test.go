package apiserver

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/features"
	featurestesting "k8s.io/client-go/features/testing"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
)

// Tokens that the main cluster knows.
const (
	tokenUser   = "may-do-everything"
	tokenEditor = "may-do-everything-but-share"
	tokenNobody = "may-do-nothing"
)

// mainCluster is as much of a kube-apiserver as a server needs to start: it has no objects but
// Secrets and what a test brings, and knows three users. The end-to-end tests have a real one.
type mainCluster struct {
	t      *testing.T
	mapper meta.RESTMapper
	lists  map[string][]json.RawMessage // objects by kind
	lacks  string                       // a resource that it does not serve
	asked  func(*http.Request)          // if set, is told of each request

	mu      sync.Mutex
	secrets map[string]*corev1.Secret
	misses  map[string]int // how often a Secret was asked for that is not there
}

// newMainCluster returns the path of a kubeconfig file for a new one.
func newMainCluster(t *testing.T) (cluster *mainCluster, kubeconfig string) {
	t.Helper()
	featurestesting.SetFeatureDuringTest(t, features.WatchListClient, false)
	cluster = &mainCluster{
		t:       t,
		mapper:  testrestmapper.TestOnlyStaticRESTMapper(clientscheme.Scheme),
		secrets: map[string]*corev1.Secret{},
		misses:  map[string]int{},
	}
	server := httptest.NewTLSServer(cluster)
	t.Cleanup(server.Close)
	config := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c",
"clusters": [{"name": "c", "cluster": {"server": %q, "certificate-authority-data": %q}}],
"users": [{"name": "u", "user": {"token": "aranya"}}],
"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}`, server.URL,
		jsonBytes(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return cluster, kubeconfig
}

// jsonBytes encodes bytes as they are in JSON.
func jsonBytes(data []byte) string {
	encoded, _ := json.Marshal(data)
	return strings.Trim(string(encoded), `"`)
}

// ServeHTTP implements http.Handler.
func (c *mainCluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c.asked != nil {
		c.asked(r)
	}
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	resource := path[len(path)-1]
	switch {
	case r.URL.Query().Get("watch") != "":
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case resource == "tokenreviews":
		c.review(w, r, &authenticationv1.TokenReview{})
	case resource == "subjectaccessreviews":
		c.review(w, r, &authorizationv1.SubjectAccessReview{})
	case resource == "secrets" && r.Method == http.MethodPost:
		c.createSecret(w, r)
	case len(path) == 6 && path[4] == "secrets":
		c.getSecret(w, resource)
	case len(path) == 4 && path[2] == "namespaces":
		respond(w, http.StatusOK, &corev1.Namespace{ObjectMeta: objectMeta(resource)})
	case r.Method == http.MethodGet:
		c.list(w, path)
	default:
		refuse(w, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", fmt.Errorf("not for tests")))
	}
}

// review answers who a token belongs to, or whether a user may do something.
func (c *mainCluster) review(w http.ResponseWriter, r *http.Request, into runtime.Object) {
	c.read(r, into)
	switch review := into.(type) {
	case *authenticationv1.TokenReview:
		review.Status.Authenticated = slices.Contains([]string{tokenUser, tokenEditor, tokenNobody}, review.Spec.Token)
		review.Status.User.Username = review.Spec.Token
	case *authorizationv1.SubjectAccessReview:
		review.Status.Allowed = review.Spec.User == tokenUser ||
			(review.Spec.User == tokenEditor && review.Spec.ResourceAttributes != nil && review.Spec.ResourceAttributes.Verb != "share")
	}
	respond(w, http.StatusCreated, into)
}

func (c *mainCluster) createSecret(w http.ResponseWriter, r *http.Request) {
	secret := &corev1.Secret{}
	c.read(r, secret)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.secrets[secret.Name] != nil {
		refuse(w, apierrors.NewAlreadyExists(corev1.Resource("secrets"), secret.Name))
		return
	}
	secret.UID, secret.ResourceVersion = "1", "1"
	c.secrets[secret.Name] = secret
	respond(w, http.StatusCreated, secret)
}

func (c *mainCluster) getSecret(w http.ResponseWriter, name string) {
	if secret := c.secret(name); secret != nil {
		respond(w, http.StatusOK, secret)
		return
	}
	c.mu.Lock()
	c.misses[name]++
	c.mu.Unlock()
	refuse(w, apierrors.NewNotFound(corev1.Resource("secrets"), name))
}

// missed waits until a Secret that is not there has been asked for so many times.
func (c *mainCluster) missed(name string, times int) {
	c.t.Helper()
	if err := wait.PollUntilContextTimeout(c.t.Context(), 20*time.Millisecond, 60*time.Second, true, func(context.Context) (bool, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.misses[name] >= times, nil
	}); err != nil {
		c.t.Errorf("Secret %s was not asked for %d times: %v", name, times, err)
	}
}

func (c *mainCluster) addSecret(secret *corev1.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secrets[secret.Name] = secret
}

func (c *mainCluster) deleteSecret(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.secrets, name)
}

func (c *mainCluster) secret(name string) *corev1.Secret {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.secrets[name]
}

// list returns a list of whatever is asked for, empty if the test has brought nothing.
func (c *mainCluster) list(w http.ResponseWriter, path []string) {
	gvr := schema.GroupVersionResource{Version: path[1], Resource: path[len(path)-1]}
	if path[0] == "apis" && len(path) > 2 {
		gvr.Group, gvr.Version = path[1], path[2]
	}
	kind, err := c.mapper.KindFor(gvr)
	if err != nil || gvr.Resource == c.lacks {
		refuse(w, apierrors.NewNotFound(gvr.GroupResource(), ""))
		return
	}
	items, err := json.Marshal(append([]json.RawMessage{}, c.lists[kind.Kind]...))
	if err != nil {
		c.t.Error(err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"kind": "%sList", "apiVersion": %q, "metadata": {"resourceVersion": "1"}, "items": %s}`, kind.Kind, kind.GroupVersion().String(), items)
}

// read decodes a request's body: clients send protobuf and JSON.
func (c *mainCluster) read(r *http.Request, into runtime.Object) {
	data, err := io.ReadAll(r.Body)
	if err == nil {
		_, _, err = clientscheme.Codecs.UniversalDeserializer().Decode(data, nil, into)
	}
	if err != nil {
		c.t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
}

func respond(w http.ResponseWriter, code int, object runtime.Object) {
	data, err := runtime.Encode(clientscheme.Codecs.LegacyCodec(clientscheme.Scheme.PrioritizedVersionsAllGroups()...), object)
	if err != nil {
		code, data = http.StatusInternalServerError, []byte(err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(data)
}

func refuse(w http.ResponseWriter, status *apierrors.StatusError) {
	object := status.Status()
	object.Kind, object.APIVersion = "Status", "v1"
	data, _ := json.Marshal(&object)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(object.Code))
	_, _ = w.Write(data)
}
