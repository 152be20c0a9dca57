// Package registry runs a container registry for tests, on loopback, over TLS, that demands a name and a
// password. The registry is that of go-containerregistry, in memory.
package registry

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"arhat.dev/aranya/test/framework/containerd"
)

// Media types of what is pushed.
const (
	manifestType = "application/vnd.docker.distribution.manifest.v2+json"
	configType   = "application/vnd.docker.container.image.v1+json"
	layerType    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Registry is one that is being served.
type Registry struct {
	images http.Handler
	server *httptest.Server

	mu    sync.Mutex
	pulls map[string]int
}

// Start serves a registry on the listener, which it takes over, until the test ends.
func Start(t testing.TB, listener net.Listener, user, password string) *Registry {
	t.Helper()
	r := &Registry{images: registry.New(registry.Logger(log.New(io.Discard, "", 0))), pulls: map[string]int{}}
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		name, given, _ := req.BasicAuth()
		if subtle.ConstantTimeCompare([]byte(name+":"+given), []byte(user+":"+password)) == 0 {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			http.Error(w, "name and password, please", http.StatusUnauthorized)
			return
		}
		r.count(req.URL.Path)
		r.images.ServeHTTP(w, req)
	}))
	_ = r.server.Listener.Close()
	r.server.Listener = listener
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.server.StartTLS()
	t.Cleanup(r.server.Close)
	return r
}

// Host is the registry's part of an image's name.
func (r *Registry) Host() string { return r.server.Listener.Addr().String() }

// Trust makes the containerd that runs in dir trust the registry's certificate.
func (r *Registry) Trust(dir string) error {
	dir = filepath.Join(containerd.RegistryDir(dir), r.Host())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ca := filepath.Join(dir, "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o644); err != nil {
		return err
	}
	hosts := fmt.Sprintf("server = %[1]q\n[host.%[1]q]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = %[2]q\n", "https://"+r.Host(), ca)
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644)
}

// Pulls is how often manifests of a repository were asked for with the right password.
func (r *Registry) Pulls(repository string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pulls[repository]
}

func (r *Registry) count(path string) {
	if repository, _, ok := strings.Cut(strings.TrimPrefix(path, "/v2/"), "/manifests/"); ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.pulls[repository]++
	}
}

// Push adds an image under a name of this registry: "<repository>:<tag>".
func (r *Registry) Push(name string, image containerd.Image) error {
	repository, tag, _ := strings.Cut(name, ":")
	config, layer, err := image.Blobs()
	if err != nil {
		return err
	}
	var compressed bytes.Buffer
	zw := gzip.NewWriter(&compressed)
	if _, err := zw.Write(layer); err != nil {
		return err
	}
	if err := zw.Close(); err != nil {
		return err
	}
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Size      int    `json:"size"`
		Digest    string `json:"digest"`
	}
	var pushed []descriptor
	for _, blob := range []struct {
		mediaType string
		data      []byte
	}{{configType, config}, {layerType, compressed.Bytes()}} {
		sum := sha256.Sum256(blob.data)
		digest := "sha256:" + hex.EncodeToString(sum[:])
		if err := r.put(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+digest, "application/octet-stream", blob.data); err != nil {
			return err
		}
		pushed = append(pushed, descriptor{blob.mediaType, len(blob.data), digest})
	}
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": pushed[0], "layers": pushed[1:]})
	if err != nil {
		return err
	}
	return r.put(http.MethodPut, "/v2/"+repository+"/manifests/"+tag, manifestType, manifest)
}

// put asks the registry itself, past its guard and the network.
func (r *Registry) put(method, target, contentType string, data []byte) error {
	req := httptest.NewRequest(method, target, bytes.NewReader(data))
	req.Header.Set("Content-Type", contentType)
	answer := httptest.NewRecorder()
	r.images.ServeHTTP(answer, req)
	if answer.Code != http.StatusCreated {
		return fmt.Errorf("%s %s: %d %s", method, target, answer.Code, answer.Body)
	}
	return nil
}
